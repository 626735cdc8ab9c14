"""Small head motion: people lift their chins a little while they speak, and never hold their heads quite still.

On the bundled weights' training speaker (GRID s1) the face rises while he speaks and is foreshortened from top to
bottom, as of a head that tips back; it follows the speech by four tenths of a second. Speech within
`HEAD_MOTION_REACH` explains 46 % of the rise and 34 % of the foreshortening in his training clips, and 31 and 19 % in
held-out ones, in which he rises half as much again. That is the first part; the second is a slow seeded sway. Both
are functions of the time and of the speech near it alone, so that a frame does not depend on what is said a second
later.
"""

import numpy as np

from .smooth_step import smooth_step

MOTIONS = ("subtle", "still")
# Seconds of speech, before and after a moment that is `HEAD_LAG` ago, that move a head.
HEAD_MOTION_REACH, HEAD_LAG = 1.2, 0.4
RISE = 0.0175  # of the crop's side, while speaking
NOD = 0.0209  # by how much of its height the face is then foreshortened
# Each of the sway's directions, x, y and roll: amplitude (of the crop's side, and radians) and periods in seconds.
# Slow, and least up and down, which speech sees to: which way a head sways nobody knows, and a wrong guess looks less
# like the person than none. About the place that the portrait has, and growing from nothing within `SETTING_OUT`
# seconds.
SETTING_OUT = 2.5
SWAY = ((0.0045, (12.1, 6.7)), (0.0015, (9.7, 5.3)), (0.006, (14.3, 7.9)))


def head_poses(times: np.ndarray, speaking: np.ndarray, seed: int) -> np.ndarray:
    """How far the head has moved from where the portrait has it: `(T, 4)` float32.

    Args:
        times: `(T,)` seconds.
        speaking: `(N, 2)` start and end in seconds of spans that are spoken, without overlaps.
        seed: of the sway; the same seed gives the same motion, whatever the frame rate.

    Returns:
        x, y (downwards) in fractions of the crop's side, roll in radians (positive: clockwise in the picture), and the
        share by which the face is higher (negative: less high) than in the portrait.
    """
    times = np.asarray(times, np.float64)
    random = np.random.default_rng((seed, 1))
    poses = np.zeros((len(times), 4))
    begun = smooth_step(times / SETTING_OUT)
    for axis, (amplitude, periods) in enumerate(SWAY):
        phases = random.uniform(0, 2 * np.pi, len(periods))
        for share, period, phase in zip((0.65, 0.35), periods, phases, strict=True):
            poses[:, axis] += amplitude * share * begun * np.sin(2 * np.pi * times / period + phase)
    poses[:, [1, 3]] -= np.outer(speech_share(times - HEAD_LAG, speaking), (RISE, NOD))
    return poses.astype(np.float32)


def speech_share(times: np.ndarray, speaking: np.ndarray) -> np.ndarray:
    """Share `(T,)` of speech around each time, under a raised-cosine window of `HEAD_MOTION_REACH` to either side."""
    spans = np.asarray(speaking, np.float64).reshape(-1, 2)
    share = np.zeros(len(times))
    for start, end in spans:
        near = slice(*np.searchsorted(times, (start - HEAD_MOTION_REACH, end + HEAD_MOTION_REACH)))
        share[near] += _window_below(end - times[near]) - _window_below(start - times[near])
    return share


def _window_below(offsets: np.ndarray) -> np.ndarray:
    """The part of the window that lies below an offset from its middle, 0 to 1."""
    place = np.clip(offsets / HEAD_MOTION_REACH, -1, 1)
    return (1 + place + np.sin(np.pi * place) / np.pi) / 2
