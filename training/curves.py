"""The figures of a run: one JSON line each time, and a picture of all curves."""

import json
import os
from pathlib import Path

from avatarsync.errors import CheckpointError, OutputError

COLUMNS = 4


class History:
    """OUT/history.jsonl, one {"step": …, name: value, …} a line, and OUT/curves.png."""

    def __init__(self, out: Path, writes: bool):
        self.path, self.picture, self.writes = out / "history.jsonl", out / "curves.png", writes
        self.loader_rate: float | None = None
        self.entries: list[dict] = []

    def truncate(self, step: int) -> None:
        """Forget what came after `step`: a resumed run makes it again.

        Raises:
            CheckpointError: the file is damaged.
        """
        if not self.path.exists():
            return
        self.entries = [entry for entry in self._read() if entry["step"] <= step] if step else []
        if self.writes:
            partial = self.path.with_suffix(".partial")
            partial.write_text("".join(json.dumps(entry) + "\n" for entry in self.entries))
            os.replace(partial, self.path)

    def _read(self) -> list[dict]:
        lines = self.path.read_text(errors="replace").splitlines()
        entries = []
        for number, line in enumerate(lines, start=1):
            try:
                entries.append(json.loads(line))
            except ValueError as error:
                if number < len(lines):
                    raise CheckpointError(f"{self.path}, line {number}, is no JSON: remove it, or the file") from error
                # The last one was cut off by a full disk, or as the process was killed.
        return entries

    def add(self, step: int, figures: dict[str, float]) -> None:
        """Append a line.

        Raises:
            OutputError: it cannot be written.
        """
        entry = {"step": step} | figures
        self.entries.append(entry)
        if self.writes:
            try:
                with self.path.open("a") as file:
                    file.write(json.dumps(entry) + "\n")
            except OSError as error:
                raise OutputError(
                    f"{self.path} cannot be written ({error.strerror or error}): make room, then --resume latest"
                ) from error

    def last(self, name: str) -> float | None:
        """The newest value of a figure."""
        return next((entry[name] for entry in reversed(self.entries) if name in entry), None)

    def draw(self) -> None:
        """Write curves.png: a panel a figure, held-out metrics after the losses."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        names = {name for entry in self.entries for name in entry} - {"step"}
        names = sorted(names, key=lambda name: (name.startswith("held_out/"), name))
        if not names:
            return
        rows = -(-len(names) // COLUMNS)
        figure, panels = pyplot.subplots(rows, COLUMNS, figsize=(4 * COLUMNS, 2.6 * rows), squeeze=False)
        for panel in panels.flat[len(names) :]:
            panel.set_axis_off()
        for name, panel in zip(names, panels.flat, strict=False):
            points = [(entry["step"], entry[name]) for entry in self.entries if name in entry]
            panel.plot(*zip(*points, strict=True), marker="." if len(points) < 30 else None)
            panel.set_title(name, fontsize=9)
            panel.tick_params(labelsize=7)
        figure.tight_layout()
        partial = self.picture.with_name(".curves.partial.png")
        figure.savefig(partial, dpi=80)
        pyplot.close(figure)
        os.replace(partial, self.picture)
