"""Boxes about parts of the face, in whole pixels."""

from collections.abc import Sequence

import numpy as np

# (top, bottom, left, right): rows top … bottom - 1, columns left … right - 1.
Region = tuple[int, int, int, int]


def contour_region(
    landmarks: np.ndarray, points: Sequence[int], margin: float, height: int, width: int
) -> Region | None:
    """The box about some landmarks, wider by `margin` of its width on all four sides, cut to the picture.

    Args:
        landmarks: `(..., 468, 2)` in pixels; the box holds them in all frames.
        points: which of them.

    Returns:
        None where the box lies outside of the picture.
    """
    chosen = landmarks[..., list(points), :2].reshape(-1, 2)
    low, high = chosen.min(0), chosen.max(0)
    margin = margin * (high[0] - low[0])
    left, top = np.floor(np.maximum(low - margin, 0)).astype(int)
    right, bottom = np.ceil(np.minimum(high + margin + 1, (width, height))).astype(int)
    if right <= left or bottom <= top:
        return None
    return int(top), int(bottom), int(left), int(right)


def region_mask(region: Region | None, height: int, width: int) -> np.ndarray:
    """`(height, width)` bool, True inside."""
    mask = np.zeros((height, width), bool)
    if region is not None:
        top, bottom, left, right = region
        mask[top:bottom, left:right] = True
    return mask
