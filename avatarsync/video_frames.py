"""The frames of a video on a steady clock that starts with its sound."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from avatarsync.errors import InvalidFrameRateError
from avatarsync.schedule import parse_frame_rate


@dataclass(frozen=True)
class VideoClock:
    """When a video's frames are wanted: frame k at k / `fps` seconds after `start`.

    Attributes:
        fps: frames per second.
        start: the time in the file, in seconds, at which its sound starts (its picture, where it has no sound).
        has_sound: whether the file has a sound track.
    """

    fps: Fraction
    start: float
    has_sound: bool


def read_clock(path: Path, fps: Fraction | None, own_sound: bool) -> VideoClock:
    """The clock of a video: at `fps`, or as filmed where that is None.

    Args:
        own_sound: whether the sound is the file's own; another file's starts with the picture.

    Raises:
        av.FFmpegError: it cannot be read. InvalidFrameRateError: as filmed, but not at 10 to 60 frames per second.
    """
    with av.open(str(path.absolute())) as container:
        if not container.streams.video:
            raise InvalidFrameRateError("it has no picture")
        video = container.streams.video[0]
        if fps is None:
            try:
                # As a decimal, since averages over coarse time stamps miss the NTSC rates by a hair.
                fps = parse_frame_rate(float(video.average_rate or video.guessed_rate or 0))
            except InvalidFrameRateError as error:
                raise InvalidFrameRateError(f"filmed at {video.average_rate} frames per second: give --fps") from error
        first = container.streams.audio[0] if own_sound and container.streams.audio else video
        start = 0.0 if first.start_time is None else float(first.start_time * first.time_base)
        return VideoClock(fps, start, bool(container.streams.audio))


def read_frames(path: Path, clock: VideoClock) -> Iterator[np.ndarray]:
    """The frames `(H, W, 3) uint8`, upright, one at a time: frame k is the one filmed nearest to k / fps.

    A video of a steady rate keeps every frame; one of a changing rate repeats and leaves out what the clock asks for.

    Raises:
        av.FFmpegError: the file is damaged.
    """
    with av.open(str(path.absolute())) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        length = 1 / float(stream.average_rate or clock.fps)
        wanted, last, shown = 0, None, 0.0
        for frame in container.decode(stream):
            time = frame.time - clock.start if frame.time is not None else shown + length
            if last is not None:
                pixels = None
                while wanted / clock.fps < (shown + time) / 2:
                    pixels = _upright(last) if pixels is None else pixels
                    yield pixels
                    wanted += 1
            last, shown = frame, time
        if last is not None:
            pixels = _upright(last)
            while wanted < round((shown + length) * clock.fps):
                yield pixels
                wanted += 1


def _upright(frame: av.VideoFrame) -> np.ndarray:
    pixels = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4  # how telephones film: the picture lies, and says by how much
    return np.ascontiguousarray(np.rot90(pixels, turns))
