"""Are lips closed when they must be: on /m/, /b/, /p/ and in silence?"""

import numpy as np

from ..phonemes import SILENCE, PhonemeTrack

BILABIALS = ("m", "b", "p")
SHORTEST_SILENCE = 0.2  # seconds; in shorter ones lips need not come to rest


def bilabial_centres(track: PhonemeTrack) -> np.ndarray:
    """Centres in seconds `(N,)` of the phonemes /m/, /b/ and /p/, with or without diacritics, IPA or ARPAbet."""
    return np.array([(p.start + p.end) / 2 for p in track if p.symbol[:1].lower() in BILABIALS])


def silence_centres(track: PhonemeTrack, shortest: float = SHORTEST_SILENCE) -> np.ndarray:
    """Centres in seconds `(N,)` of silences of at least `shortest` seconds: gaps, entries of silence, or both."""
    edges, spoken_until = [], 0.0
    for phoneme in track:
        if phoneme.symbol != SILENCE:
            edges.append((spoken_until, phoneme.start))
            spoken_until = phoneme.end
    edges.append((spoken_until, track.duration))
    return np.array([(start + end) / 2 for start, end in edges if end - start >= shortest - 1e-9])


def openings_at(gap: np.ndarray, seconds: np.ndarray, fps: float, percentile: float = 90) -> np.ndarray:
    """Openings `(N,)` at given moments, as shares of the clip's `percentile`: 0 is shut, 1 wide open.

    Args:
        gap: inner-lip gap of each frame `(T,)`, in any unit; frame k is shown at k / fps.
        seconds: moments `(N,)`; of each the nearest frame counts.
    """
    frames = np.clip(np.rint(np.asarray(seconds) * fps).astype(int), 0, len(gap) - 1)
    return gap[frames] / max(np.percentile(gap, percentile), 1e-9)
