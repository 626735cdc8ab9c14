"""The dataset on disk: what is written is read back, one frame at a time, and what cannot be read is refused."""

import io
import json
import pickle
import shutil

import numpy as np
import pytest

from avatarsync.data import dataset as data
from avatarsync.errors import DatasetError

SIZE, FPS = 32, 25.0


def make_row(name: str, num_frames: int, fps: float = FPS) -> dict:
    """A row whose frame t of every column can be told from any other."""
    random = np.random.default_rng(sum(name.encode()))
    ramp = np.linspace(0, 200, SIZE, dtype=np.float32)
    colours = random.integers(20, 200, (num_frames, 3))
    crops = [
        np.clip(ramp[:, None, None] * 0.2 + colour, 0, 255).repeat(SIZE, 1).astype(np.uint8) for colour in colours
    ]
    pictures = [crop.repeat(2, 0).repeat(3, 1) for crop in crops[:2]]
    return {
        "id": name,
        "speaker": name.split("/")[0],
        "source": f"{name}.mp4",
        "language": "en-us",
        "text": "bin blue",
        "fps": fps,
        "frame_size": [64, 96],
        "crops": [data.encode_image(crop) for crop in crops],
        "landmarks": data.encode_points(random.random((num_frames, 468, 2))),
        "matrices": data.encode_points(random.random((num_frames, 2, 3))),
        "openness": list(random.random(num_frames)),
        "phonemes": [
            {"symbol": "b", "start": 0.0, "end": 0.04, "word": "bin"},
            {"symbol": "sil", "start": 0.04, "end": 0.08, "word": None},
        ],
        "units": [{"unit": "SIL", "start": 0.0, "end": 0.08}],
        "sync_lag": 1.0,
        "sync_correlation": 0.5,
        "pictures": [data.encode_image(picture) for picture in pictures],
        "picture_landmarks": data.encode_points(random.random((len(pictures), 468, 2)) * 64),
        "_crops": crops,
    }


@pytest.fixture
def rows():
    return [make_row(f"s{index % 2}/clip{index}", 2 + index) for index in range(7)]


def write(folder, train, test=(), kind="clips"):
    folder.mkdir(exist_ok=True)
    data.write_settings(folder, {"crop_size": SIZE})
    stored = [[{key: row[key] for key in data.FEATURES} for row in split] for split in (train, test)]
    data.save_splits(folder / kind, dict(zip(data.SPLITS, stored, strict=True)))
    return folder


@pytest.mark.parametrize("batch_bytes", (1, 32 << 20), ids=("one row a batch", "one batch"))
def test_rows_give_back_what_was_written(tmp_path, rows, monkeypatch, batch_bytes):
    monkeypatch.setattr(data, "BATCH_BYTES", batch_bytes)
    loaded = data.load(write(tmp_path / "out", rows[:5], rows[5:]))
    assert loaded.settings == {"schema_version": data.SCHEMA_VERSION, "crop_size": SIZE}
    assert loaded.portraits is None
    assert set(loaded.clips) == set(data.SPLITS)
    for split, expected in (("train", rows[:5]), ("test", rows[5:])):
        read = data.Rows(loaded.clips[split])
        assert read.ids == [row["id"] for row in expected] == list(loaded.clips[split]["id"])
        assert read.speakers == [row["speaker"] for row in expected]
        np.testing.assert_array_equal(read.num_frames, [len(row["_crops"]) for row in expected])
        for index, row in enumerate(expected):
            for name in ("landmarks", "matrices", "openness", "picture_landmarks"):
                values = getattr(read, name)(index)
                np.testing.assert_array_equal(values, np.array(row[name], np.float32).reshape(values.shape))
            assert read.landmarks(index).shape == (len(row["_crops"]), 468, 2)
            for frame, crop in enumerate(row["_crops"]):
                assert np.abs(read.crop(index, frame).astype(int) - crop).max() <= 4
            assert read.picture(index, 1).shape == (64, 96, 3)
            track = read.track(index)
            assert [(p.symbol, p.start, p.end, p.word) for p in track] == [
                ("b", 0.0, 0.04, "bin"),
                ("sil", 0.04, 0.08, None),
            ]
            assert (track.language, track.duration) == ("en-us", len(row["_crops"]) / FPS)
            assert read.fps(index) == FPS
        joined = np.concatenate([read.landmarks(index) for index in range(len(read))])
        np.testing.assert_array_equal(read.all_landmarks(), joined)


def test_the_library_itself_decodes_all_columns(tmp_path, rows):
    row = data.load(write(tmp_path / "out", rows)).clips["train"][3]
    assert np.asarray(row["crops"][0]).shape == (SIZE, SIZE, 3)
    assert set(row) == set(data.FEATURES)
    assert row["phonemes"][0] == {"symbol": "b", "start": 0.0, "end": 0.04, "word": "bin"}


def test_numbers_are_views_of_the_file(tmp_path, rows):
    read = data.Rows(data.load(write(tmp_path / "out", rows)).clips["train"])
    assert not read.landmarks(0).flags.writeable
    assert np.shares_memory(read.landmarks(2), read.landmarks(2))


def test_rows_can_be_pickled_and_follow_a_selection(tmp_path, rows):
    split = data.load(write(tmp_path / "out", rows)).clips["train"]
    read = data.Rows(split)
    content = pickle.dumps(read)
    assert len(content) < 20_000  # the way to the file, not the file
    copy = pickle.loads(content)
    np.testing.assert_array_equal(copy.crop(4, 3), read.crop(4, 3))
    selected = data.Rows(split.select([5, 1]))
    assert selected.ids == [rows[5]["id"], rows[1]["id"]]
    np.testing.assert_array_equal(selected.landmarks(0), read.landmarks(5))
    np.testing.assert_array_equal(selected.crop(1, 1), read.crop(1, 1))


def test_rows_outside_are_refused(tmp_path, rows):
    read = data.Rows(data.load(write(tmp_path / "out", rows)).clips["train"])
    for index, frame in ((7, 0), (-1, 0), (0, 2), (0, -1)):
        with pytest.raises(IndexError):
            read.crop(index, frame)


def test_an_empty_split_is_readable(tmp_path, rows):
    read = data.Rows(data.load(write(tmp_path / "out", rows)).clips["test"])
    assert len(read) == 0
    assert read.all_landmarks().shape == (0, 468, 2)


def test_portraits_have_one_frame_and_no_rate(tmp_path):
    folder = write(tmp_path / "out", [make_row("face", 1, fps=0.0)], kind="portraits")
    loaded = data.load(folder)
    assert loaded.clips is None
    read = data.Rows(loaded.portraits["train"])
    assert (read.num_frames.tolist(), read.fps(0)) == ([1], 0.0)


def test_what_is_no_dataset_is_refused(tmp_path, rows):
    with pytest.raises(DatasetError, match="not a folder"):
        data.load(tmp_path / "missing")
    with pytest.raises(DatasetError, match="no schema.json"):
        data.load(tmp_path)
    good = write(tmp_path / "good", rows)

    def broken(name):
        return shutil.copytree(good, tmp_path / name)

    folder = broken("version")
    (folder / "schema.json").write_text(json.dumps({"schema_version": data.SCHEMA_VERSION + 1}))
    with pytest.raises(DatasetError, match="schema version 2"):
        data.load(folder)
    folder = broken("json")
    (folder / "schema.json").write_text("{")
    with pytest.raises(DatasetError, match="cannot be read"):
        data.load(folder)
    folder = broken("unfinished")
    shutil.rmtree(folder / "clips")
    with pytest.raises(DatasetError, match="unfinished"):
        data.load(folder)
    folder = broken("damaged")
    (file,) = (folder / "clips" / "train").glob("*.arrow")
    file.write_bytes(b"no arrow")
    with pytest.raises(DatasetError, match="cannot be read"):
        data.load(folder)
    folder = broken("lost split")
    shutil.rmtree(folder / "clips" / "test")
    with pytest.raises(DatasetError):
        data.load(folder)
    with pytest.raises(DatasetError, match="no clip"):
        data.load(write(tmp_path / "empty", []))


def test_a_failed_write_leaves_the_old_dataset(tmp_path, rows):
    folder = write(tmp_path / "out", rows)
    before = sorted(path.name for path in folder.iterdir())

    def disk_full():
        yield {key: rows[0][key] for key in data.FEATURES}
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        data.save_splits(folder / "clips", {"train": disk_full(), "test": []})
    assert sorted(path.name for path in folder.iterdir()) == before
    assert data.Rows(data.load(folder).clips["train"]).ids == [row["id"] for row in rows]


def test_a_kill_between_two_renames_is_mended(tmp_path, rows):
    folder = write(tmp_path / "out", rows)
    (folder / "clips").rename(folder / ".clips.replaced")
    data.restore(folder / "clips")
    assert len(data.load(folder).clips["train"]) == len(rows)


def test_crops_keep_their_colour(tmp_path):
    """4:4:4: the chroma of a thin red line survives, which 4:2:0 would smear."""
    from PIL import Image

    picture = np.full((SIZE, SIZE, 3), (200, 160, 140), np.uint8)
    picture[SIZE // 2] = (190, 40, 60)
    decoded = np.asarray(Image.open(io.BytesIO(data.encode_image(picture)["bytes"]))).astype(int)
    assert np.abs(decoded - picture).mean() < 1.5
    assert np.abs(decoded[SIZE // 2].mean(0) - picture[SIZE // 2, 0]).max() < 6
