"""Landmarks of every frame of a video, by the face aligner that comes with the package, on all sides alike."""

from collections.abc import Iterable

import numpy as np

from ..errors import FaceNotFoundError, FaceTooSmallError, InvalidImageError
from ..modeling_face_aligner import FaceAlignerModel

MAX_LOST = 0.1  # of a video's frames; their landmarks are interpolated in time


def find_landmarks(aligner: FaceAlignerModel, frames: Iterable[np.ndarray], name: str) -> np.ndarray:
    """Landmarks `(T, 468, 2)` float32, in pixels, of the largest face in each of the frames `(H, W, 3) uint8`.

    Args:
        name: of the video, for the message.

    Raises:
        FaceNotFoundError: a face in fewer than 90 % of the frames.
    """
    found = []
    for frame in frames:
        try:
            found.append(aligner.align(frame, face_index=0).landmarks.astype(np.float32))
        except (FaceNotFoundError, FaceTooSmallError, InvalidImageError):
            found.append(None)
    try:
        return fill_lost(found).astype(np.float32)
    except FaceNotFoundError as error:
        raise FaceNotFoundError(f"{name}: {error}") from error


def fill_lost(found: list[np.ndarray | None]) -> np.ndarray:
    """Landmarks `(T, 468, 2)`; those of frames without any lie on the line between their neighbours'.

    Raises:
        FaceNotFoundError: more than a tenth of the frames have none.
    """
    seen = np.array([index for index, points in enumerate(found) if points is not None])
    if not len(seen) or len(found) - len(seen) > MAX_LOST * len(found):
        raise FaceNotFoundError(
            f"a face is seen in only {len(seen)} of {len(found)} frames: leave the clip out, or cut the face closer"
        )
    points = np.stack([found[index] for index in seen]).astype(np.float64)
    right = np.searchsorted(seen, np.arange(len(found))).clip(0, len(seen) - 1)
    left = np.where(seen[right] > np.arange(len(found)), right - 1, right).clip(0)
    span = np.maximum(seen[right] - seen[left], 1)
    share = ((np.arange(len(found)) - seen[left]) / span).clip(0, 1)[:, None, None]
    return points[left] * (1 - share) + points[right] * share
