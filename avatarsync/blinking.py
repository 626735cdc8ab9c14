"""Blinks: when the eyelids close, independent of the lips.

People blink 10 to 20 times a minute while they speak, at irregular intervals; a lid falls faster than it rises.
"""

import numpy as np

from .smooth_step import smooth_step

MEAN_INTERVAL = 4.0  # seconds between blinks
MIN_INTERVAL = 1.0
CLOSING, SHUT, OPENING = 0.09, 0.04, 0.17  # seconds


def eye_openness(times: np.ndarray, seed: int) -> np.ndarray:
    """Openness of the eyes, 1 open to 0 shut, at `times` `(T,)` in seconds; float32 `(T,)`.

    The same seed gives the same blinks, whatever the frame rate.
    """
    times = np.asarray(times, np.float64)
    openness = np.ones(len(times), np.float32)
    if len(times) == 0:
        return openness
    random = np.random.default_rng(seed)
    start = random.uniform(0.8, MEAN_INTERVAL)
    length = CLOSING + SHUT + OPENING
    while start < times[-1]:
        first, last = np.searchsorted(times, [start, start + length])
        since = times[first:last] - start
        openness[first:last] = 1 - smooth_step(since / CLOSING) + smooth_step((since - CLOSING - SHUT) / OPENING)
        start += MIN_INTERVAL + length + random.exponential(MEAN_INTERVAL - MIN_INTERVAL)
    return openness
