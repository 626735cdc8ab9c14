"""Is the mouth as sharp as a real one? Variance of the Laplacian, compared at equal lip opening."""

from collections.abc import Sequence

import numpy as np

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def laplacian_variance(image: np.ndarray) -> float:
    """Variance of the 4-neighbour Laplacian of the luma of `image` `(H, W, 3)`, H and W at least 3, rim left out."""
    luma = image.astype(np.float64) @ LUMA
    middle = luma[1:-1, 1:-1]
    laplacian = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * middle
    return float(laplacian.var())


def sharpness_ratio(
    generated: Sequence[np.ndarray],
    real: Sequence[np.ndarray],
    generated_openings: np.ndarray,
    real_openings: np.ndarray,
) -> float:
    """Laplacian variance of generated mouths over that of real ones.

    Each generated mouth is compared with the real one whose lips are open most nearly as wide, since open mouths have
    more edges than closed ones; the ratio is that of the two means.

    Args:
        generated, real: mouth regions of the frames, `(h, w, 3)` each; N and M of them.
        generated_openings, real_openings: `(N,)` and `(M,)` in the same unit.
    """
    nearest = np.abs(np.asarray(generated_openings)[:, None] - np.asarray(real_openings)[None]).argmin(1)
    sharpness = np.array([laplacian_variance(image) for image in real])
    return float(np.mean([laplacian_variance(image) for image in generated]) / max(sharpness[nearest].mean(), 1e-9))
