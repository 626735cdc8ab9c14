"""Frames one by one, in memory that does not grow with the length of the speech.

Batches of frames are drawn beside each other, each by one thread: their many small operations leave several threads
that share one batch idle. Whoever takes the frames (and encodes them) has his own thread meanwhile.
"""

import copy
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fractions import Fraction

import numpy as np
import torch

from avatarsync.blinking import eye_openness
from avatarsync.head_motion import head_poses
from avatarsync.modeling_avatarsync import AvatarSyncModel
from avatarsync.outputs import Making
from avatarsync.phonemes import PhonemeTrack, Speech
from avatarsync.processing_avatarsync import ScheduledSpeech
from avatarsync.rendering import BATCH_MULTIPLE, FaceRenderer

FRAMES_AT_ONCE = 8
# Of the moving part of the picture: a face that fills a 4K picture is drawn frame by frame.
PIXELS_AT_ONCE = 2_000_000
MOST_WORKERS = 4  # threads that draw; each holds a batch


class FrameStream:
    """An iterator over the frames `(H, W, 3) uint8` of one talking video.

    Attributes:
        num_frames, fps, height, width: of the video.
        audio, sampling_rate, track: the speech that goes with it.
        making: how the video is made, for `AvatarSyncPipeline.rerender`.
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
        motion: str,
        making: Making,
    ):
        self.num_frames: int = schedule.frames.num_frames
        self.fps: Fraction = schedule.frames.fps
        self.height, self.width = renderer.image.shape[:2]
        self.audio, self.sampling_rate = speech.audio, speech.sampling_rate
        # A copy: whoever edits the speech afterwards does not rewrite what this video says of itself.
        self.track: PhonemeTrack = copy.deepcopy(speech.track)
        self.making = making
        self._frames = self._generate(model, renderer, schedule, seed, temperature, blink, motion)

    def __len__(self) -> int:
        return self.num_frames

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def __next__(self) -> np.ndarray:
        return next(self._frames)

    @staticmethod
    def _generate(model, renderer, schedule, seed, temperature, blink, motion) -> Iterator[np.ndarray]:
        device = model.device
        # Noise is drawn on the CPU, so that a seed means the same on every device.
        generator = torch.Generator().manual_seed(seed)
        at_once = max(1, min(FRAMES_AT_ONCE, PIXELS_AT_ONCE // renderer.num_pixels))
        times = schedule.frames.times()
        openness = eye_openness(times, seed) if blink else np.ones(len(times), np.float32)
        openness = torch.from_numpy(openness).to(device)
        poses = None
        if motion == "subtle":
            poses = torch.from_numpy(head_poses(times, schedule.spoken(), seed)).to(device)

        def batches() -> Iterator[tuple]:
            """Arguments of `render`, few frames first: the first is waited for."""
            position, size = 0, min(BATCH_MULTIPLE, at_once)
            for codes in model.generate_codes(
                schedule.unit_ids.to(device),
                schedule.durations.to(device),
                schedule.keyframe_times,
                times,
                renderer.reference,
                temperature,
                generator,
            ):
                start = 0
                while start < len(codes):
                    part = codes[start : start + size]
                    now = slice(position, position + len(part))
                    yield part, openness[now], None if poses is None else poses[now]
                    start, position, size = start + len(part), position + len(part), min(2 * size, at_once)

        with _workers(device) as (pool, count):
            if pool is None:
                for batch in batches():
                    yield from renderer.render(*batch)
                return
            drawn = deque()
            for batch in batches():
                drawn.append(pool.submit(renderer.render, *batch))
                if len(drawn) > count:
                    yield from drawn.popleft().result()
            while drawn:
                yield from drawn.popleft().result()


@contextmanager
def _workers(device: torch.device) -> Iterator[tuple[ThreadPoolExecutor | None, int]]:
    """Threads that draw, as many as PyTorch may use; None where that is one, and drawing may as well happen here."""
    threads = torch.get_num_threads()
    count = min(threads, MOST_WORKERS) if device.type == "cpu" else 1
    if count == 1:
        yield None, 1
        return
    started = threading.Barrier(count)
    pool = ThreadPoolExecutor(count, "avatarsync-drawing", torch.set_num_threads, (1,))
    try:
        for future in [pool.submit(started.wait) for _ in range(count)]:
            future.result()
        # Each worker computes alone; threads that others start later are not to inherit that.
        torch.set_num_threads(threads)
        yield pool, count
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
