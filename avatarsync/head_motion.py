"""Small head motion: people raise their heads a little while they speak, and never hold them quite still.

On the bundled weights' training speaker (GRID s1) the head rises by about a third of the smoothed lip opening
(r = 0.7 to 0.9 with an opening smoothed over half a second), which comes to 0.9 % of the crop's side while he speaks.
That is the first part; the second is a slow seeded sway. Both are functions of the time and of the speech near it
alone, so that a frame does not depend on what is said a second later.
"""

import numpy as np

MOTIONS = ("subtle", "still")
HEAD_MOTION_REACH = 0.6  # seconds of speech around a frame that move its head
RISE = 0.009  # of the crop's side, while speaking
# Each of the sway's directions, x, y and roll: amplitude (of the crop's side, and radians) and periods in seconds.
SWAY = ((0.0045, (7.3, 4.1)), (0.003, (5.9, 3.3)), (0.006, (8.7, 4.7)))


def head_poses(times: np.ndarray, speaking: np.ndarray, seed: int) -> np.ndarray:
    """How far the head has moved from where the portrait has it: `(T, 3)` float32.

    Args:
        times: `(T,)` seconds.
        speaking: `(N, 2)` start and end in seconds of spans that are spoken, without overlaps.
        seed: of the sway; the same seed gives the same motion, whatever the frame rate.

    Returns:
        x, y (downwards) in fractions of the crop's side, and roll in radians (positive: clockwise in the picture).
    """
    times = np.asarray(times, np.float64)
    random = np.random.default_rng((seed, 1))
    poses = np.zeros((len(times), 3))
    for axis, (amplitude, periods) in enumerate(SWAY):
        phases = random.uniform(0, 2 * np.pi, len(periods))
        for share, period, phase in zip((0.65, 0.35), periods, phases, strict=True):
            # Less where it starts: a video begins with the portrait as it is.
            turns = 2 * np.pi * times / period
            poses[:, axis] += amplitude * share * (np.sin(turns + phase) - np.sin(phase))
    poses[:, 1] -= RISE * speech_share(times, speaking)
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
