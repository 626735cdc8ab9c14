"""What the pipeline returns."""

import os
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from avatarsync.phonemes import PhonemeTrack
from avatarsync.processing_avatarsync import ScheduledSpeech
from avatarsync.video import VideoWriter


@dataclass(frozen=True, repr=False)
class Making:
    """How a video was made: what rendering parts of it again needs.

    Attributes:
        image: the portrait `(H, W, 3) uint8`.
        schedule: its units, keyframes and frames.
        options: the other arguments of `AvatarSyncPipeline.stream`: seed, temperature, blink …
        identity: the adapter that spoke, None for the base.
    """

    image: np.ndarray
    schedule: ScheduledSpeech
    options: dict[str, Any]
    identity: str | None = None


@dataclass(repr=False, eq=False)
class TalkingHeadVideo:
    """A talking-head video in memory.

    Attributes:
        frames: `(T, H, W, 3) uint8` RGB; frame k is shown at k/fps.
        audio: float32 `(samples,)` or `(samples, channels)` in [-1, 1].
        sampling_rate: samples of `audio` per second.
        fps: frames per second, exactly.
        track: the phonemes that the lips follow.
        making: how it was made, for `AvatarSyncPipeline.rerender`; None of a video put together by hand.
    """

    frames: np.ndarray
    audio: np.ndarray
    sampling_rate: int
    fps: Fraction
    track: PhonemeTrack
    making: Making | None = None

    @property
    def duration(self) -> float:
        """Seconds that the frames last."""
        return float(len(self.frames) / self.fps)

    def save(self, path: str | os.PathLike, force: bool = False) -> None:
        """Write an mp4 file (H.264 + AAC), whole or not at all; see `VideoWriter`.

        Raises:
            OutputError: the name does not end in .mp4, the file exists (`force=True` replaces it), or it cannot be
                written.
        """
        _, height, width, _ = self.frames.shape
        with VideoWriter(path, self.fps, height, width, self.audio, self.sampling_rate, force=force) as writer:
            for frame in self.frames:
                writer.write(frame)

    def __eq__(self, other) -> bool:
        """Whether the same is seen, heard and said, however it was made."""
        if not isinstance(other, TalkingHeadVideo):
            return NotImplemented
        return (
            (self.fps, self.sampling_rate, self.track) == (other.fps, other.sampling_rate, other.track)
            and np.array_equal(self.audio, other.audio)
            and np.array_equal(self.frames, other.frames)
        )

    def __repr__(self) -> str:
        count, height, width, _ = self.frames.shape
        return (
            f"TalkingHeadVideo({count} frames of {width}x{height} at {float(self.fps):g} fps, {self.duration:.2f} s,"
            f" audio {self.sampling_rate} Hz, {len(self.track)} phonemes)"
        )
