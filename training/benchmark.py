"""How fast the whole system is, and what else a user would have waited for.

    python training/benchmark.py --out OUT                         # everything
    python training/benchmark.py --out OUT --parts total latency   # some of it; OUT keeps what was measured before

Parts: `total` from a text to a finished mp4, as a ratio to the video's length; `stages` one by one; `latency` of the
first frame of `stream()`; `phonemes`, time against their number with a straight line through it (Figure 5); `memory`
over the imports, by length; `sizes` of the portrait; `threads`; `precision` of the painter; `pictures`, a list of
portraits; `denoiser`, one pass of the UNet that Hallo, EchoMimic and V-Express denoise with, extrapolated to theirs.

Writes OUT/benchmark.json, benchmark.md and phonemes.png. Figures of one run on one machine; compare only those.
"""

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path

import torch
from benchmarking.denoiser import denoiser
from benchmarking.ours import (
    PHONEMES,
    SIZES,
    latency,
    memory,
    phonemes,
    pictures,
    precision,
    sizes,
    stages,
    threads,
    total,
)
from benchmarking.report import machine, markdown, read_report, write_report
from benchmarking.setting import Setting, peak_megabytes, portrait, say, write_video

from avatarsync import AvatarSyncPipeline
from avatarsync.adapters import base_digest
from avatarsync.errors import AvatarSyncError, InvalidArgumentError, OutputError
from avatarsync.schedule import parse_frame_rate

PARTS = {
    "total": lambda setting, args: total(setting),
    "stages": lambda setting, args: stages(setting),
    "latency": lambda setting, args: latency(setting),
    "phonemes": lambda setting, args: phonemes(setting, tuple(n for n in PHONEMES if n <= args.most_phonemes)),
    "memory": lambda setting, args: memory(setting, args.model, args.image),
    "sizes": lambda setting, args: sizes(setting, SIZES, args.image),
    "threads": lambda setting, args: threads(setting),
    "precision": lambda setting, args: precision(setting),
    "pictures": lambda setting, args: pictures(setting),
    "denoiser": lambda setting, args: denoiser(setting),
}


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="folder of the report")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure")
    parser.add_argument("--model", help="folder or Hub id of a model (default: the bundled one)")
    parser.add_argument("--image", type=Path, help="portrait (default: scikit-image's astronaut, face enlarged)")
    parser.add_argument("--size", type=int, default=512, help="side of the portrait in pixels")
    parser.add_argument("--fps", default="25")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3, help="of which the median counts")
    parser.add_argument("--most_phonemes", type=int, default=max(PHONEMES))
    parser.add_argument("--memory_of", type=float, metavar="SECONDS", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    for name in ("threads", "runs"):
        if getattr(args, name) < 1:
            raise InvalidArgumentError(f"--{name} {getattr(args, name)}: give at least 1")
    if args.most_phonemes < PHONEMES[1]:
        raise InvalidArgumentError(f"--most_phonemes {args.most_phonemes}: give at least {PHONEMES[1]}")
    if args.out is None and args.memory_of is None:
        raise InvalidArgumentError("--out is missing: give a folder for the report")
    if args.image is not None and not args.image.is_file():
        raise InvalidArgumentError(f"--image {args.image} is no file: give a picture")
    parse_frame_rate(args.fps)
    return args


def memory_of(args: argparse.Namespace) -> dict[str, float]:
    """Megabytes of this process, which has only imported so far, when it has spoken for so many seconds."""
    imports = peak_megabytes()
    talk = AvatarSyncPipeline.from_pretrained(args.model)
    speech = say(talk, args.memory_of)
    write_video(talk.stream(portrait(args.size, args.image), speech=speech, fps=args.fps))
    peak = peak_megabytes()
    return {"imports": imports, "peak": peak, "over_imports": peak - imports}


def benchmark(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    if args.memory_of is not None:
        print(json.dumps(memory_of(args)))
        return
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{args.out} cannot be written ({error}): give another folder") from error
    talk = AvatarSyncPipeline.from_pretrained(args.model)
    frame = {"machine": machine(args.threads), "size": args.size, "fps": args.fps}
    # By what they hold: a folder may have been trained on, a picture be another of the same name.
    frame["model"] = f"{Path(args.model).name if args.model else 'bundled'} ({base_digest(talk.model)})"
    frame["image"] = "astronaut"
    if args.image is not None:
        frame["image"] = f"{args.image.name} ({hashlib.sha256(args.image.read_bytes()).hexdigest()[:16]})"
    report = read_report(args.out)
    differing = [name for name in frame if name in report and report[name] != frame[name]]
    if differing:
        raise InvalidArgumentError(
            f"{args.out} holds figures of another {' and '.join(differing)}: give another --out"
        )
    report |= frame
    setting = Setting(talk, portrait(args.size, args.image), args.size, args.fps, args.runs, args.threads)
    for part in args.parts:
        begun = time.perf_counter()
        report[part] = PARTS[part](setting, args)
        write_report(args.out, report)
        print(f"{part}: measured in {time.perf_counter() - begun:.0f} s", flush=True)
    print(markdown(report))


def main(arguments: list[str] | None = None) -> None:
    try:
        benchmark(parse_arguments(arguments))
    except AvatarSyncError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
