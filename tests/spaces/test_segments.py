"""Closed segments of video, in files and in the stream."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from segments import TransportStream, VideoFormat, encode_segment, write_mp4

from avatarsync.video import PROVENANCE, TITLE


def moving_frames(count, height=96, width=129):
    """A bright bar that moves two pixels a frame over a gradient."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[...] = np.linspace(20, 120, width).astype(np.uint8)[:, None]
    for index, frame in enumerate(frames):
        frame[:, 2 * index : 2 * index + 8] = 230
    return frames


def tone(seconds, rate=22050):
    return (0.4 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)).astype(np.float32), rate


def decoded(source):
    with av.open(source) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.fixture(scope="module")
def clip():
    video_format = VideoFormat(Fraction(25), 96, 129)
    frames = moving_frames(30)
    return video_format, frames, [encode_segment(frames[first : first + 10], video_format) for first in (0, 10, 20)]


def test_a_segment_has_a_packet_for_each_frame_and_is_the_same_every_time(clip):
    video_format, frames, segments = clip
    assert [len(segment) for segment in segments] == [10, 10, 10]
    assert encode_segment(frames[10:20], video_format) == segments[1]


def test_the_mp4_has_all_frames_the_sound_and_the_mark(clip, tmp_path):
    video_format, frames, segments = clip
    audio, rate = tone(1.2)
    write_mp4(tmp_path / "clip.mp4", segments, video_format, audio, rate)
    shown = decoded(str(tmp_path / "clip.mp4"))
    assert len(shown) == 30 and shown[0].shape == (96, 130, 3)
    assert np.abs(np.stack(shown)[:, :, :129].astype(int) - frames).mean() < 4
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert container.metadata["title"] == TITLE and container.metadata["comment"] == PROVENANCE
        video, sound = container.streams.video[0], container.streams.audio[0]
        assert float(video.duration * video.time_base) == pytest.approx(1.2)
        assert float(sound.duration * sound.time_base) == pytest.approx(1.2, abs=0.03)
        heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
        assert 0.2 < np.sqrt(np.mean(heard[2000:-2000] ** 2)) < 0.4
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_other_segments_stay_byte_for_byte(clip, tmp_path):
    video_format, frames, segments = clip
    audio, rate = tone(1.2)
    other = 255 - frames[10:20]
    write_mp4(tmp_path / "one.mp4", segments, video_format, audio, rate)
    write_mp4(
        tmp_path / "two.mp4",
        [segments[0], encode_segment(other, video_format), segments[2]],
        video_format,
        audio,
        rate,
    )
    one, two = decoded(str(tmp_path / "one.mp4")), decoded(str(tmp_path / "two.mp4"))
    same = [np.array_equal(*pair) for pair in zip(one, two, strict=True)]
    assert same == [True] * 10 + [False] * 10 + [True] * 10


def test_a_file_that_cannot_be_written_leaves_nothing(clip, tmp_path):
    video_format, _, segments = clip

    def broken():
        yield segments[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_mp4(tmp_path / "clip.mp4", broken(), video_format, *tone(1.2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fps", [Fraction(10), Fraction(25), Fraction(30000, 1001), Fraction(60)])
def test_each_piece_of_the_stream_has_the_frames_of_its_segment(fps):
    video_format = VideoFormat(fps, 96, 128)
    length = round(fps / 2)
    frames = moving_frames(3 * length, width=128)
    audio, rate = tone(float(3 * length / fps))
    stream = TransportStream(video_format, audio, rate)
    pieces = []
    for index in range(3):
        segment = encode_segment(frames[index * length : (index + 1) * length], video_format)
        pieces.append(stream.append(segment, last=index == 2))
    times, sounds = [], []
    for data, seconds in pieces:
        assert seconds == pytest.approx(float(length / fps)) and len(data) % 188 == 0
        assert len(decoded(io.BytesIO(data))) == length  # each can be shown on its own
        with av.open(io.BytesIO(data)) as container:
            for packet in container.demux():
                if packet.pts is not None:
                    (times if packet.stream.type == "video" else sounds).append(float(packet.pts * packet.time_base))
    # On one clock, without gaps, the sound in step with the pictures.
    assert np.diff(times) == pytest.approx(np.full(3 * length - 1, float(1 / fps)), abs=2e-5)
    assert np.diff(sounds) == pytest.approx(np.full(len(sounds) - 1, 1024 / 44100), abs=2e-5)
    assert sounds[0] == pytest.approx(times[0], abs=0.03)
    assert sounds[-1] == pytest.approx(times[-1] + float(1 / fps), abs=0.06)
