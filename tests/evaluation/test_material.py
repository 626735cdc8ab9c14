"""Which files belong together, and what is wrong with them, before anything is computed."""

import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from avatarsync.errors import DatasetError, InvalidArgumentError
from avatarsync.evaluation import find_material
from avatarsync.video import VideoWriter


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A grey second with sound."""
    path = tmp_path_factory.mktemp("video") / "grey.mp4"
    with VideoWriter(path, 25, 32, 32, np.zeros(16000, np.float32), 16000) as writer:
        for _ in range(25):
            writer.write(np.full((32, 32, 3), 128, np.uint8))
    return path


@pytest.fixture
def clips(tmp_path, video):
    """Two clips, all that can be given of one of them, and of another system."""
    for name in ("clips/b", "clips/a", "hallo/a", "hallo/b"):
        path = tmp_path / f"{name}.mp4"
        path.parent.mkdir(exist_ok=True)
        shutil.copy(video, path)
    folder = tmp_path / "clips"
    soundfile.write(folder / "b.wav", np.zeros(16000), 16000)
    Image.new("RGB", (32, 32)).save(folder / "b.png")
    (folder / "b.txt").write_text("\ufeffwhat is\nsaid\n", encoding="utf-8")
    (folder / "a.json").write_text("{}")
    return folder


def test_files_belong_together_by_name(clips):
    material = find_material(clips, [clips.parent / "hallo"])
    assert material.generate and material.systems == ["AvatarSync", "hallo"] and not material.remarks
    first, second = material.cases
    assert (first.name, first.own_sound, first.reference, first.track) == ("a", True, None, clips / "a.json")
    assert (second.sound, second.reference, second.transcript) == (clips / "b.wav", clips / "b.png", "what is said")
    assert first.words_known and second.words_known and second.track is None
    assert first.outputs == {"hallo": clips.parent / "hallo" / "a.mp4"}


def test_pairs_are_in_folders_real_and_generated(clips, tmp_path):
    pairs = tmp_path / "pairs"
    shutil.copytree(clips, pairs / "real")
    shutil.copytree(tmp_path / "hallo", pairs / "generated")
    material = find_material(pairs, [tmp_path / "hallo"], limit=1)
    assert not material.generate and material.systems == ["generated", "hallo"]
    assert [case.name for case in material.cases] == ["a"] and material.remarks == ["1 of 2 clips, the first by name"]
    assert material.cases[0].outputs["generated"] == pairs / "generated" / "a.mp4"
    (pairs / "generated" / "b.mp4").unlink()
    with pytest.raises(DatasetError, match="holds no video b"):
        find_material(pairs)
    assert len(find_material(pairs, limit=1).cases) == 1
    shutil.rmtree(pairs / "real")
    with pytest.raises(DatasetError, match="real and generated"):
        find_material(pairs)


def without_sound(path):
    silent = path.with_name("silent.mp4")
    with VideoWriter(silent, 25, 32, 32) as writer:
        writer.write(np.zeros((32, 32, 3), np.uint8))
    silent.replace(path)


def sound_alone(path):
    path.unlink()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate = 16000
        container.mux([*stream.encode(frame), *stream.encode(None)])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda clips: shutil.rmtree(clips), "is not a folder"),
        (lambda clips: [path.unlink() for path in clips.glob("*.mp4")], "holds no videos"),
        (lambda clips: (clips / "a.mp4").write_bytes(b"no video"), "a.mp4 cannot be read"),
        (lambda clips: shutil.copy(clips / "a.mp4", clips / "a.mov"), "a.mov and a.mp4 have one name"),
        (lambda clips: without_sound(clips / "a.mp4"), "put a.wav beside it"),
        (lambda clips: sound_alone(clips / "a.mp4"), "has no picture"),
        (lambda clips: (clips / "b.txt").write_bytes(b"\xff\xfe\x00"), "UTF-8"),
        (lambda clips: (clips.parent / "hallo" / "b.mp4").unlink(), "holds no video b"),
        (lambda clips: (clips.parent / "hallo" / "b.mp4").write_bytes(b""), "b.mp4 cannot be read"),
    ],
)
def test_what_is_wrong_is_named(clips, damage, message):
    damage(clips)
    with pytest.raises(DatasetError, match=message):
        find_material(clips, [clips.parent / "hallo"])


def test_pairs_need_no_sound_where_it_is_not_measured(clips, tmp_path):
    without_sound(clips / "a.mp4")
    with pytest.raises(DatasetError, match="a.mp4 has no sound"):
        find_material(clips, need_sound=False)
    for part in ("real", "generated"):
        shutil.copytree(clips, tmp_path / "pairs" / part)
    assert len(find_material(tmp_path / "pairs", need_sound=False).cases) == 2
    with pytest.raises(DatasetError, match="a.mp4 has no sound"):
        find_material(tmp_path / "pairs")


def test_systems_have_names_of_their_own(clips, tmp_path):
    other = tmp_path / "other" / "hallo"
    shutil.copytree(tmp_path / "hallo", other)
    with pytest.raises(InvalidArgumentError, match="two systems are called hallo"):
        find_material(clips, [tmp_path / "hallo", other])
    with pytest.raises(InvalidArgumentError, match="called real"):
        find_material(clips, [shutil.move(other, Path(tmp_path / "real"))])
    with pytest.raises(InvalidArgumentError, match="--limit 0"):
        find_material(clips, limit=0)
