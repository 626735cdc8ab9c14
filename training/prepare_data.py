"""Make a training dataset of folders of talking-head videos and of portraits.

    python training/prepare_data.py --videos VIDEOS --portraits PORTRAITS --out DATASET

Every video is listened to (phonemes timed, from its transcript where it has one), looked at (468 landmarks a frame),
checked (a face throughout, lips in step with the sound) and cropped. docs/dataset.md describes what comes out and how
each --layout lies on disk. DATASET/report.md says what was left out and why.

An interrupted run goes on where it stopped, and a finished dataset grows by what is new in the folders, when the same
command is given again.
"""

import argparse
import hashlib
import json
import math
import multiprocessing
import shutil
import signal
import sys
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import datasets
import pyarrow as pa
import torch
from labelling import UNREADABLE, Labeller, LabelOptions, LeftOut, Report
from landmarkers import BUNDLED, open_landmarker
from layouts import LAYOUTS, Source, find_sources
from preparation_report import summarise, write_report
from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar
from upscaling import load_upscaler

from avatarsync.data import dataset
from avatarsync.errors import AvatarSyncError, DatasetError, InvalidArgumentError, OutputError
from avatarsync.phonemes.text import resolve_language
from avatarsync.phonemes.types import write_whole
from avatarsync.schedule import parse_frame_rate

KINDS = ("clips", "portraits")
WORK = ".unfinished"  # rows of an interrupted run, a file per source

_labeller: Labeller | None = None  # of this process


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--videos", type=Path, nargs="+", default=[], metavar="DIR", help="folders of videos")
    add("--portraits", type=Path, nargs="+", default=[], metavar="DIR", help="folders of portraits")
    add("--layout", choices=tuple(LAYOUTS), default="flat", help="how the videos lie on disk, see docs/dataset.md")
    add("--language", help="espeak code of the speech; default: the layout's, cmn for cmlr, else en-us")
    add("--out", type=Path, required=True, help="folder of the dataset")
    add("--crop", choices=("pose_driven", "face_centric"), default="pose_driven", help="the paper's two strategies")
    add("--crop_size", type=int, default=128, help="side of the crops in pixels")
    add("--fps", help="resample the frames in time to this rate, such as 25 or 30000/1001; default: as filmed")
    add("--landmarker", default=BUNDLED, help="bundled, or the path of MediaPipe's face_landmarker.task")
    add("--upscale", default="none", help="before cropping: none, lanczos (x4), or a network: FILE.onnx, FILE.pt2")
    add("--max_seconds", type=float, default=20.0, help="longer videos are cut into pieces at silences")
    add("--pictures_per_clip", type=int, default=6, help="whole frames to keep, for the face aligner")
    add("--max_lag", type=int, default=2, help="frames by which lips and sound may be apart, 0 to 7")
    add("--sync", choices=("leave_out", "shift", "keep"), default="leave_out", help="clips that are further apart")
    add("--split", choices=("clip", "speaker"), default="clip", help="what is held out: clips, or whole speakers")
    add("--test_share", type=float, default=0.05, help="share that is held out")
    add("--held_out", type=Path, metavar="FILE", help="ids to hold out, one a line, instead of a share")
    add("--seed", type=int, default=0, help="of the split")
    add("--workers", type=int, default=1, help="processes")
    return parser


def check_arguments(args: argparse.Namespace) -> None:
    """Raises InvalidArgumentError and its like before anything is read."""
    if not args.videos and not args.portraits:
        raise InvalidArgumentError("nothing to do: give --videos, --portraits or both")
    ranges = {
        "crop_size": (32, 1024),
        "pictures_per_clip": (0, 100),
        "max_lag": (0, 7),
        "workers": (1, 512),
        "max_seconds": (2, 3600),
        "test_share": (0, 0.9),
    }
    for name, (low, high) in ranges.items():
        if not (math.isfinite(getattr(args, name)) and low <= getattr(args, name) <= high):
            raise InvalidArgumentError(f"--{name} {getattr(args, name)}: give {low} to {high}")
    args.fps = None if args.fps is None else parse_frame_rate(args.fps)
    args.language = None if args.language is None else resolve_language(args.language)


def read_held_out(file: Path | None) -> list[str] | None:
    if file is None:
        return None
    try:
        ids = sorted({line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()})
    except (OSError, ValueError) as error:
        raise DatasetError(f"--held_out {file} cannot be read ({error}): give a text file, one id a line") from error
    if not ids:
        raise DatasetError(f"--held_out {file} names no id: leave the option out to hold out a share")
    return ids


def settings_of(args: argparse.Namespace, held_out: list[str] | None) -> dict:
    """What schema.json says: everything that decides what the dataset holds, but not where it came from."""
    names = ("crop", "crop_size", "layout", "language", "max_seconds", "pictures_per_clip", "max_lag", "sync", "split",
             "test_share", "seed")  # fmt: skip
    digest = held_out and hashlib.sha256("\n".join(held_out).encode()).hexdigest()[:16]
    return {
        **{name: getattr(args, name) for name in names},
        "fps": None if args.fps is None else float(args.fps),
        "upscale": Path(args.upscale).name,
        "landmarker": Path(args.landmarker).name,
        "held_out": None if held_out is None else f"{len(held_out)} ids, sha256 {digest}",
    }


def check_out(out: Path, settings: dict) -> None:
    """Make sure that OUT is new, or was made with the same settings."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / "schema.json").exists():
        raise OutputError(f"{out} holds other files: give a new folder with --out")
    before = dataset.read_settings(out)
    different = [name for name, value in settings.items() if before.get(name) != value]
    if different:
        listed = "; ".join(f"{name} was {before.get(name)!r}, is {settings[name]!r}" for name in different)
        raise DatasetError(f"{out} was made with other settings ({listed}): repeat them, or give another --out")


def open_out(out: Path, settings: dict) -> None:
    """Make the folders of a run."""
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        if not (out / "schema.json").exists():
            dataset.write_settings(out, settings)
        for kind in KINDS:
            (out / WORK / kind).mkdir(parents=True, exist_ok=True)
            dataset.restore(out / kind)


@contextmanager
def writing(out: Path):
    """A full disk becomes one line that says what to do."""
    try:
        yield
    except AvatarSyncError:
        raise
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or error
        raise OutputError(
            f"{out} cannot be written to ({reason}): make room; the same command then goes on where this one stopped"
        ) from error


def stamp(source: Source) -> list[int]:
    """Size and time of change: a source that was left out is tried again when it was mended."""
    status = source.path.stat()
    return [status.st_size, status.st_mtime_ns]


def work_file(out: Path, kind: str, name: str) -> Path:
    """Where the rows of an unfinished run are kept; its record lies beside it as .json."""
    return out / WORK / kind / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.arrow"


def start_worker(landmarker: str, upscale: str, options: LabelOptions, threads: int | None) -> None:
    """Load the models of this process."""
    global _labeller
    if threads is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops the workers
        disable_progress_bar()
        torch.set_num_threads(threads)
    _labeller = Labeller(open_landmarker(landmarker), load_upscaler(upscale), options)


def label(out: Path, kind: str, source: Source) -> dict:
    """Label one source, keep its rows for the assembly, and return its record."""
    report = Report()
    make_rows = _labeller.video if kind == "clips" else _labeller.portrait
    tables = (dataset.to_table(row) for row in make_rows(source, report))
    target = work_file(out, kind, source.id)
    partial = target.with_suffix(".partial")
    with writing(out):
        try:
            changed = stamp(source)
        except OSError as error:
            report.leave_out(source.id, LeftOut(UNREADABLE, str(error)))
            return {"id": source.id, "source": source.name, "stamp": None, **asdict(report)}
        try:
            dataset.write_tables(partial, tables)
            partial.rename(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        record = {"id": source.id, "source": source.name, "stamp": changed, **asdict(report)}
        write_whole(target.with_suffix(".json"), lambda name: Path(name).write_text(json.dumps(record)))
    return record


def label_all(args: argparse.Namespace, jobs: list[tuple[str, Source]]) -> None:
    """Label sources, in this process or in several."""
    options = LabelOptions(
        args.crop, args.crop_size, args.fps, args.sync, args.max_lag, args.pictures_per_clip, args.max_seconds
    )
    models = (str(args.landmarker), str(args.upscale), options)
    with tqdm(total=len(jobs), unit="file", disable=None) as progress:
        if args.workers == 1:
            start_worker(*models, threads=None)
            for kind, source in jobs:
                label(args.out, kind, source)
                progress.update()
            return
        threads = max(1, torch.get_num_threads() // args.workers)
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(args.workers, context, start_worker, (*models, threads))
        try:
            futures: list[Future] = [pool.submit(label, args.out, kind, source) for kind, source in jobs]
            for future in as_completed(futures):
                future.result()
                progress.update()
        except BrokenProcessPool as error:
            raise OutputError(
                "a worker process was killed, perhaps for lack of memory: "
                "the same command goes on where it stopped; give fewer --workers"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def read_records(out: Path, kind: str) -> dict[str, dict]:
    """What is known of sources already: from the finished dataset, and from the run that was interrupted."""
    records = {}
    if (out / "report.json").exists() and (out / kind).exists():
        records = json.loads((out / "report.json").read_text(encoding="utf-8"))["sources"].get(kind, {})
    for file in sorted((out / WORK / kind).glob("*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        records[record["id"]] = record
    return records


def choose_test(groups: list[str], before: dict[str, bool], share: float, seed: int) -> set[str]:
    """The groups of rows to hold out. Who was chosen before (True) or not (False) stays so; chance fills up."""
    wanted = round(share * len(groups)) if share else 0
    if share and len(groups) > 1:
        wanted = max(1, wanted)
    test = {group for group in groups if before.get(group)}
    free = [group for group in groups if group not in before]
    free.sort(key=lambda group: hashlib.sha256(f"{seed} {group}".encode()).digest())
    return test | set(free[: max(0, wanted - len(test))])


def assemble(args: argparse.Namespace, kind: str, records: dict[str, dict], held_out: list[str] | None) -> None:
    """Join the rows of all sources, sorted by id, into OUT/kind."""
    out = args.out
    labelled = {name for name in records if work_file(out, kind, name).exists()}
    rows: dict[str, tuple] = {}  # id → (file of rows or dataset, position, speaker, source's id)
    before: dict[str, bool] = {}
    source_of = {entry["id"]: record["id"] for record in records.values() for entry in record["kept"]}
    if (out / kind).exists():
        for split, old in datasets.load_from_disk(str(out / kind)).items():
            reader = old.with_format("arrow")
            for place, (name, speaker) in enumerate(zip(old["id"], old["speaker"], strict=True)):
                source = source_of.get(name, name)
                before[source if args.split == "clip" else speaker] = split == "test"
                if source not in labelled:
                    rows[name] = (reader, place, speaker, source)
    for source in labelled:
        file = work_file(out, kind, source)
        with pa.memory_map(str(file)) as mapped:
            table = pa.ipc.open_stream(mapped).read_all().select(["id", "speaker"])
            for place, row in enumerate(table.to_pylist()):
                rows[row["id"]] = (file, place, row["speaker"], source)
    if not rows:
        return

    if held_out is not None:
        listed = set(held_out)
        test = {name for name, row in rows.items() if name in listed or row[3] in listed}
    else:
        group_of = {name: row[3] if args.split == "clip" else row[2] for name, row in rows.items()}
        chosen = choose_test(sorted(set(group_of.values())), before, args.test_share, args.seed)
        test = {name for name, group in group_of.items() if group in chosen}

    def tables(names: list[str]):
        for name in tqdm(names, desc=f"writing {kind}", unit="row", disable=None):
            place, position, *_ = rows[name]
            if isinstance(place, Path):
                with pa.memory_map(str(place)) as mapped:
                    yield pa.ipc.open_stream(mapped).read_all().slice(position, 1)
            else:
                yield place[position : position + 1]

    names = sorted(rows)
    splits = {"train": [name for name in names if name not in test], "test": [name for name in names if name in test]}
    dataset.save_splits(out / kind, {split: tables(members) for split, members in splits.items()})


def run(arguments: list[str] | None) -> None:
    parser = build_parser()
    args = parser.parse_args(arguments)
    check_arguments(args)
    disable_progress_bar()
    held_out = read_held_out(args.held_out)
    settings = settings_of(args, held_out)
    sources = find_sources(args.videos, args.portraits, args.layout, args.language)
    if held_out is not None:
        ids = {source.id for kind in KINDS for source in sources[kind]}
        if ids.isdisjoint(held_out):
            raise DatasetError(f"--held_out {args.held_out} names no source: an id looks like {min(ids)!r}")
    speakers = {source.speaker for source in sources["clips"]}
    if args.split == "speaker" and held_out is None and len(speakers) == 1:
        raise DatasetError(f"--split speaker needs two speakers, the videos show only {speakers.pop()!r}: use clip")
    check_out(args.out, settings)
    # A landmarker or network that does not work is known now, not in some worker.
    open_landmarker(str(args.landmarker)), load_upscaler(str(args.upscale))
    open_out(args.out, settings)

    records = {kind: read_records(args.out, kind) for kind in KINDS}
    duplicates: dict[str, list[dict]] = {kind: [] for kind in KINDS}
    jobs = []
    for kind in KINDS:
        seen = set()
        for source in sources[kind]:
            known = records[kind].get(source.id)
            if source.id in seen:
                duplicates[kind].append({"id": source.id, "reason": "duplicate id", "detail": str(source.path)})
            elif known is None or (not known["kept"] and known["stamp"] != stamp(source)):
                jobs.append((kind, source))
            seen.add(source.id)
    label_all(args, jobs)

    with writing(args.out):
        records = {kind: read_records(args.out, kind) for kind in KINDS}
        datasets.disable_progress_bars()
        for kind in KINDS:
            if any((args.out / WORK / kind).glob("*.arrow")):
                assemble(args, kind, records[kind], held_out)
        summary = summarise(records, duplicates)
        write_report(args.out, settings, records, duplicates, summary)
        shutil.rmtree(args.out / WORK)
    print(summary)
    print(f"{len(jobs)} files labelled now; dataset: {args.out}")
    if not any(record["kept"] for kind in KINDS for record in records[kind].values()):
        raise DatasetError(f"everything was left out: {args.out / 'report.md'} says why")


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, 2 after an error that the user can mend, 130 after Ctrl-C."""
    try:
        run(arguments)
    except AvatarSyncError as error:
        print(f"prepare_data: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("prepare_data: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
