"""The report: a table on screen, table.csv, per_clip.csv, table.json, README.md as a card, lips.png."""

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import MissingDependencyError
from ..sync import FPS
from .figures import Figure
from .material import REAL

PLOT = "lips.png"
NUM_PLOTTED = 6


@dataclass
class Report:
    """What was measured.

    Attributes:
        rows: the figures of the table, in its order.
        figures: values by system and key; the real video's, under "real", are few.
        per_clip: for each clip and system its name, "frames", and values by key.
        curves: by clip and system, the real video's among them, the lips' opening `(T,)` in eye distances.
        remarks: what was left out, and why.
        protocol: how it was measured, by keyword.
    """

    rows: list[Figure]
    figures: dict[str, dict[str, float]]
    per_clip: list[dict]
    curves: dict[str, dict[str, np.ndarray]]
    remarks: list[str]
    protocol: dict[str, str]

    @property
    def cells(self) -> list[list[str]]:
        """The table as text, its head first; figures that nothing has are left out."""
        head = ["", "better", *self.figures]
        rows = [
            [row.label, row.better, *(row.show(values.get(row.key)) for values in self.figures.values())]
            for row in self.rows
        ]
        return [head, *(row for row in rows if any(row[2:]))]

    def __str__(self) -> str:
        cells = self.cells
        widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
        lines = []
        for row in cells:
            texts = [
                f"{text:{'<' if i < 2 else '>'}{width}}"
                for i, (text, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(texts).rstrip())
        return "\n".join([*lines, *self.remarks])


def write_report(folder: Path, report: Report, plots: bool) -> None:
    """Write the report into `folder`."""
    with open(folder / "table.csv", "w", newline="", encoding="utf-8") as file:
        systems = list(report.figures)
        writer = csv.writer(file)
        writer.writerow(["figure", "better", *systems])
        for row in report.rows:
            writer.writerow([row.label, row.better, *(report.figures[name].get(row.key, "") for name in systems)])
    with open(folder / "per_clip.csv", "w", newline="", encoding="utf-8") as file:
        names = dict.fromkeys(name for row in report.per_clip for name in row)
        writer = csv.DictWriter(file, list(names), restval="")
        writer.writeheader()
        writer.writerows(report.per_clip)
    content = {
        "figures": report.figures,
        "per_clip": report.per_clip,
        "remarks": report.remarks,
        "protocol": report.protocol,
    }
    text = json.dumps(_finite(content), indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "table.json").write_text(text + "\n", encoding="utf-8")
    if plots:
        plot_openings(folder / PLOT, report)
    (folder / "README.md").write_text(_card(report, plots), encoding="utf-8")


def _finite(content):
    """What JSON has no numbers for, as the PSNR of equal frames, becomes a string."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_finite(value) for value in content]
    return str(content) if isinstance(content, float) and not math.isfinite(content) else content


def _card(report: Report, plots: bool) -> str:
    head, *rows = report.cells
    lines = ["# Evaluation", "", "| " + " | ".join(head) + " |", "|---|---|" + "---:|" * (len(head) - 2)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    if plots:
        lines += ["", f"![The opening of the lips, generated over real]({PLOT})"]
    if report.remarks:
        lines += ["", "## Remarks", "", *(f"- {remark}" for remark in report.remarks)]
    lines += ["", "## Protocol", "", *(f"- **{name}**: {value}" for name, value in report.protocol.items())]
    return "\n".join(lines) + "\n"


def check_plots() -> None:
    """Raises MissingDependencyError where matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            'plots need matplotlib: pip install "avatarsync[eval]", or leave out --plots'
        ) from error


def plot_openings(path: Path, report: Report) -> None:
    """Lip opening of every system over the real one's, of six clips from the worst correlation of the first system to
    the best."""
    from matplotlib.figure import Figure as Drawing

    first = next(iter(report.figures))
    r = {row["clip"]: row["opening_r"] for row in report.per_clip if row["system"] == first}
    ranked = sorted(report.curves, key=r.get)
    chosen = np.unique(np.linspace(0, len(ranked) - 1, min(NUM_PLOTTED, len(ranked))).round().astype(int))
    drawing = Drawing(figsize=(10, 2.2 * len(chosen) + 0.4), layout="constrained")
    for axis, index in zip(drawing.subplots(len(chosen), 1, squeeze=False)[:, 0], chosen, strict=True):
        clip = ranked[index]
        curves = report.curves[clip]
        axis.plot(np.arange(len(curves[REAL])) / FPS, curves[REAL], color="0.55", linewidth=2.5, label=REAL)
        for number, name in enumerate(name for name in report.figures if name != REAL):
            axis.plot(np.arange(len(curves[name])) / FPS, curves[name], color=f"C{number}", label=name)
        axis.set_title(f"{clip}: {first}'s r {r[clip]:.2f}", fontsize=9)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    drawing.axes[0].legend(fontsize=8, ncols=4)
    drawing.axes[-1].set_xlabel("s")
    drawing.supylabel("lip opening, eye distances", fontsize=9)
    drawing.savefig(path, dpi=110)
