"""The visual tokenizer alone: what is lost between a real face and its reconstruction from codes.

Each held-out face is encoded beside a reference of the same person, quantised, and decoded on that reference, whose
mouth would be the answer of a model that does nothing. Speaker: other frames of a clip on its first frame. Unseen
faces: held-out portraits, reenacted by frames of held-out clips, on the portrait itself.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from avatarsync import VisualTokenizerModel
from avatarsync.data.dataset import Rows, load
from avatarsync.data.reenactment import reenact
from avatarsync.errors import DatasetError
from avatarsync.expression_transfer import ExpressionTransfer
from avatarsync.metrics import psnr

from .motion import cut, mouth_region

EVERY_NTH_FRAME = 5
DRIVERS_PER_PORTRAIT = 4

# Reference, and the pictures to reconstruct: pixels (3, S, S) and (B, 3, S, S) in [0, 255], landmarks in fractions.
Case = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def held_out_rows(folder: Path) -> tuple[Rows, Rows]:
    """The held-out clips and portraits of a dataset.

    Raises:
        DatasetError: it is none, or holds nothing out.
    """
    data = load(folder)
    if not (data.clips and len(data.clips["test"]) and data.portraits and len(data.portraits["test"])):
        raise DatasetError(f"{folder} holds out no clips or no portraits: make it of both with prepare_data.py")
    return Rows(data.clips["test"]), Rows(data.portraits["test"])


def read_faces(rows: Rows, index: int, frames: Iterable[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops `(B, 3, S, S)` in [0, 255] and landmarks `(B, 468, 2)` in fractions of S of some frames of a row."""
    frames = list(frames)
    crops = np.stack([rows.crop(index, frame) for frame in frames])
    return torch.from_numpy(crops).permute(0, 3, 1, 2).float(), torch.from_numpy(rows.landmarks(index)[frames])


def speaker_cases(clips: Rows, limit: int) -> Iterator[Case]:
    """Every fifth frame of each clip on its first."""
    for index in range(min(limit, len(clips))):
        crops, landmarks = read_faces(clips, index, range(0, int(clips.num_frames[index]), EVERY_NTH_FRAME))
        yield crops[0], landmarks[0], crops[1:], landmarks[1:]


def portrait_cases(portraits: Rows, clips: Rows, transfer: ExpressionTransfer, limit: int) -> Iterator[Case]:
    """Each portrait reenacted by frames of random clips (seed 0), on itself."""
    random = np.random.default_rng(0)
    for index in range(min(limit, len(portraits))):
        drivers = []
        for clip in random.integers(len(clips), size=DRIVERS_PER_PORTRAIT):
            drivers.append(read_faces(clips, clip, [random.integers(clips.num_frames[clip])]))
        frames, frame_landmarks = (torch.cat(parts) for parts in zip(*drivers, strict=True))
        crops, landmarks = read_faces(portraits, index, [0])
        pictures, targets = reenact(
            crops.expand(len(frames), -1, -1, -1),
            landmarks.expand(len(frames), -1, -1),
            frames,
            frame_landmarks,
            transfer,
        )
        yield crops[0], landmarks[0], pictures.round(), targets


@torch.inference_mode()
def reconstruction_gains(model: VisualTokenizerModel, cases: Iterator[Case]) -> np.ndarray:
    """Mouth PSNR over copying the reference, in dB `(N, 2)` of each case: by the codes alone, and with the painter
    alone (codes, but the true landmarks)."""
    gains = []
    for reference, reference_landmarks, pictures, landmarks in cases:
        prepared = model.prepare_reference(reference[None] / 127.5 - 1, reference_landmarks[None])
        prepared = prepared.expand(len(pictures))
        codes = model.quantize(model.encode(pictures / 127.5 - 1, prepared.pixels)).codes
        drawn = [model.decode(codes, prepared).pixels, model.paint(codes, prepared, landmarks).pixels]
        drawn = [((pixels + 1) * 127.5).round().clamp(0, 255) for pixels in drawn]
        copied = reference.expand_as(pictures)
        truth, *candidates = (part.permute(0, 2, 3, 1).numpy() for part in (pictures, *drawn, copied))
        errors = []
        for index, points in enumerate(landmarks.numpy() * pictures.shape[-1]):
            region = mouth_region(points, *truth.shape[1:3])
            real = cut(truth[index], region)
            errors.append([np.mean(np.square(cut(candidate[index], region) - real)) for candidate in candidates])
        decoded, painted, copy = psnr(np.mean(errors, 0))
        gains.append([decoded - copy, painted - copy])
    return np.array(gains)
