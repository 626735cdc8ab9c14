"""The table on screen and on disk: table.md, table.json, per_clip.csv, per_portrait.csv, curves.png."""

import csv
import json
from pathlib import Path

import numpy as np

from .clips import FPS, ClipResult
from .portraits import PortraitResult
from .table import Row

HEADER = ("measure", "value", "goal", "", "seen against", "cases")
NUM_PLOTTED = 6


def markdown_table(rows: list[Row]) -> str:
    lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    lines += ["| " + " | ".join(row.cells) + " |" for row in rows]
    return "\n".join(lines)


def screen_table(rows: list[Row]) -> str:
    cells = [HEADER, *(row.cells for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADER))]
    aligned = ("<", ">", ">", "<", "<", ">")
    return "\n".join(
        "  ".join(f"{text:{side}{width}}" for text, side, width in zip(row, aligned, widths, strict=True)).rstrip()
        for row in cells
    )


def write_report(
    out: Path,
    rows: list[Row],
    protocol: dict[str, str],
    remarks: list[str],
    clips: list[ClipResult],
    portraits: list[PortraitResult],
) -> None:
    """Write everything but the screen's table into the folder `out`, which exists.

    Args:
        protocol: how it was measured, by keyword.
        remarks: what was left out or not measured, and why.
    """
    text = ["# Evaluation", "", markdown_table(rows), ""]
    text += [f"- {remark}" for remark in remarks]
    text += ["", "## Protocol", ""] + [f"- **{name}**: {value}" for name, value in protocol.items()]
    (out / "table.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    table = {"rows": [row.to_dict() for row in rows], "protocol": protocol, "remarks": remarks}
    (out / "table.json").write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if clips:
        _write_csv(out / "per_clip.csv", [{"name": clip.name, **clip.figures, **_closures(clip)} for clip in clips])
        plot_curves(out / "curves.png", clips)
    if portraits:
        _write_csv(
            out / "per_portrait.csv",
            [
                {
                    "name": one.name,
                    "toothy": int(one.toothy),
                    "opening": one.opening,
                    "changed_outside": one.changed_outside,
                    "worst_bilabial": _most(one.closures.bilabials),
                    "worst_silence": _most(one.closures.silences),
                    "flicker_still": _most(one.flicker_still.still_mouth),
                }
                for one in portraits
            ],
        )


def _most(values: np.ndarray) -> float:
    return float(np.max(values)) if len(values) else float("nan")


def _closures(clip: ClipResult) -> dict[str, float]:
    return {
        "worst_bilabial": _most(clip.generated.bilabials),
        "worst_silence": _most(clip.generated.silences),
        "real_worst_bilabial": _most(clip.real.bilabials),
        "real_worst_silence": _most(clip.real.silences),
        "flicker_still": _most(clip.flicker_still.still_mouth),
    }


def _write_csv(path: Path, rows: list[dict]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({key: f"{value:.4f}" if isinstance(value, float) else value for key, value in row.items()})


def plot_curves(path: Path, clips: list[ClipResult]) -> None:
    """Generated over real opening and width of six clips, from the worst correlation of the opening to the best."""
    from matplotlib.figure import Figure

    ranked = sorted(clips, key=lambda clip: np.nan_to_num(clip.figures["opening_r"]))
    chosen = np.unique(np.linspace(0, len(ranked) - 1, min(NUM_PLOTTED, len(ranked))).round().astype(int))
    figure = Figure(figsize=(14, 2.4 * len(chosen)), layout="constrained")
    for axes, index in zip(figure.subplots(len(chosen), 2, squeeze=False), chosen, strict=True):
        clip = ranked[index]
        for axis, measure, name in zip(axes, ("opening", "width"), ("lip opening", "mouth width"), strict=True):
            for kind, colour in (("real", "0.55"), ("generated", "C3")):
                curve = clip.curves[f"{kind}_{measure}"]
                axis.plot(np.arange(len(curve)) / FPS, curve, color=colour, label=kind)
            r, lag = clip.figures[f"{measure}_r"], clip.figures[f"{measure}_lag"]
            axis.set_title(f"{clip.name}: {name}, r {r:.2f}, lag {lag:+.0f}", fontsize=9)
            axis.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=8)
    for axis in figure.axes[-2:]:
        axis.set_xlabel("s")
    figure.supylabel("eye distances", fontsize=9)
    figure.savefig(path, dpi=110)
