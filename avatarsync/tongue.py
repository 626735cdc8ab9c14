"""Where the tip of the tongue is: down behind the lower teeth, or raised to the upper ones.

Codes say nothing of it that holds for faces whose mouths are drawn (`mouth_interior.py`), but the phonemes do: /θ ð/
put it between the teeth, /l/ and /t d n/ behind the upper ones; in front vowels it is half raised. Between keyframes
it glides as lips do.
"""

from collections.abc import Iterable

import numpy as np

from .schedule import locate
from .smooth_step import smooth_step

# By visual unit; 0 is low, where all others leave it, and 1 between the teeth.
HEIGHTS = {
    "TH": 1.0, "L": 0.8, "T": 0.7, "S": 0.6, "CH": 0.5, "Y": 0.5, "IY": 0.5, "EY": 0.4, "IH": 0.4, "K": 0.3, "R": 0.3,
    "EH": 0.25, "AY": 0.2, "AH": 0.15,
}  # fmt: skip


def unit_heights(units: Iterable[str]) -> np.ndarray:
    """Heights `(T_s,)` float64, 0 to 1, of visual units by name."""
    return np.array([HEIGHTS.get(unit, 0.0) for unit in units], np.float64)


def tongue_heights(times: np.ndarray, keyframe_times: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """Height of the tip, 0 low to 1 between the teeth, at `times` `(T,)` in seconds; float32 `(T,)`.

    Args:
        keyframe_times, heights: `(T_s,)`, when each unit is shown, and its height.
    """
    left, right, relative, _ = locate(times, keyframe_times)
    share = smooth_step(relative)
    return (heights[left] * (1 - share) + heights[right] * share).astype(np.float32)
