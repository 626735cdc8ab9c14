"""The script that caches reenacted portraits: what it makes, goes on with, and refuses."""

import json
import resource
import shutil

import numpy as np
import pytest
import reenact_portraits
from PIL import Image

from avatarsync.data.dataset import load, save_splits, write_settings
from avatarsync.data.reenactment import DriverFrames, ReenactedRows, ReenactPortraits
from avatarsync.errors import DatasetError, InvalidArgumentError, OutputError
from avatarsync.face_mesh import OUTER_LIPS


def make(folder, *options, per_portrait=2):
    reenact_portraits.main(["--data", str(folder), "--per_portrait", str(per_portrait), *options])


@pytest.fixture(scope="module")
def made(face_dataset, tmp_path_factory):
    folder = shutil.copytree(face_dataset, tmp_path_factory.mktemp("made") / "data")
    make(folder)
    return folder


@pytest.fixture
def copy(face_dataset, tmp_path):
    return shutil.copytree(face_dataset, tmp_path / "data")


def content(folder, split="train"):
    rows = ReenactedRows.load(folder, split)
    pairs = list(zip(rows.portraits, rows.drivers, rows.driver_frames, strict=True))
    return pairs, [(rows.crop(i), rows.landmarks(i), rows.expression(i), rows.wide(i)[0]) for i in range(len(rows))]


def assert_same(one, other):
    assert one[0] == other[0]
    for first, second in zip(one[1], other[1], strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_each_split_has_its_own_portraits_and_drivers(made):
    pairs, pictures = content(made)
    assert [portrait for portrait, _, _ in pairs] == ["open", "open", "blue", "blue", "green", "green"]
    assert {driver for _, driver, _ in pairs} <= {"anna/0", "anna/1"}
    held_out, _ = content(made, "test")
    assert [(portrait, driver) for portrait, driver, _ in held_out] == [("unseen", "anna/2")] * 2
    assert all(crop.shape == (128, 128, 3) and wide.shape == (224, 224, 3) for crop, _, _, wide in pictures)
    assert len({crop.tobytes() for crop, _, _, _ in pictures}) > 3


def test_small_faces_are_left_out_and_counted(copy, capsys):
    make(copy, per_portrait=1)
    printed = capsys.readouterr().out
    assert "train: 3 portraits, 1 left out, 1 face too small" in printed
    assert "3 training and 1 test pictures" in printed


def test_the_contact_sheet_shows_portraits_drivers_and_results(made):
    sheet = Image.open(made / "reenacted" / "contact_sheet.png")
    # Three portraits in two columns; each row has the portrait and three pairs, under a line of text.
    assert sheet.size == (2 * 7 * 128, 2 * (128 + 14))
    tiles = np.asarray(sheet)[14:142]
    assert all(tiles[:, 128 * i : 128 * (i + 1)].std() > 20 for i in range(5))


def test_every_kind_of_hard_portrait_is_on_the_sheet_once(made):
    from avatarsync.data.dataset import Rows

    rows = Rows(load(made).portraits["train"])
    chosen = reenact_portraits.hard_portraits(rows, set(rows.ids), count=1)
    listed = [row for kind in chosen.values() for row in kind]
    assert sorted(listed) == [0, 1, 2, 3]
    assert chosen["open smile"] == [0]


def test_a_second_run_changes_nothing(made):
    before = {path: path.stat().st_mtime_ns for path in (made / "reenacted").rglob("*")}
    make(made)
    assert before == {path: path.stat().st_mtime_ns for path in (made / "reenacted").rglob("*")}
    assert not (made / ".reenacted.parts").exists()


def test_an_interrupted_run_goes_on_to_the_same_result(made, copy, monkeypatch):
    monkeypatch.setattr(reenact_portraits, "SHARD_PORTRAITS", 1)
    transform, calls = ReenactPortraits.__call__, []

    def interrupted(self, batch):
        calls.append(batch)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return transform(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(ReenactPortraits, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make(copy)
    assert not (copy / "reenacted").exists()
    assert len(list((copy / ".reenacted.parts").glob("train-*.arrow"))) == 2
    calls.clear()
    with monkeypatch.context() as patch:
        patch.setattr(
            ReenactPortraits, "__call__", lambda self, batch: (calls.append(batch), transform(self, batch))[1]
        )
        make(copy)
    assert [batch["portrait"] for batch in calls] == [["green", "green"], ["unseen", "unseen"]]
    for split in ("train", "test"):
        assert content(copy, split)[0] == content(made, split)[0]
    monkeypatch.undo()
    shutil.rmtree(copy / "reenacted")
    make(copy)
    assert_same(content(copy), content(made))


def test_a_run_cut_off_before_its_last_file_finishes(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "data")
    parts = folder / ".reenacted.parts"
    parts.mkdir()
    (folder / "reenacted" / "reenactment.json").rename(parts / "reenactment.json")
    make(folder)
    assert (folder / "reenacted" / "reenactment.json").exists() and not parts.exists()
    assert content(folder)[0] == content(made)[0]


def test_another_seed_draws_other_frames(made, copy):
    make(copy, "--seed", "1", per_portrait=1)
    assert content(copy)[0] != content(made)[0][::2]


def test_more_pictures_begin_with_the_same(made, copy):
    make(copy, per_portrait=3)
    pairs, _ = content(copy)
    assert [pair for number, pair in enumerate(pairs) if number % 3 < 2] == content(made)[0]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--seed", "5"], "--seed 0, not 5"),
        (["--per_portrait", "3"], "--per_portrait 2, not 3"),
        (["--mouths", "portraits"], "--mouths drawn, not portraits"),
    ],
)
def test_changed_options_are_refused(made, options, named):
    with pytest.raises(DatasetError, match=f"made with {named}: delete it"):
        make(made, *options)


def test_other_mouths_change_what_is_inside_open_lips_alone(made, copy):
    with pytest.raises(DatasetError, match="no portrait smiles with open lips"):
        make(copy, "--mouths", "portraits")  # nobody in the test split
    smiling = load(copy).portraits["train"].select([0])
    shutil.rmtree(copy / ".reenacted.parts")
    smiling.save_to_disk(copy / "smiling")
    shutil.rmtree(copy / "portraits" / "test")
    (copy / "smiling").rename(copy / "portraits" / "test")
    make(copy, "--mouths", "portraits")
    (pairs, pictures), (others, originals) = content(copy), content(made)
    assert pairs == others
    for (crop, *known, _), (original, *expected, _) in zip(pictures, originals, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(known, expected, strict=True))
        # JPEG carries a little of it farther.
        changed = np.argwhere(np.abs(crop.astype(int) - original).max(-1) > 16)
        landmarks = expected[0] * len(crop)
        if landmarks[14, 1] - landmarks[13, 1] > 4:
            assert len(changed)
        if len(changed):
            lips = landmarks[list(OUTER_LIPS)]
            assert (changed.min(0) >= lips.min(0)[::-1] - 4).all() and (changed.max(0) <= lips.max(0)[::-1] + 4).all()
    make(copy, "--mouths", "portraits")  # there already
    with pytest.raises(DatasetError, match="--mouths portraits, not drawn"):
        make(copy)


def test_a_dataset_from_before_there_was_a_choice_is_known(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "data")
    file = folder / "reenacted" / "reenactment.json"
    options = json.loads(file.read_text())
    assert options.pop("mouths") == "drawn"
    file.write_text(json.dumps(options))
    make(folder, "--mouths", "drivers")
    with pytest.raises(DatasetError, match="--mouths drivers, not drawn"):
        make(folder)


def test_a_changed_dataset_is_refused(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "data")
    settings = json.loads((folder / "schema.json").read_text())
    write_settings(folder, {name: value for name, value in settings.items() if name != "schema_version"} | {"seed": 9})
    with pytest.raises(DatasetError, match="another --data"):
        make(folder)


def test_reenactments_of_unknown_origin_are_refused(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "data")
    (folder / "reenacted" / "reenactment.json").write_text("{")
    with pytest.raises(DatasetError, match="does not say how it was made"):
        make(folder)


def test_datasets_that_cannot_be_reenacted_are_refused(copy, tmp_path):
    with pytest.raises(DatasetError, match="prepare_data"):
        make(tmp_path)
    with pytest.raises(InvalidArgumentError, match="--per_portrait 0"):
        make(copy, per_portrait=0)
    settings = json.loads((copy / "schema.json").read_text())
    settings.pop("schema_version")
    write_settings(copy, settings | {"crop": "face_centric"})
    with pytest.raises(DatasetError, match="--crop pose_driven"):
        make(copy)
    write_settings(copy, settings)
    clips = load(copy).clips["train"].data.table
    save_splits(copy / "clips", {"train": [clips], "test": []})
    with pytest.raises(DatasetError, match="the test split .* 1 portraits and no clip.*--videos"):
        make(copy)
    shutil.rmtree(copy / "clips")
    with pytest.raises(DatasetError, match="the train split .* no clip"):
        make(copy)
    shutil.copytree(copy / "portraits", copy / "clips")
    shutil.rmtree(copy / "portraits")
    with pytest.raises(DatasetError, match="--portraits"):
        make(copy)


def test_a_full_disk_is_told_and_what_was_made_is_kept(made, copy, monkeypatch):
    """The limit on the size of files stands for a full disk: two shards of one portrait fit, the whole does not."""
    monkeypatch.setattr(reenact_portraits, "SHARD_PORTRAITS", 1)
    make(copy)
    shards = (copy / "reenacted" / "train").glob("*.arrow")
    whole = sum(file.stat().st_size for file in shards)
    shutil.rmtree(copy / "reenacted")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (whole * 2 // 3, before[1]))
    try:
        with pytest.raises(OutputError, match="make room, then run this again"):
            make(copy)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (copy / "reenacted").exists()
    assert len(list((copy / ".reenacted.parts").glob("train-*.arrow"))) == 3
    monkeypatch.setattr(ReenactPortraits, "__call__", None)  # nothing is made twice
    make(copy)
    assert content(copy)[0] == content(made)[0]


def test_pairs_are_those_that_the_drivers_name(made):
    from avatarsync.data.dataset import Rows

    drivers = DriverFrames(Rows(load(made).clips["train"]), 0)
    assert content(made)[0][:2] == [("open", *drivers.draw("open", number)) for number in range(2)]
