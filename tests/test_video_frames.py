"""Frames on a steady clock that starts with the sound."""

from fractions import Fraction

import av
import numpy as np
import pytest

from avatarsync.errors import InvalidFrameRateError
from avatarsync.video_frames import read_clock, read_frames

STEP = 8  # grey levels from one frame to the next


def write(path, times, rate=25, time_base=Fraction(1, 12800), rotation=None, sound_from=None, shape=(64, 96)):
    """A video whose frame number can be read off its brightness; `times` in seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "1", "preset": "ultrafast", "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = *shape, "yuv420p"
        stream.codec_context.time_base = time_base
        if rotation is not None:
            stream.set_display_rotation(rotation)
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono") if sound_from is not None else None
        for index, time in enumerate(times):
            pixels = np.full((*shape, 3), 20 + STEP * index, np.uint8)
            pixels[: shape[0] // 4] = 255  # a white band shows which way is up
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(time / time_base), time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = 8000, Fraction(1, 8000), round(sound_from * 8000)
            container.mux(sound.encode(frame))
            container.mux(sound.encode())
    return path


def numbers(path, fps=None, own_sound=True):
    clock = read_clock(path, None if fps is None else Fraction(fps), own_sound)
    return clock, [round((float(frame[40:, :64].mean()) - 20) / STEP) for frame in read_frames(path, clock)]


@pytest.mark.parametrize("rate", (25, Fraction(30000, 1001), 10))
def test_a_steady_video_keeps_every_frame(tmp_path, rate):
    clock, found = numbers(write(tmp_path / "a.mp4", [k / rate for k in range(20)], rate))
    assert clock.fps == rate
    assert found == list(range(20))


def test_other_rates_repeat_or_leave_out_frames(tmp_path):
    path = write(tmp_path / "a.mp4", [k / 20 for k in range(20)], 20)
    _, slower = numbers(path, 10)
    assert slower == list(range(0, 20, 2))
    _, faster = numbers(path, 40)
    assert len(faster) == 40
    assert all(abs(number - k / 2) <= 0.5 for k, number in enumerate(faster))
    _, between = numbers(path, 15)
    assert len(between) == 15
    assert all(abs(number / 20 - k / 15) <= 0.5 / 20 + 1e-6 for k, number in enumerate(between))


def test_a_changing_rate_becomes_steady(tmp_path):
    times = [0, 0.04, 0.08, 0.3, 0.34, 0.38, 0.42, 0.6, 0.64]
    _, found = numbers(write(tmp_path / "a.mp4", times), 25)
    assert len(found) in (17, 18)  # how long the last frame stays is a guess
    for k, number in enumerate(found):
        assert abs(times[number] - k / 25) <= min(abs(time - k / 25) for time in times) + 1e-6


def test_the_clock_starts_with_the_sound(tmp_path):
    path = write(tmp_path / "a.mkv", [0.2 + k / 25 for k in range(20)], sound_from=0.4)
    clock, found = numbers(path)
    assert clock.has_sound
    assert found[0] == 5  # what was filmed before the sound is left out
    _, beside = numbers(path, own_sound=False)
    assert beside == list(range(20))


def test_pictures_stand_upright(tmp_path):
    for rotation, band in ((90, np.s_[:, :16]), (-90, np.s_[:, -16:]), (180, np.s_[-16:])):
        path = write(tmp_path / f"{rotation}.mp4", [k / 25 for k in range(3)], rotation=rotation)
        frame = next(read_frames(path, read_clock(path, None, True)))
        assert frame.shape == ((64, 96, 3) if rotation == 180 else (96, 64, 3))
        # Rotated counterclockwise, what was the top is on the left.
        assert frame[band].mean() > 240
        assert frame.mean() < 150


def test_what_is_no_steady_video_is_refused(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(av.FFmpegError):
        read_clock(tmp_path / "text.mp4", None, True)
    with pytest.raises(InvalidFrameRateError, match="--fps"):
        read_clock(write(tmp_path / "fast.mp4", [k / 100 for k in range(20)], 100), None, True)
