"""What prepare_data.py kept and left out, on screen, as report.md and as report.json."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from avatarsync.phonemes.types import write_whole

NAMES_ON_SCREEN = 5

Records = dict[str, dict[str, dict]]  # kind → id of the source → its record


def summarise(records: Records, duplicates: dict[str, list[dict]], names: int = NAMES_ON_SCREEN) -> str:
    """Counts, reasons with the first `names` of the left out, sync, and word edges, as lines of Markdown."""
    lines = []
    for kind in records:
        kept = [entry for record in records[kind].values() for entry in record["kept"]]
        left_out = [entry for record in records[kind].values() for entry in record["left_out"]] + duplicates[kind]
        if not kept and not left_out:
            continue
        frames = sum(entry["frames"] for entry in kept)
        lines.append(f"{kind}: {len(kept)} kept ({frames} frames), {len(left_out)} left out")
        reasons: dict[str, list[dict]] = defaultdict(list)
        for entry in left_out:
            reasons[entry["reason"]].append(entry)
        for reason, entries in sorted(reasons.items()):
            lines.append(f"- {reason}: {len(entries)}")
            entries.sort(key=lambda entry: entry["id"])
            lines += [f"  - {entry['id']}: {entry['detail']}" for entry in entries[:names]]
            if len(entries) > names:
                lines.append(f"  - … {len(entries) - names} more in report.md")
    lines += _sync_lines(records) + _word_lines(records)
    return "\n".join(lines)


def _sync_lines(records: Records) -> list[str]:
    kept = [entry for record in records["clips"].values() for entry in record["kept"]]
    if not kept:
        return []
    lags = np.array([entry["lag"] for entry in kept])
    clear = np.array([entry["clear"] for entry in kept])
    counts = ", ".join(f"{lag:+d}: {count}" for lag, count in zip(*np.unique(lags, return_counts=True), strict=True))
    mean = np.mean([entry["correlation"] for entry in kept])
    return [
        f"frames by which the picture is late, of the clips kept: {counts}; mean r {mean:.2f}",
        f"too weak or ambiguous to tell, kept: {int((~clear).sum())}",
    ]


def _word_lines(records: Records) -> list[str]:
    lines = []
    for edge in ("starts", "ends"):
        seconds = [value for record in records["clips"].values() for value in record[f"word_{edge}"]]
        if seconds:
            milliseconds = np.array(seconds) * 1000
            distance = np.abs(milliseconds)
            lines.append(
                f"word {edge} against the transcripts' times: {len(seconds)}, "
                f"median {np.median(milliseconds):+.0f} ms, "
                f"mean distance {distance.mean():.0f} ms, 95 % within {np.percentile(distance, 95):.0f} ms"
            )
    return lines


def write_report(out: Path, settings: dict, records: Records, duplicates: dict[str, list[dict]], summary: str) -> None:
    """Write report.md, with all names, and report.json, from which a later run learns what is done.

    Raises:
        OutputError: they cannot be written.
    """
    rows = "\n".join(f"| {name} | {value} |" for name, value in settings.items())
    everything = summarise(records, duplicates, names=10**9)
    text = f"# Dataset\n\n{everything}\n\n## Settings\n\n| setting | value |\n|---|---|\n{rows}\n"
    content = json.dumps(
        {"settings": settings, "summary": summary.split("\n"), "duplicates": duplicates, "sources": records},
        ensure_ascii=False,
    )
    write_whole(out / "report.md", lambda name: Path(name).write_text(text, encoding="utf-8"))
    write_whole(out / "report.json", lambda name: Path(name).write_text(content + "\n", encoding="utf-8"))
