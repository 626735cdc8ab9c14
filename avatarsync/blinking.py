"""Blinks: when the eyelids close, independent of the lips.

People blink 10 to 20 times a minute while they speak, at irregular intervals; a lid falls faster than it rises.
"""

import numpy as np

from .smooth_step import smooth_step

MEAN_INTERVAL = 4.0  # seconds between blinks
MIN_INTERVAL = 1.0
CLOSING, SHUT, OPENING = 0.09, 0.04, 0.17  # seconds
FIRST_BLINK = 0.8  # seconds: not before
# Seconds with open eyes at the end: players stop at the last frame, and a face is not left with half-shut eyes.
OPEN_AT_END = 0.2


def eye_openness(times: np.ndarray, seed: int, duration: float) -> np.ndarray:
    """Openness of the eyes, 1 open to 0 shut, at `times` `(T,)` in seconds; float32 `(T,)`.

    The same seed gives the same blinks, whatever the frame rate and however long the video; one that would not be over
    0.2 s before the video ends, at `duration` seconds, is left out.
    """
    times = np.asarray(times, np.float64)
    openness = np.ones(len(times), np.float32)
    random = np.random.default_rng(seed)
    start = random.uniform(FIRST_BLINK, MEAN_INTERVAL)
    length = CLOSING + SHUT + OPENING
    while start + length <= duration - OPEN_AT_END:
        first, last = np.searchsorted(times, [start, start + length])
        since = times[first:last] - start
        openness[first:last] = 1 - smooth_step(since / CLOSING) + smooth_step((since - CLOSING - SHUT) / OPENING)
        start += MIN_INTERVAL + length + random.exponential(MEAN_INTERVAL - MIN_INTERVAL)
    return openness
