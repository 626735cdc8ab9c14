"""The tables of finished runs, ours and, apart and labelled, the paper's."""

import json
from pathlib import Path

import numpy as np

from . import paper
from .runs import RESULT
from .studies import STUDIES, Study

DECIMALS = {"PSNR": 2, "mouth PSNR over copying": 2, "Fréchet distance": 4, "Fréchet video distance": 4}


def results_of(study: Study, out: Path) -> dict[str, list[dict]]:
    """Finished runs of each variant, in the study's order; variants without one are left out."""
    found = {}
    for variant in study.variants:
        files = sorted((out / study.name / variant.name).glob(f"seed-*/{RESULT}"))
        if files:
            found[variant.name] = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return found


def cell(values: list[float], decimals: int) -> str:
    """Mean ± standard deviation over seeds; a single seed has none."""
    mean = f"{np.mean(values):.{decimals}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{decimals}f}"


def our_table(study: Study, results: dict[str, list[dict]]) -> list[str]:
    columns = [
        name for name in study.columns if any(name in run["figures"] for runs in results.values() for run in runs)
    ]
    lines = ["| " + " | ".join(("variant", "seeds", *columns)) + " |", "|" + "---|" * (len(columns) + 2)]
    for variant in study.variants:
        runs = results.get(variant.name, [])
        if not runs:
            continue
        cells = [variant.label, str(len(runs))]
        for name in columns:
            values = [run["figures"][name] for run in runs if name in run["figures"]]
            cells.append(cell(values, DECIMALS.get(name, 3)) if values else "")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def paper_table(rows: tuple[tuple[str, ...], ...]) -> list[str]:
    header, *others = ("| " + " | ".join(row) + " |" for row in rows)
    return [header, "|" + "---|" * len(rows[0]), *others]


def markdown(out: Path) -> str:
    """All studies of which something is finished."""
    lines = []
    for study in STUDIES.values():
        results = results_of(study, out)
        if not results:
            continue
        first = next(iter(results.values()))[0]
        settings = first["settings"] | {
            name: " ".join(sizes) for name, sizes in first["settings"].get("sizes", {}).items() if sizes
        }
        budget = ", ".join(f"{name} {value}" for name, value in settings.items() if name != "sizes")
        lines += [f"## {study.title}", "", f"Ours, held-out clips; {budget}.", ""]
        lines += [*our_table(study, results), ""]
        missing = [variant.label for variant in study.variants if variant.name not in results]
        if missing:
            lines += [f"Not run: {', '.join(missing)}.", ""]
        if study.name in paper.TABLES:
            title, rows = paper.TABLES[study.name]
            lines += [f"*{title}: other data and networks, not to be compared with ours figure by figure.*", ""]
            lines += [*paper_table(rows), ""]
    return "\n".join(lines).rstrip() + "\n"
