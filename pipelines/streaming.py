"""Frames one by one, in memory that does not grow with the length of the speech.

Batches of frames are drawn beside each other, each by one thread (`solo_threads`), while another thread already finds
the codes of later ones. Whoever takes the frames (and encodes them) has his own thread meanwhile.
"""

import copy
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from fractions import Fraction

import numpy as np
import torch
from avatarsync.pipelines.solo_threads import ahead, compute_in, solo_threads
from avatarsync.pipelines.usual_settings import usual_settings

from avatarsync.articulators import articulators_at
from avatarsync.blinking import eye_openness
from avatarsync.head_motion import head_poses
from avatarsync.modeling_avatarsync import AvatarSyncModel
from avatarsync.modeling_visual_tokenizer import Reference
from avatarsync.outputs import Making
from avatarsync.phonemes import PhonemeTrack, Speech
from avatarsync.processing_avatarsync import ScheduledSpeech
from avatarsync.rendering import BATCH_MULTIPLE, FaceRenderer

FRAMES_AT_ONCE = 8
# Of the moving part of the picture: of a face that fills a 4K picture, two frames are drawn together.
PIXELS_AT_ONCE = 2**24
MOST_DRAWING = 4  # threads that draw; each holds a batch

Frames = Generator[np.ndarray, None, None]  # (H, W, 3) uint8


class FrameStream:
    """An iterator over the frames `(H, W, 3) uint8` of one talking video.

    Whoever does not take all of them may `close` it; it is closed when nobody holds it any more, and when Python ends.

    Args:
        personalise: what is known of the present identity, told to a reference (`Identities.personalise`).

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
        personalise: Callable[[Reference], Reference],
        making: Making,
    ):
        self.num_frames: int = schedule.frames.num_frames
        self.fps: Fraction = schedule.frames.fps
        self.height, self.width = renderer.image.shape[:2]
        self.audio, self.sampling_rate = speech.audio, speech.sampling_rate
        # A copy: whoever edits the speech afterwards does not rewrite what this video says of itself.
        self.track: PhonemeTrack = copy.deepcopy(speech.track)
        self.making = making
        self._device = model.device
        self._frames = self._generate(model, renderer, schedule, seed, temperature, blink, motion, personalise)
        # Generators that are left to the interpreter's own end find half of its modules gone.
        weakref.finalize(self, _close_unless_running, self._frames)

    def __len__(self) -> int:
        return self.num_frames

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def __next__(self) -> np.ndarray:
        with usual_settings(self._device):
            return next(self._frames)

    def close(self) -> None:
        """Draw no more frames, and let go of the threads that drew them."""
        self._frames.close()

    @staticmethod
    def _generate(model, renderer, schedule, seed, temperature, blink, motion, personalise) -> Frames:
        device = model.device
        # Noise is drawn on the CPU, so that a seed means the same on every device.
        generator = torch.Generator().manual_seed(seed)
        at_once = max(1, min(FRAMES_AT_ONCE, PIXELS_AT_ONCE // renderer.num_pixels))
        if at_once > BATCH_MULTIPLE:
            at_once -= at_once % BATCH_MULTIPLE  # the renderer would fill it up
        times = schedule.frames.times()
        openness = poses = None
        articulators = articulators_at(times, schedule.keyframe_times, schedule.articulators)
        articulators = torch.from_numpy(articulators).to(device)
        if blink:
            openness = torch.from_numpy(eye_openness(times, seed, schedule.frames.duration)).to(device)
        if motion == "subtle":
            poses = torch.from_numpy(head_poses(times, schedule.spoken(), seed)).to(device)

        codes = model.generate_codes(
            schedule.unit_ids.to(device),
            schedule.durations.to(device),
            schedule.keyframe_times,
            times,
            personalise(renderer.reference),
            temperature,
            generator,
        )

        def batches(blocks: Iterator[torch.Tensor]) -> Iterator[tuple]:
            """Arguments of `render`, few frames first: the first is waited for."""
            position, size = 0, min(BATCH_MULTIPLE, at_once)
            for block in blocks:
                start = 0
                while start < len(block):
                    part = block[start : start + size]
                    now = slice(position, position + len(part))
                    others = (openness, poses, articulators)
                    yield part, *(None if all_of is None else all_of[now] for all_of in others)
                    start, position, size = start + len(part), position + len(part), min(2 * size, at_once)

        with solo_threads(device, 1) as finding, solo_threads(device, MOST_DRAWING) as drawing:
            blocks = ahead(codes, finding)
            tables = None if drawing is None else drawing.submit(renderer.prepare)
            resting = compute_in(drawing, model.at_rest, renderer.reference, schedule.silent_unit)
            renderer.reference = personalise(resting)
            if tables is not None:
                tables.result()
            waiting = min(torch.get_num_threads(), MOST_DRAWING)
            drawn = deque()
            for number, batch in enumerate(batches(blocks)):
                if drawing is None:
                    yield from renderer.render(*batch)
                    continue
                drawn.append(drawing.submit(renderer.render, *batch))
                # The first batch is waited for: it is drawn alone.
                if number == 0 or len(drawn) > waiting:
                    yield from drawn.popleft().result()
            while drawn:
                yield from drawn.popleft().result()


def _close_unless_running(frames: Frames) -> None:
    """Python may end while another thread waits for a frame."""
    with suppress(ValueError):
        frames.close()
