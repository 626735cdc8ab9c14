"""The checkpoint folders of a run: which are whole, and which a resumed run makes again."""

import re
from pathlib import Path

from avatarsync.errors import OutputError

NAME = re.compile(r"checkpoint-(\d+)")


def complete_checkpoints(out: Path) -> list[Path]:
    """OUT's checkpoints, oldest first; those cut off while they were written are not among them."""
    found = (path for path in (out / "checkpoints").glob("checkpoint-*") if path.is_dir())
    return sorted((path for path in found if NAME.fullmatch(path.name)), key=step_of)


def step_of(checkpoint: Path) -> int:
    return int(NAME.fullmatch(checkpoint.name)[1])


def set_aside(out: Path, step: int, resumed: Path) -> list[str]:
    """Rename OUT's checkpoints of the steps that are made again: --keep and `latest` would take them for the newest.

    Args:
        step: where the run goes on.
        resumed: the checkpoint it goes on from, which stays.

    Returns:
        What became of each, to be told.

    Raises:
        OutputError: one cannot be renamed.
    """
    told = []
    for old in complete_checkpoints(out):
        if step_of(old) < step or old.resolve() == resumed.resolve():
            continue
        number = 1
        while (aside := old.with_name(f"superseded-{number}-{old.name}")).exists():
            number += 1
        try:
            old.rename(aside)
        except OSError as error:
            raise OutputError(f"{old} cannot be renamed ({error}): remove it, or give another --out") from error
        told.append(f"{old.name} will be made again; the old one is kept as {aside.name}")
    return told
