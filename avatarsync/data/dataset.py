"""The training data on disk: one declaration of its columns, reading it, writing it.

`training/prepare_data.py` makes it from videos and portraits; docs/dataset.md describes it for readers.

    OUT/schema.json   version and settings, see `write_settings`
    OUT/clips/        `datasets.DatasetDict` with the splits train and test: one row per clip of T frames
    OUT/portraits/    the same columns, T = 1

Frames are kept as JPEG. `Rows` decodes one of them without touching its row's others, which `datasets` would decode.
"""

import json
import os
import shutil
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import DatasetError, MissingDependencyError
from ..image_processing_face import NUM_LANDMARKS
from ..phonemes import Phoneme, PhonemeTrack
from ..phonemes.types import write_whole

try:
    import datasets
    import pyarrow as pa
except ImportError as error:
    raise MissingDependencyError(
        'training data needs the package datasets: pip install "avatarsync[train]" (or -e ".[train]" in a checkout)'
    ) from error

SCHEMA_VERSION = 1
SPLITS = ("train", "test")
CROP_QUALITY = 97  # of the JPEG crops, chroma unreduced: lips are small and red
BATCH_BYTES = 32 << 20  # of rows that are written, and later mapped, together

_POINTS = datasets.List(datasets.List(datasets.Value("float32"), length=2 * NUM_LANDMARKS))
FEATURES = datasets.Features(
    {
        "id": datasets.Value("string"),
        "speaker": datasets.Value("string"),
        "source": datasets.Value("string"),
        "language": datasets.Value("string"),
        "text": datasets.Value("string"),
        "fps": datasets.Value("float64"),
        "frame_size": datasets.List(datasets.Value("int32"), length=2),
        "crops": datasets.List(datasets.Image()),
        "landmarks": _POINTS,
        "matrices": datasets.List(datasets.List(datasets.Value("float32"), length=6)),
        "openness": datasets.List(datasets.Value("float32")),
        "phonemes": datasets.List(
            {
                "symbol": datasets.Value("string"),
                "start": datasets.Value("float64"),
                "end": datasets.Value("float64"),
                "word": datasets.Value("string"),
            }
        ),
        "units": datasets.List(
            {
                "unit": datasets.Value("string"),
                "start": datasets.Value("float64"),
                "end": datasets.Value("float64"),
            }
        ),
        "sync_lag": datasets.Value("float32"),
        "sync_correlation": datasets.Value("float32"),
        "pictures": datasets.List(datasets.Image()),
        "picture_landmarks": _POINTS,
    }
)


@dataclass
class AvatarDataset:
    """A dataset: the `settings` it was made with, and its `clips` and `portraits` where it has them."""

    settings: dict
    clips: datasets.DatasetDict | None
    portraits: datasets.DatasetDict | None


def load(folder: str | os.PathLike) -> AvatarDataset:
    """Open a dataset; nothing but its description is read yet.

    Raises:
        DatasetError: no such folder, not a (finished) dataset, another schema version, damaged, or without a row.
    """
    folder = Path(folder)
    settings = read_settings(folder)
    clips, portraits = _load_splits(folder / "clips"), _load_splits(folder / "portraits")
    if clips is None and portraits is None:
        raise DatasetError(f"{folder} is unfinished: run training/prepare_data.py with the same options to go on")
    if not any(len(rows) for part in (clips, portraits) if part is not None for rows in part.values()):
        raise DatasetError(f"{folder} holds no clip and no portrait: its report.md says why they were left out")
    return AvatarDataset(settings, clips, portraits)


def read_settings(folder: Path) -> dict:
    """The content of schema.json.

    Raises:
        DatasetError: it is missing, unreadable, or of another schema version.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder: give the --out of training/prepare_data.py")
    file = folder / "schema.json"
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        version = settings["schema_version"]
    except FileNotFoundError as error:
        raise DatasetError(
            f"{folder} holds no schema.json: make a dataset with training/prepare_data.py --out {folder}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{file} cannot be read ({error!r}): make the dataset again") from error
    if version != SCHEMA_VERSION:
        raise DatasetError(
            f"{folder} has schema version {version}, this code reads version {SCHEMA_VERSION}: "
            "make the dataset again with training/prepare_data.py, or use the code that made it"
        )
    return settings


def write_settings(folder: Path, settings: dict) -> None:
    """Write schema.json, whole or not at all; the version is added.

    Raises:
        OutputError: it cannot be written.
    """
    content = json.dumps({"schema_version": SCHEMA_VERSION, **settings}, indent=1, ensure_ascii=False)
    write_whole(folder / "schema.json", lambda partial: Path(partial).write_text(content + "\n", encoding="utf-8"))


def _load_splits(folder: Path) -> datasets.DatasetDict | None:
    if not folder.is_dir():
        return None
    try:
        splits = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise DatasetError(f"{folder} cannot be read ({error}): make the dataset again") from error
    if not isinstance(splits, datasets.DatasetDict) or set(splits) != set(SPLITS):
        raise DatasetError(f"{folder} lacks the splits {' and '.join(SPLITS)}: make the dataset again")
    if splits["train"].features != FEATURES:
        raise DatasetError(f"the columns of {folder} are not those of schema version {SCHEMA_VERSION}: make it again")
    return splits


def encode_image(pixels: np.ndarray, quality: int = CROP_QUALITY) -> dict:
    """`(H, W, 3) uint8` as JPEG (4:4:4), in the form that `datasets.Image` stores."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0)
    return {"bytes": buffer.getvalue(), "path": None}


def encode_points(points: np.ndarray) -> list[np.ndarray]:
    """Points or matrices `(T, ..., 2 or 3)` as T flat rows of float32."""
    return list(np.asarray(points, np.float32).reshape(len(points), -1))


def to_table(row: dict, features: datasets.Features = FEATURES) -> pa.Table:
    """One row, keyed by column, as a table. Pictures are given as `encode_image` makes them."""
    return pa.Table.from_pylist([row], schema=features.arrow_schema)


def save_splits(
    folder: Path, splits: dict[str, Iterable[dict | pa.Table]], features: datasets.Features = FEATURES
) -> None:
    """Write what `datasets.load_from_disk` reads as a `DatasetDict`; it appears whole, or the old one stays.

    Memory stays flat: rows are taken one by one and written 32 MB at a time.

    Args:
        folder: the place, replaced if it exists.
        splits: name → rows, as dictionaries or as tables of `to_table`.

    Raises:
        OSError: the disk is full or not writable.
    """
    partial, old = folder.with_name(f".{folder.name}.partial"), _replaced(folder)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        # Empty datasets bring all descriptions; their one file of rows is then replaced by the real one. The library
        # caches what is computed from a dataset by its fingerprint, which it takes from the rows: they need their own.
        table = features.arrow_schema.empty_table()
        empty = {name: datasets.Dataset(table, fingerprint=uuid.uuid4().hex[:16]) for name in splits}
        datasets.DatasetDict(empty).save_to_disk(str(partial), num_shards=dict.fromkeys(splits, 1))
        for name, rows in splits.items():
            (file,) = (partial / name).glob("*.arrow")
            tables = (row if isinstance(row, pa.Table) else to_table(row, features) for row in rows)
            write_tables(file, tables, features)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def restore(folder: Path) -> None:
    """Bring back what `save_splits` was about to replace when it was killed."""
    if _replaced(folder).exists() and not folder.exists():
        _replaced(folder).rename(folder)


def _replaced(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.replaced")


def write_tables(file: Path, tables: Iterable[pa.Table], features: datasets.Features = FEATURES) -> int:
    """Write tables to an Arrow stream file in batches of about 32 MB; returns the number of rows."""
    waiting: list[pa.Table] = []
    num_rows = 0
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, features.arrow_schema) as writer:

        def flush() -> None:
            if waiting:
                writer.write_table(pa.concat_tables(waiting).combine_chunks())
                waiting.clear()

        for table in tables:
            waiting.append(table)
            num_rows += len(table)
            if sum(table.nbytes for table in waiting) > BATCH_BYTES:
                flush()
        flush()
    return num_rows


class _Lists:
    """A column of lists in one record batch: where each row's values begin, and the values."""

    def __init__(self, column: pa.ListArray):
        self.offsets = column.offsets.to_numpy()
        self.values = column.values

    def numbers(self) -> "_Lists":
        """The values as a view `(sum T, ...)`, nothing copied."""
        nested = pa.types.is_fixed_size_list(self.values.type)
        flat = (self.values.flatten() if nested else self.values).to_numpy(zero_copy_only=True)
        self.values = flat.reshape(-1, self.values.type.list_size) if nested else flat
        return self

    def pictures(self) -> "_Lists":
        """The values as the encoded bytes."""
        self.values = self.values.field("bytes")
        return self

    def __getitem__(self, row: int):
        return self.values[self.offsets[row] : self.offsets[row + 1]]


class Rows:
    """Random access to one split: frames are decoded one at a time, numbers are views of the file (read-only).

    It can be pickled, so DataLoader workers open the file for themselves.

    Args:
        dataset: a split of `AvatarDataset.clips` or `.portraits`.

    Attributes:
        num_frames: int64 `(N,)`, T of each row.
        ids, speakers: N names each.
    """

    def __init__(self, dataset: datasets.Dataset):
        # After select() or shuffle() rows are found through a table of indices, which this class does not follow.
        self._dataset = dataset if dataset._indices is None else dataset.flatten_indices()
        self._open()

    def _open(self) -> None:
        self._batches = self._dataset.data.table.to_batches()
        self._firsts = np.cumsum([0] + [len(batch) for batch in self._batches])
        self._numbers = {
            name: [_Lists(batch.column(name)).numbers() for batch in self._batches]
            for name in ("landmarks", "matrices", "openness", "picture_landmarks")
        }
        self._pictures = {
            name: [_Lists(batch.column(name)).pictures() for batch in self._batches] for name in ("crops", "pictures")
        }
        lengths = [np.diff(lists.offsets) for lists in self._numbers["openness"]]
        self.num_frames = np.concatenate([np.zeros(0, np.int64), *lengths]).astype(np.int64)
        self._fps = np.concatenate([np.zeros(0), *(batch.column("fps").to_numpy() for batch in self._batches)])
        self.ids: list[str] = self._strings("id")
        self.speakers: list[str] = self._strings("speaker")

    def __getstate__(self) -> dict:
        return {"dataset": self._dataset}

    def __setstate__(self, state: dict) -> None:
        self._dataset = state["dataset"]
        self._open()

    def _strings(self, name: str) -> list[str]:
        return [value for batch in self._batches for value in batch.column(name).to_pylist()]

    def _place(self, index: int) -> tuple[int, int]:
        """Batch, and row in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        batch = int(np.searchsorted(self._firsts, index, side="right")) - 1
        return batch, int(index - self._firsts[batch])

    def _picture(self, name: str, index: int, frame: int) -> np.ndarray:
        batch, row = self._place(index)
        encoded = self._pictures[name][batch][row]
        if not 0 <= frame < len(encoded):
            raise IndexError(f"picture {frame} of {len(encoded)}")
        with Image.open(BytesIO(encoded[int(frame)].as_buffer())) as picture:
            return np.array(picture)

    def _row(self, name: str, index: int) -> np.ndarray:
        batch, row = self._place(index)
        return self._numbers[name][batch][row]

    def __len__(self) -> int:
        return len(self.num_frames)

    def crop(self, index: int, frame: int) -> np.ndarray:
        """Crop `(S, S, 3) uint8` of a frame."""
        return self._picture("crops", index, frame)

    def landmarks(self, index: int) -> np.ndarray:
        """Landmarks `(T, 468, 2)` float32 of all frames, in fractions of the crop's side; read-only."""
        return self._row("landmarks", index).reshape(-1, NUM_LANDMARKS, 2)

    def all_landmarks(self) -> np.ndarray:
        """Landmarks `(sum T, 468, 2)` float32 of all rows, one after the other."""
        parts = [lists.values for lists in self._numbers["landmarks"]]
        return np.concatenate([np.zeros((0, 2 * NUM_LANDMARKS), np.float32), *parts]).reshape(-1, NUM_LANDMARKS, 2)

    def openness(self, index: int) -> np.ndarray:
        """Openness of the eyes `(T,)`, 1 at the clip's usual opening; read-only."""
        return self._row("openness", index)

    def matrices(self, index: int) -> np.ndarray:
        """Matrices `(T, 2, 3)`, source picture → crop; read-only."""
        return self._row("matrices", index).reshape(-1, 2, 3)

    def fps(self, index: int) -> float:
        """Frames per second, 0 of a portrait."""
        return float(self._fps[index])

    def track(self, index: int) -> PhonemeTrack:
        """The timed phonemes of a clip."""
        batch, row = self._place(index)
        entries = self._batches[batch].column("phonemes")[row].as_py()
        fps = self.fps(index)
        return PhonemeTrack(
            [Phoneme(entry["symbol"], entry["start"], entry["end"], entry["word"]) for entry in entries],
            self._batches[batch].column("language")[row].as_py() or None,
            float(self.num_frames[index] / fps) if fps else None,
        )

    def picture(self, index: int, number: int) -> np.ndarray:
        """A whole frame `(H, W, 3) uint8`, its longest side at most 512."""
        return self._picture("pictures", index, number)

    def picture_landmarks(self, index: int) -> np.ndarray:
        """Landmarks `(n, 468, 2)` of the row's n whole frames, in their pixels; read-only."""
        return self._row("picture_landmarks", index).reshape(-1, NUM_LANDMARKS, 2)


__all__ = ["FEATURES", "SCHEMA_VERSION", "AvatarDataset", "Rows", "load", "save_splits", "write_settings"]
