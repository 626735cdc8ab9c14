"""Measure a model on held-out videos and portraits, and hold every figure against its goal.

    python training/evaluate.py --videos DIR --portraits DIR DIR --landmarker face_landmarker.task \\
        --lpips lpips_sq.onnx --out OUT [--data DIR] [--model FOLDER] [--limit N] [--workers 2]

Of the videos, transcripts beside them, the last 40 by name; of the portraits, every 25th by name: what the training
scripts keep out of training. Each clip's first frame says the clip's own sound, 25 frames a second, seed 0; landmarks
are found on generated and on real frames alike. Each portrait says one sentence full of closures and pauses. With
--data the visual tokenizer is measured alone as well.

Prints the table and writes OUT/table.md (with the protocol), table.json, per_clip.csv, per_portrait.csv, curves.png.
The formulas are those of `avatarsync.metrics`. Exit status 2 on bad input.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from evaluation import tokenizer
from evaluation.clips import measure_clip, read_text
from evaluation.identity import open_identity
from evaluation.landmarks import describe_landmarker
from evaluation.lpips import Lpips, check_lpips
from evaluation.portraits import SENTENCE, held_out_portraits, measure_portrait
from evaluation.protocol import describe
from evaluation.report import screen_table, write_report
from evaluation.table import SAME_SPEAKER, UNSEEN_SPEAKERS, Row, clip_rows, portrait_rows, tokenizer_rows
from landmarkers import BUNDLED, open_landmarker
from layouts import VIDEO_SUFFIXES
from tqdm import tqdm

from avatarsync import AvatarSyncPipeline
from avatarsync.errors import AvatarSyncError, DatasetError, InvalidArgumentError, OutputError


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--model", help="folder or Hub id of a model (default: the bundled one)")
    add("--videos", type=Path, help="folder of videos with .align, .TextGrid or .txt transcripts beside them")
    add("--last", type=int, default=40, help="how many of the videos, the last by name")
    add("--unseen_speakers", action="store_true", help="hold the videos against the goals for unseen speakers")
    add("--voice_alone", action="store_true", help="do not tell the pipeline what is said in the videos")
    add("--portraits", type=Path, nargs="*", default=[], help="folders of portraits")
    add("--every", type=int, default=25, help="every n-th portrait by name")
    add("--data", type=Path, help="dataset of prepare_data.py, whose held-out part measures the tokenizer alone")
    add("--landmarker", default=BUNDLED, help=f"MediaPipe's face_landmarker.task, or {BUNDLED} for a quick look")
    add("--identity", default="dlib", help="face embedding, see avatarsync.identity.load_face_embedding")
    add("--lpips", help="LPIPS as ONNX, with inputs ref and dist")
    add("--out", type=Path, required=True, help="folder for table, figures of each clip, and plots")
    add("--limit", type=int, help="a quick look: at most so many clips, and so many portraits")
    add("--workers", type=int, default=1, help="processes, one thread each")
    return parser.parse_args(arguments)


def check_arguments(args: argparse.Namespace) -> tuple[list[Path], list[Path]]:
    """The clips and portraits to measure; everything that can be wrong is found before the first is generated."""
    for name in ("last", "every", "limit", "workers"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InvalidArgumentError(f"--{name} is {value}: give 1 or more")
    if not (args.videos or args.portraits or args.data):
        raise InvalidArgumentError("nothing to measure: give --videos, --portraits or --data")
    for folder in [args.videos, *args.portraits, args.data]:
        if folder is not None and not folder.is_dir():
            raise DatasetError(f"{folder} is not a folder: give one with held-out material")
    if args.landmarker != BUNDLED and not Path(args.landmarker).is_file():
        raise InvalidArgumentError(
            f"there is no file {args.landmarker}: give MediaPipe's face_landmarker.task, or --landmarker {BUNDLED}"
        )
    if args.lpips:
        check_lpips(args.lpips)
    clips, portraits = [], []
    if args.videos:
        clips = sorted(path for path in args.videos.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES)[-args.last :]
        if not clips:
            raise DatasetError(f"{args.videos} holds no videos ({', '.join(sorted(VIDEO_SUFFIXES))})")
        for path in clips:
            read_text(path)
    if args.portraits:
        portraits = held_out_portraits(args.portraits, args.every)
        if not portraits:
            raise DatasetError("the folders of --portraits hold no pictures")
    if args.data:
        tokenizer.held_out_rows(args.data)
    if args.out.exists() and not args.out.is_dir():
        raise OutputError(f"{args.out} is a file: give a folder")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{args.out} cannot be written ({error}): give another folder") from error
    return clips[: args.limit], portraits[: args.limit]


class Measure:
    """What measures one file; each process has its own."""

    current: "Measure"

    def __init__(self, args: argparse.Namespace):
        torch.set_num_threads(1)
        self.talk = AvatarSyncPipeline.from_pretrained(args.model)
        self.landmarker = open_landmarker(args.landmarker)
        self.lpips = Lpips(args.lpips) if args.lpips else None
        self.identity = open_identity(args.identity)
        self.speech = self.talk.speak(SENTENCE)
        self.voice_alone = args.voice_alone

    def clip(self, path: Path):
        return measure_clip(path, self.talk, self.landmarker, self.lpips, self.identity, self.voice_alone)

    def portrait(self, path: Path):
        return measure_portrait(path, self.talk, self.speech, self.landmarker)


def start_process(args: argparse.Namespace) -> None:
    Measure.current = Measure(args)


def measure_one(job: tuple[str, Path]):
    """A result, or why there is none."""
    kind, path = job
    try:
        return getattr(Measure.current, kind)(path)
    except AvatarSyncError as error:
        return f"{path.name}: {error}"


def measure_all(kind: str, paths: list[Path], run: Callable) -> tuple[list, list[str]]:
    """Results of `paths`, and what was left out and why."""
    jobs = [(kind, path) for path in paths]
    results = list(tqdm(run(measure_one, jobs), total=len(jobs), desc=f"{kind}s", disable=None))
    left_out = [f"left out: {result}" for result in results if isinstance(result, str)]
    measured = [result for result in results if not isinstance(result, str)]
    if paths and not measured:
        raise DatasetError(f"none of the {len(paths)} {kind}s could be measured; the first {left_out[0]}")
    return measured, left_out


def measure_tokenizer(args: argparse.Namespace, talk: AvatarSyncPipeline) -> list[Row]:
    clips, portraits = tokenizer.held_out_rows(args.data)
    limit = args.limit or max(len(clips), len(portraits))
    model = talk.model.visual_tokenizer
    cases = tokenizer.speaker_cases(clips, limit), tokenizer.portrait_cases(portraits, clips, model.transfer, limit)
    speaker, unseen = (
        tokenizer.reconstruction_gains(model, tqdm(part, desc=f"tokenizer, {kind}", disable=None))
        for part, kind in zip(cases, ("clips", "portraits"), strict=True)
    )
    return [
        *tokenizer_rows("held-out clips", speaker, SAME_SPEAKER.tokenizer_gain),
        *tokenizer_rows("unseen faces", unseen, UNSEEN_SPEAKERS.tokenizer_gain),
    ]


def evaluate(args: argparse.Namespace) -> list[Row]:
    clip_paths, portrait_paths = check_arguments(args)
    start_process(args)
    measure = Measure.current
    if args.workers > 1:
        with multiprocessing.get_context("spawn").Pool(args.workers, start_process, (args,)) as pool:
            clips, clips_left_out = measure_all("clip", clip_paths, pool.imap)
            portraits, portraits_left_out = measure_all("portrait", portrait_paths, pool.imap)
    else:
        clips, clips_left_out = measure_all("clip", clip_paths, map)
        portraits, portraits_left_out = measure_all("portrait", portrait_paths, map)
    rows = []
    if clips:
        rows += clip_rows(clips, UNSEEN_SPEAKERS if args.unseen_speakers else SAME_SPEAKER)
    if portraits:
        rows += portrait_rows(portraits)
    if args.data:
        rows += measure_tokenizer(args, measure.talk)
    remarks = clips_left_out + portraits_left_out
    if clips and not args.lpips:
        remarks.append("LPIPS not measured: give --lpips")
    if clips and measure.identity is None:
        remarks.append("identity not measured: pip install face-recognition-models, or give --identity")
    if args.landmarker == BUNDLED and (clips or portraits):
        remarks.append("landmarks by the model's own face aligner: a quick look, no figures to report")
    if args.limit:
        remarks.append(f"a quick look: --limit {args.limit}")
    networks = {
        "landmarks": describe_landmarker(measure.landmarker),
        "LPIPS": measure.lpips.name if measure.lpips else "not measured",
        "identity": measure.identity.name if measure.identity else "not measured",
    }
    protocol = describe(args, measure.talk, networks, len(clips), len(portraits))
    write_report(args.out, rows, protocol, remarks, clips, portraits)
    print(screen_table(rows))
    for line in [*remarks, *(f"{name}: {value}" for name, value in protocol.items())]:
        print(line)
    return rows


def main(arguments: list[str] | None = None) -> None:
    try:
        evaluate(parse_arguments(arguments))
    except AvatarSyncError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
