"""From what is likely in every frame to phonemes with a beginning and an end."""

import numpy as np

from .log_mel import FRAME
from .types import Phoneme, PhonemeTrack

LEAST_FRAMES = 3  # nothing is said in less than 30 ms
SWITCH_COST = 2.0  # nats: of beginning another phoneme
PRIOR_WEIGHT = 0.3  # how much what is often said must be more likely than what is not


def best_path(scores: np.ndarray, switch_cost: float = SWITCH_COST, least_frames: int = LEAST_FRAMES) -> np.ndarray:
    """The phoneme of each frame, `(T,)`: of all paths whose phonemes last for `least_frames` or more, the one with the
    highest sum of scores less `switch_cost` for each change (Viterbi).

    Args:
        scores: `(T, C)` log-likelihoods. Fewer frames than `least_frames` are one phoneme.
    """
    frames, count = scores.shape
    if frames < least_frames:
        return np.full(frames, scores.sum(0).argmax())
    # Sums up to a frame of phonemes that began 0, 1, … frames before it, and of those that may end by now.
    young = [np.full(count, -np.inf) for _ in range(least_frames - 1)]
    old = np.full(count, -np.inf)
    before = np.zeros(frames, np.int64)  # what ends before a phoneme that begins in this frame
    lasts = np.zeros((frames, count), bool)  # whether an old phoneme was old a frame ago
    for frame, score in enumerate(scores):
        before[frame] = old.argmax()
        begun = score if frame == 0 else old[before[frame]] - switch_cost + score
        grown = [begun, *(sums + score for sums in young)]
        lasts[frame] = old + score >= grown[-1]
        old = np.maximum(old + score, grown.pop())
        young = grown
    path = np.empty(frames, np.int64)
    frame, phoneme = frames - 1, int(old.argmax())
    while frame >= 0:
        while lasts[frame, phoneme]:
            path[frame] = phoneme
            frame -= 1
        first = frame - least_frames + 1
        path[first : frame + 1] = phoneme
        frame, phoneme = first - 1, int(before[first])
    return path


def path_to_track(path: np.ndarray, phonemes: tuple[str, ...], duration: float, language: str) -> PhonemeTrack:
    """A path `(T,)` of frames that are centred at 0, 10, 20 … ms as a track of `duration` seconds."""
    track = PhonemeTrack(language=language, duration=duration)
    changes = np.flatnonzero(np.diff(path)) + 1
    edges = [0.0, *np.minimum((changes - 0.5) * FRAME, duration).tolist(), duration]
    for first, start, end in zip([0, *changes], edges[:-1], edges[1:], strict=True):
        if end > start:
            track.append(Phoneme(phonemes[path[first]], start, end))
    return track
