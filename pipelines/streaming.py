"""Frames one by one, in memory that does not grow with the length of the speech."""

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import torch

from avatarsync.blinking import eye_openness
from avatarsync.modeling_avatarsync import AvatarSyncModel
from avatarsync.phonemes import PhonemeTrack, Speech
from avatarsync.processing_avatarsync import ScheduledSpeech
from avatarsync.rendering import FaceRenderer

FRAMES_AT_ONCE = 8


class FrameStream:
    """An iterator over the frames `(H, W, 3) uint8` of one talking video.

    Attributes:
        num_frames, fps, height, width: of the video.
        audio, sampling_rate, track: the speech that goes with it.
    """

    def __init__(
        self,
        model: AvatarSyncModel,
        renderer: FaceRenderer,
        speech: Speech,
        schedule: ScheduledSpeech,
        seed: int,
        temperature: float,
        blink: bool,
    ):
        self.num_frames: int = schedule.frames.num_frames
        self.fps: Fraction = schedule.frames.fps
        self.height, self.width = renderer.image.shape[:2]
        self.audio, self.sampling_rate = speech.audio, speech.sampling_rate
        self.track: PhonemeTrack = speech.track
        self._frames = self._generate(model, renderer, schedule, seed, temperature, blink)

    def __len__(self) -> int:
        return self.num_frames

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def __next__(self) -> np.ndarray:
        return next(self._frames)

    @staticmethod
    def _generate(model, renderer, schedule, seed, temperature, blink) -> Iterator[np.ndarray]:
        device = model.device
        generator = torch.Generator(device).manual_seed(seed)
        times = schedule.frames.times()
        openness = eye_openness(times, seed) if blink else np.ones(len(times), np.float32)
        openness = torch.from_numpy(openness).to(device)
        position = 0
        for codes in model.generate_codes(
            schedule.unit_ids.to(device),
            schedule.durations.to(device),
            schedule.keyframe_times,
            times,
            renderer.reference,
            temperature,
            generator,
        ):
            for start in range(0, len(codes), FRAMES_AT_ONCE):
                part = codes[start : start + FRAMES_AT_ONCE]
                yield from renderer.render(part, openness[position : position + len(part)])
                position += len(part)
