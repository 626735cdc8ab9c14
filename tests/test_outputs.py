import copy
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from avatarsync.errors import OutputError
from avatarsync.outputs import TalkingHeadVideo
from avatarsync.phonemes import Phoneme, PhonemeTrack, load_audio
from avatarsync.video_frames import read_clock


@pytest.fixture
def video():
    frames = np.zeros((30, 130, 150, 3), np.uint8)
    frames[:, :, :, 0] = np.arange(30)[:, None, None] * 8
    audio = 0.1 * np.ones(16000, np.float32)
    track = PhonemeTrack([Phoneme("m", 0.0, 0.4), Phoneme("a", 0.4, 1.0)])
    return TalkingHeadVideo(frames, audio, 16000, Fraction(30000, 1001), track)


def test_it_saves_what_it_holds(video, tmp_path):
    video.save(tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.height, stream.width, stream.average_rate) == (130, 150, video.fps)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.audio[0].rate == 16000
    assert np.abs(np.stack(frames)[..., 0].astype(int) - video.frames[..., 0]).mean() < 3


def test_it_does_not_overwrite_unasked(video, tmp_path):
    video.save(str(tmp_path / "a.mp4"))
    with pytest.raises(OutputError, match="force=True"):
        video.save(tmp_path / "a.mp4")
    video.save(tmp_path / "a.mp4", force=True)


@pytest.mark.parametrize("name", ["12:30.mp4", "file:a.mp4", f"{251 * 'a'}.mp4"], ids=["time", "scheme", "long"])
def test_any_name_of_a_file_here_is_one(video, tmp_path, monkeypatch, name):
    """To FFmpeg, what ends in a colon is the name of a protocol."""
    monkeypatch.chdir(tmp_path)
    video.save(name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert load_audio(name)[1] == 16000
    assert read_clock(Path(name), None, own_sound=True).fps == video.fps


def test_videos_are_compared(video):
    assert video == copy.deepcopy(video)
    other = copy.deepcopy(video)
    other.frames[0, 0, 0] += 1
    assert video != other


def test_its_description_is_short(video):
    assert video.duration == pytest.approx(30 * 1001 / 30000)
    assert repr(video) == "TalkingHeadVideo(30 frames of 150x130 at 29.97 fps, 1.00 s, audio 16000 Hz, 2 phonemes)"
