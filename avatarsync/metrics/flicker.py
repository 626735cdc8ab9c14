"""Does the picture tremble?"""

import numpy as np


def second_differences(frames: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean squared second difference in time, `mean((x[t-1] - 2 x[t] + x[t+1])²)`, in grey levels².

    Steady and evenly moving brightness give 0; white noise of variance σ² gives 6 σ².

    Args:
        frames: `(T, H, W, 3) uint8`, T ≥ 3.
        mask: pixels that count, `(H, W)` bool, at least one.

    Returns:
        `(T - 2,)`, the value about frames 1 … T - 2, over the mask's pixels and their three channels.
    """
    values = []
    window = [frame[mask].astype(np.float32) for frame in frames[:2]]
    for frame in frames[2:]:
        window.append(frame[mask].astype(np.float32))
        before, now, after = window
        values.append(np.mean(np.square(before - 2 * now + after)))
        window.pop(0)
    return np.array(values, np.float64)
