"""Folders that scripts write: refused before the work where they cannot be written, and whole or not at all."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from avatarsync.errors import AvatarSyncError, OutputError


def check_writable(folder: Path, option: str) -> None:
    """Make sure that files can be written into `folder`, which need not be there yet.

    Raises:
        OutputError: they cannot.
    """
    place = folder.absolute()
    while not os.path.lexists(place):
        place = place.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".avatarsync-", dir=place):
            pass
    except OSError as error:
        raise OutputError(
            f"{option} {folder} cannot be written ({place}: {error.strerror or error}): give a folder that can be"
        ) from error


def check_new(folder: Path, option: str) -> None:
    """Make sure that `folder` is not there yet, and can be written.

    Raises:
        OutputError: it is there, or cannot be.
    """
    if os.path.lexists(folder):
        raise OutputError(f"{folder} exists: give a new {option}, or remove it")
    check_writable(folder, option)


@contextmanager
def whole_folder(folder: Path, replace: bool = False) -> Iterator[Path]:
    """A hidden folder beside `folder`, which takes its name if the block ends well and is removed if it does not.

    Args:
        replace: a folder that is there is replaced; what the new one lacks is kept.

    Raises:
        OutputError: it cannot be written, or is there.
    """
    target, made = folder.resolve(), uuid.uuid4().hex[:8]
    partial = target.with_name(f".{target.name}.{made}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        if replace and target.exists():
            _replace(target, partial, target.with_name(f".{target.name}.{made}.replaced"))
        else:
            partial.rename(target)
    except (OSError, SafetensorError) as error:
        if isinstance(error, AvatarSyncError):
            raise
        raise OutputError(f"{folder} cannot be written ({error}): make room, or give another folder") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(target: Path, new: Path, old: Path) -> None:
    target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        old.rename(target)
        raise
    for path in old.iterdir():
        if not (target / path.name).exists():
            path.rename(target / path.name)
    shutil.rmtree(old)
