"""benchmark.json, benchmark.md and phonemes.png: written whole, and added to when parts are measured one by one."""

import json
import os
import platform
from pathlib import Path

import torch

import avatarsync
from avatarsync.errors import CheckpointError
from avatarsync.precision import has_fast_bfloat16

# Goals of two CPU cores, 25 frames a second and a portrait of 512 px.
GOAL_RATIO, GOAL_LATENCY, GOAL_MEMORY, GOAL_GROWTH, GOAL_R_SQUARED, GOAL_FASTER = 0.35, 0.4, 1000, 1.2, 0.99, 1000
HALLO_PHONEMES = 20  # at which the paper gives 2.4 times Hallo's speed


def machine(threads: int) -> dict[str, str]:
    """What the figures depend on."""
    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return {
        "processor": f"{model}, {os.cpu_count()} cores, {'with' if has_fast_bfloat16() else 'without'} bfloat16",
        "threads": str(threads),
        "versions": f"avatarsync {avatarsync.__version__}, torch {torch.__version__}",
    }


def write_whole(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(data)
    os.replace(partial, path)


def read_report(out: Path) -> dict:
    """What was measured before in this folder; {} if nothing was.

    Raises:
        CheckpointError: the file there is none of ours.
    """
    path = out / "benchmark.json"
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is no report of benchmark.py: give another --out") from error


def write_report(out: Path, report: dict) -> None:
    """Everything measured so far, into an existing folder."""
    write_whole(out / "benchmark.json", (json.dumps(report, indent=1) + "\n").encode())
    if "phonemes" in report:
        draw_phonemes(out / "phonemes.png", report)
    write_whole(out / "benchmark.md", (markdown(report) + "\n").encode())


def verdict(value: float, goal: float, at_most: bool = True) -> str:
    met = value <= goal if at_most else value >= goal
    return f"goal {'≤' if at_most else '≥'} {goal:g}: {'met' if met else 'missed'}"


def table(header: str, rows: list[str]) -> list[str]:
    return [header, "|" + "---|" * header.strip("|").count("|") + "---|", *rows, ""]


def markdown(report: dict) -> str:
    """The report as it is read."""
    lines = ["# Benchmark", "", "Ratios are times divided by the video's length: 1.0 is real time. *cpu* adds up all "
             "threads, *wall* is what one waits. All figures of one run on one machine.", ""]  # fmt: skip
    lines += [f"- {name}: {value}" for name, value in report["machine"].items()]
    lines += [f"- {name}: {report[name]}" for name in ("model", "image") if name in report]
    lines += [f"- portrait of {report['size']} px, {report['fps']} frames a second", ""]
    for part, section in SECTIONS.items():
        if part in report:
            lines += section(report[part], report)
    return "\n".join(lines).rstrip()


def total_section(found: dict, report: dict) -> list[str]:
    text = f"From a text to a finished mp4: **{found['ratio']:.3f}** of the video's {found['seconds_of_video']:.1f} s "
    return ["## Total", "", text + f"(cpu {found['cpu_ratio']:.3f}); {verdict(found['ratio'], GOAL_RATIO)}.", ""]


def stages_section(found: dict, report: dict) -> list[str]:
    seconds = found["seconds_of_video"]
    rows = [
        f"| {name} | {times['wall'] / seconds:.3f} | {times['cpu'] / seconds:.3f} |"
        for name, times in found["stages"].items()
    ]
    return ["## Stages, each alone", "", *table("| stage | wall | cpu |", rows)]


def phonemes_section(found: dict, report: dict) -> list[str]:
    rows = [
        f"| {row['phonemes']} | {row['seconds_of_video']:.1f} | {row['wall']:.2f} | {row['cpu']:.2f} |"
        for row in found["rows"]
    ]
    lines = ["## Time against phonemes (Figure 5)", "", "![time against phonemes](phonemes.png)", ""]
    lines += table("| phonemes | s of video | wall s | cpu s |", rows)
    for clock in ("wall", "cpu"):
        fit = found[clock]
        text = f"{clock}: {1000 * fit['slope']:.1f} ms a phoneme, R² {fit['r_squared']:.4f}"
        if "quadratic_share" in fit:
            text += f"; a quadratic term would be {fit['quadratic_share']:+.1%} ± {fit['quadratic_error']:.1%} of the "
            text += "longest time"
        lines += [f"- {text}; {verdict(fit['r_squared'], GOAL_R_SQUARED, at_most=False)}"]
    return [*lines, ""]


def memory_section(found: dict, report: dict) -> list[str]:
    rows = [
        f"| {seconds} s | {row['imports']:.0f} | {row['peak']:.0f} | {row['over_imports']:.0f} |"
        for seconds, row in found["megabytes"].items()
    ]
    most = max(row["over_imports"] for row in found["megabytes"].values())
    lines = ["## Peak memory", "", f"A process of its own for each length, {found['fps']} frames a second.", ""]
    lines += table("| text | MB after imports | MB at the peak | MB over the imports |", rows)
    lines += [f"- {verdict(most, GOAL_MEMORY)} MB over the imports"]
    peaks = [row["peak"] for row in found["megabytes"].values()]
    return [
        *lines,
        f"- the longest against the shortest, over the imports: {found['growth']:.2f}; "
        f"{verdict(found['growth'], GOAL_GROWTH)}; whole processes: {peaks[-1] / peaks[0]:.2f}",
        "",
    ]


def latency_section(found: dict, report: dict) -> list[str]:
    rows = [f"| {name} | {1000 * row['seconds']:.0f} |" for name, row in found.items()]
    lines = ["## First frame after the call for text", "", *table("| text | ms |", rows)]
    return [*lines, f"- one sentence, seconds: {verdict(found['one sentence']['seconds'], GOAL_LATENCY)}", ""]


def ratio_section(title: str, what: str):
    def section(found: dict, report: dict) -> list[str]:
        rows = [f"| {name} | {row['ratio']:.3f} | {row['cpu_ratio']:.3f} |" for name, row in found.items()]
        return [f"## {title}", "", *table(f"| {what} | wall | cpu |", rows)]

    return section


def pictures_section(found: dict, report: dict) -> list[str]:
    rows = [f"| {count} | {row['wall']:.2f} | {row['cpu']:.2f} |" for count, row in found.items()]
    return ["## A list of portraits", "", *table("| portraits | wall s each | cpu s each |", rows)]


def denoiser_section(found: dict, report: dict) -> list[str]:
    rows = []
    ours = report.get("total", {}).get("ratio")
    for name, row in found["systems"].items():
        faster = "" if ours is None else f"{row['ratio_extrapolated'] / ours:,.0f}"
        rows.append(
            f"| {name} | {row['steps']} × {row['guidance_passes']} | {row['seconds_per_frame_extrapolated']:.0f} | "
            f"{row['ratio_extrapolated']:,.0f} | {faster} |"
        )
    lines = ["## Beside it: the denoiser of diffusion systems, extrapolated", ""]
    lines += [
        f"The UNet of Stable Diffusion 1.5 ({found['parameters'] / 1e6:.0f} M random weights, diffusers' class, "
        f"float32): {found['seconds_per_pass']:.2f} s for one pass of one frame of 512 px, measured here. The rest is "
        "multiplication by each system's default steps, passes and frame rate; reference and audio networks, motion "
        "modules and the image decoder are left out in their favour.",
        "",
    ]
    lines += table("| system | passes a frame | s a frame | ratio to the video's length | times ours |", rows)
    if ours is not None:
        ratio = found["systems"]["Hallo"]["ratio_extrapolated"] / ours
        lines += [f"- Hallo's denoiser against all of AvatarSync: {verdict(ratio, GOAL_FASTER, at_most=False)}"]
    for row in report.get("phonemes", {}).get("rows", []):
        if row["phonemes"] == HALLO_PHONEMES:
            theirs = found["systems"]["Hallo"]["ratio_extrapolated"] * row["seconds_of_video"]
            text = f"- {HALLO_PHONEMES} phonemes: {row['wall']:.2f} s against {theirs:,.0f} s extrapolated, "
            lines += [text + f"{theirs / row['wall']:,.0f} times (the paper says 2.4, on a GPU)"]
    return [*lines, ""]


SECTIONS = {
    "total": total_section,
    "stages": stages_section,
    "latency": latency_section,
    "phonemes": phonemes_section,
    "memory": memory_section,
    "sizes": ratio_section("Portrait's size", "px"),
    "threads": ratio_section("Threads", "threads"),
    "precision": ratio_section("The painter's precision", "numbers"),
    "pictures": pictures_section,
    "denoiser": denoiser_section,
}


def draw_phonemes(path: Path, report: dict) -> None:
    """Time against phonemes with the straight line; the denoiser's line beside it, where it was measured."""
    from io import BytesIO

    from matplotlib.figure import Figure

    found, figure = report["phonemes"], Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    counts = [row["phonemes"] for row in found["rows"]]
    for clock, colour in (("wall", "C0"), ("cpu", "C1")):
        fit = found[clock]
        axes.plot(counts, [row[clock] for row in found["rows"]], "o", color=colour, label=f"AvatarSync, {clock}")
        line = [fit["intercept"] + fit["slope"] * count for count in counts]
        axes.plot(
            counts,
            line,
            color=colour,
            lw=1,
            label=f"{1000 * fit['slope']:.1f} ms a phoneme, R² {fit['r_squared']:.4f}",
        )
    if "denoiser" in report:
        ratio = report["denoiser"]["systems"]["Hallo"]["ratio_extrapolated"]
        theirs = [ratio * row["seconds_of_video"] for row in found["rows"]]
        axes.plot(counts, theirs, "--", color="0.5", label="Hallo's denoiser alone, extrapolated")
    axes.set(xlabel="phonemes", ylabel="s", xscale="log", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    buffer = BytesIO()
    figure.savefig(buffer, dpi=110, format="png")
    write_whole(path, buffer.getvalue())
