"""Give the dataset's portraits the expressions of its clips: training pictures of many people, expressions known.

    python training/reenact_portraits.py --data DATASET --per_portrait 8

Writes DATASET/reenacted, a `datasets.DatasetDict`: training portraits with frames of training clips, test portraits
with frames of test clips, open mouths more often than others. A portrait's n-th driver depends on the seed, the
portrait and n alone. Portraits that are turned too far or too small are left out. An interrupted run goes on where it
stopped when it is started again.

What is inside opened mouths is drawn, except for the teeth that a portrait shows; with `--mouths drivers` it is what
the drivers have there, and with `--mouths portraits` what other, smiling portraits have. Except with drivers', what is
trained on these has learned the drivers' movements and never seen their faces.

DATASET/reenacted/contact_sheet.png shows in each row a portrait, then driver and result from closed to open lips:
average portraits, and those that are hardest (open smiles, wide mouths, beards, turned and small faces). Look at it
before you train.

Takes about 25 ms a picture on one core, and 35 kB on disk at the default crop of 128 pixels.
"""

import argparse
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from command_line import run_script
from PIL import Image, ImageDraw
from tqdm import tqdm

from avatarsync.data.dataset import SPLITS, AvatarDataset, Rows, load, restore, save_splits, to_table, write_tables
from avatarsync.data.reenactment import (
    MOUTHS,
    REENACTED_FEATURES,
    DriverFrames,
    ReenactedRows,
    ReenactPortraits,
    doubts,
)
from avatarsync.errors import DatasetError, InvalidArgumentError, OutputError
from avatarsync.face_mesh import OUTER_LIPS
from avatarsync.phonemes.types import write_whole

SHARD_PORTRAITS = 32
BATCH_SIZE = 16
OPTIONS = "reenactment.json"
SHEET = "contact_sheet.png"
CHEEKS, CHIN = (50, 280), (152, 175, 199)
SHEET_PAIRS = 3


def fingerprint(data: AvatarDataset) -> str:
    """What the result depends on besides the options: settings, ids and lengths of the dataset."""
    content = [data.settings]
    for part in (data.clips, data.portraits):
        for split in SPLITS:
            rows = Rows(part[split])
            content.append([rows.ids, rows.num_frames.tolist()])
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def check(data: AvatarDataset, folder: Path) -> None:
    """Raises DatasetError unless the dataset has what reenactment needs."""
    if data.portraits is None or not len(data.portraits["train"]):
        raise DatasetError(f"{folder} has no training portraits: add some with prepare_data.py --portraits")
    for split in SPLITS:
        portraits = len(data.portraits[split])
        if portraits and (data.clips is None or not len(data.clips[split])):
            raise DatasetError(
                f"the {split} split of {folder} has {portraits} portraits and no clip to drive them: "
                "add videos with prepare_data.py --videos"
            )
    if data.settings["crop"] != "pose_driven":
        raise DatasetError(
            f"{folder} has {data.settings['crop']} crops; expressions are put on pose-driven ones: "
            "make the dataset with prepare_data.py --crop pose_driven"
        )


def start_cache(place: Path, parts: Path, options: dict) -> bool:
    """Open or make the folder of shards; returns whether the result is there already.

    Raises:
        DatasetError: what is there was made with other options. Older ones name no mouths: they were the drivers'.
    """
    for folder in (place, parts):
        if not folder.exists():
            continue
        try:
            made_with = {"mouths": "drivers"} | json.loads((folder / OPTIONS).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            if folder is place and (parts / OPTIONS).exists():
                break  # cut off between the last shard and this file
            raise DatasetError(
                f"{folder} does not say how it was made ({error}): delete it and start again"
            ) from error
        for name, value in options.items():
            if made_with.get(name) != value:
                other = f"--{name} {made_with.get(name)}, not {value}" if name != "dataset" else "another --data"
                raise DatasetError(f"{folder} was made with {other}: delete it, or give the same options")
        if folder is place:
            return True
    parts.mkdir(exist_ok=True)
    write_whole(parts / OPTIONS, lambda partial: Path(partial).write_text(json.dumps(options, indent=1)))
    return False


def make_shard(
    file: Path, portraits: list[str], transform: ReenactPortraits, drivers: DriverFrames, count, bar
) -> None:
    """Write all pictures of some portraits into an Arrow file, whole or not at all."""
    pairs = [(name, *drivers.draw(name, number)) for name in portraits for number in range(count)]

    def tables() -> Iterator[pa.Table]:
        for start in range(0, len(pairs), BATCH_SIZE):
            names = ("portrait", "driver", "driver_frame")
            made = transform(
                dict(zip(names, map(list, zip(*pairs[start : start + BATCH_SIZE], strict=True)), strict=True))
            )
            for values in zip(*made.values(), strict=True):
                yield to_table(dict(zip(made, values, strict=True)), REENACTED_FEATURES)
                bar.update()

    partial = file.with_suffix(".partial")
    write_tables(partial, tables(), REENACTED_FEATURES)
    partial.replace(file)


def read_shards(files: list[Path]) -> Iterator[pa.Table]:
    for file in files:
        with pa.memory_map(str(file)) as source:
            for batch in pa.ipc.open_stream(source):
                yield pa.Table.from_batches([batch])


def reenact_split(
    data: AvatarDataset,
    split: str,
    parts: Path,
    per_portrait: int,
    seed: int,
    mouths: str,
) -> list[Path]:
    """Make a split's missing shards; returns the files of all."""
    portraits = Rows(data.portraits[split])
    if not len(portraits):
        return []
    reasons = [doubts(portraits.landmarks(row)[0], portraits.matrices(row)[0]) for row in range(len(portraits))]
    chosen = [name for name, reason in zip(portraits.ids, reasons, strict=True) if reason is None]
    left_out = Counter(reason for reason in reasons if reason is not None)
    listed = "".join(f", {count} {reason}" for reason, count in sorted(left_out.items()))
    print(f"{split}: {len(chosen)} portraits, {sum(left_out.values())} left out{listed}")
    groups = [chosen[start : start + SHARD_PORTRAITS] for start in range(0, len(chosen), SHARD_PORTRAITS)]
    files = [parts / f"{split}-{number:05d}.arrow" for number in range(len(groups))]
    missing = [(file, group) for file, group in zip(files, groups, strict=True) if not file.exists()]
    if missing:
        clips = Rows(data.clips[split])
        transform, drivers = ReenactPortraits(portraits, clips, mouths), DriverFrames(clips, seed)
        total = per_portrait * len(chosen)
        done = total - per_portrait * sum(len(group) for _, group in missing)
        with tqdm(total=total, initial=done, desc=split, unit="picture", disable=None) as bar:
            for file, group in missing:
                make_shard(file, group, transform, drivers, per_portrait, bar)
    return files


def hard_portraits(portraits: Rows, available: set[str], count: int = 2) -> dict[str, list[int]]:
    """Rows of portraits by what makes them hard to reenact, and some that nothing is special about."""
    rows = np.array([row for row, name in enumerate(portraits.ids) if name in available])
    landmarks = np.stack([portraits.landmarks(row)[0] for row in rows])

    def brightness(row: int, points: np.ndarray, indices: tuple[int, ...]) -> float:
        crop = portraits.crop(row, 0)
        places = np.clip((points[list(indices)] * len(crop)).round().astype(int), 0, len(crop) - 1)
        return float(crop[places[:, 1], places[:, 0]].mean())

    beard = [
        brightness(row, points, CHIN) / (brightness(row, points, CHEEKS) + 1)
        for row, points in zip(rows, landmarks, strict=True)
    ]
    scores = {
        "open smile": landmarks[:, 14, 1] - landmarks[:, 13, 1],
        "wide mouth": landmarks[:, OUTER_LIPS[10], 0] - landmarks[:, OUTER_LIPS[0], 0],
        "beard": -np.array(beard),
        "turned": np.abs(landmarks[:, 1, 0] - 0.5),
        "small face": np.array([np.linalg.det(portraits.matrices(row)[0][:, :2]) for row in rows]),
    }
    chosen: dict[str, list[int]] = {}
    taken: set[int] = set()
    for kind, score in scores.items():
        best = [int(row) for row in rows[np.argsort(-score, kind="stable")] if int(row) not in taken][:count]
        chosen[kind] = best
        taken.update(best)
    others = [int(row) for row in rows if int(row) not in taken]
    spread = np.linspace(0, len(others) - 1, min(3 * count, len(others))).round().astype(int)
    return chosen | {"average": [others[position] for position in spread]}


def contact_sheet(data: AvatarDataset, reenacted: ReenactedRows, split: str) -> np.ndarray:
    """`(H, W, 3) uint8`: a row a portrait: itself, then (driver, result) with closed, half-open and open lips."""
    portraits, clips = Rows(data.portraits[split]), Rows(data.clips[split])
    clip_rows = {name: row for row, name in enumerate(clips.ids)}
    of_portrait: dict[str, list[int]] = {}
    for index, name in enumerate(reenacted.portraits):
        of_portrait.setdefault(name, []).append(index)
    size, lines = len(portraits.crop(0, 0)), []
    for kind, rows in hard_portraits(portraits, set(of_portrait)).items():
        for row in rows:
            indices = sorted(
                of_portrait[portraits.ids[row]], key=lambda i: np.ptp(reenacted.landmarks(i)[[13, 14], 1])
            )
            places = np.linspace(0, len(indices) - 1, min(SHEET_PAIRS, len(indices))).round().astype(int)
            tiles = [portraits.crop(row, 0)]
            for index in (indices[place] for place in places):
                driver = clip_rows[reenacted.drivers[index]]
                tiles += [clips.crop(driver, reenacted.driver_frames[index]), reenacted.crop(index)]
            tiles += [np.zeros_like(tiles[0])] * (1 + 2 * SHEET_PAIRS - len(tiles))
            line = Image.new("RGB", (size * len(tiles), size + 14), "white")
            line.paste(Image.fromarray(np.concatenate(tiles, 1)), (0, 14))
            ImageDraw.Draw(line).text((3, 1), f"{kind}: {portraits.ids[row]}", fill="black")
            lines.append(np.array(line))
    lines += [np.full_like(lines[0], 255)] * (len(lines) % 2)
    half = len(lines) // 2
    return np.concatenate([np.concatenate(lines[:half]), np.concatenate(lines[half:])], 1)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="dataset that prepare_data.py wrote")
    parser.add_argument("--per_portrait", type=int, default=8, help="pictures of each portrait")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mouths", choices=MOUTHS, default="drawn", help="what is inside open lips")
    args = parser.parse_args(argv)
    if args.per_portrait < 1:
        raise InvalidArgumentError(f"--per_portrait {args.per_portrait}: give at least 1")
    data = load(args.data)
    check(data, args.data)
    options = {"per_portrait": args.per_portrait, "seed": args.seed, "mouths": args.mouths}
    options["dataset"] = fingerprint(data)
    place, parts = args.data / "reenacted", args.data / ".reenacted.parts"
    try:
        restore(place)
        if not start_cache(place, parts, options):
            files = {
                split: reenact_split(data, split, parts, args.per_portrait, args.seed, args.mouths) for split in SPLITS
            }
            if not files["train"]:
                raise DatasetError(f"every training portrait of {args.data} was left out: add frontal, larger ones")
            save_splits(place, {split: read_shards(files[split]) for split in SPLITS}, REENACTED_FEATURES)
            sheet = contact_sheet(data, ReenactedRows.load(args.data, "train"), "train")
            write_whole(place / SHEET, lambda partial: Image.fromarray(sheet).save(partial, "PNG"))
            content = json.dumps(options, indent=1)
            write_whole(place / OPTIONS, lambda partial: Path(partial).write_text(content))  # last: now it is whole
        shutil.rmtree(parts, ignore_errors=True)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"{place} cannot be written ({error.strerror or error}): make room, then run this again; "
            "what was made so far is kept"
        ) from error
    counts = {split: len(ReenactedRows.load(args.data, split)) for split in SPLITS}
    size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    print(f"{place}: {counts['train']} training and {counts['test']} test pictures, {size / 1e6:.0f} MB; see {SHEET}")


if __name__ == "__main__":
    run_script(main)
