"""Whether picture and sound of a clip belong together: by how many frames is the picture late?

Lips open on vowels, and vowels are loud between 400 and 1,000 Hz, where most first formants lie. So lip opening and
the energy of that band are correlated at lags of up to 8 frames. Both lose what changes slower than a syllable first:
otherwise any two stretches of speech between two silences correlate.

Speech is rhythmic, so on a few seconds the second-best lag is a syllable away and sometimes wins by chance. A clip
counts as off only where the lag outside beats the best one inside by a margin, which shrinks with the clip's length.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import butter, sosfiltfilt

MAX_SHIFT = 8  # frames
VOWEL_BAND = (400, 1000)  # Hz
COMPRESSION = 0.3  # of the energy, about as loudness grows
SYLLABLE = 0.12  # seconds: standard deviation of what is taken off as slow
# Of 577 clips of 3 s in sync, 1 % are beaten by this margin; moved by 5 or 6 frames, half of them are. Of stretches of
# 18 s in sync none is, and five of six when moved. The constants were chosen on these very clips, of one speaker.
MARGIN, MARGIN_SECONDS = 0.25, 3.0
MIN_CORRELATION = 0.35


@dataclass
class Sync:
    """`lag` in frames by which the picture is late, the `correlation` there, and whether it is `clear`.

    Where it is not clear, `lag` is the best one within the tolerance.
    """

    lag: int
    correlation: float
    clear: bool


def vowel_energy(audio: np.ndarray, sampling_rate: int, fps: float, num_frames: int) -> np.ndarray:
    """Compressed energy `(num_frames,)` of the vowel band of mono `audio` `(samples,)` while each frame is shown."""
    band = butter(2, VOWEL_BAND, "bandpass", fs=sampling_rate, output="sos")
    power = np.concatenate([[0], np.cumsum(np.square(sosfiltfilt(band, audio.astype(np.float64))))])
    edges = np.clip(np.round(np.arange(num_frames + 1) / fps * sampling_rate).astype(int), 0, len(audio))
    return np.maximum(np.diff(power[edges]) / np.maximum(np.diff(edges), 1), 0) ** COMPRESSION


def lag_correlations(opening: np.ndarray, energy: np.ndarray, fps: float) -> np.ndarray:
    """Pearson's r of lip opening with energy `(T,)` each, at lags of -8 to 8 frames: `(17,)`, 0 where undefined."""
    opening, energy = (values - gaussian_filter1d(values, SYLLABLE * fps) for values in (opening, energy))
    correlations = np.zeros(2 * MAX_SHIFT + 1)
    for index, lag in enumerate(range(-MAX_SHIFT, MAX_SHIFT + 1)):
        seen = opening[max(0, lag) : len(opening) + min(0, lag)]
        heard = energy[max(0, -lag) : len(energy) + min(0, -lag)]
        if len(seen) > 2 and seen.std() > 0 and heard.std() > 0:
            correlations[index] = np.corrcoef(seen, heard)[0, 1]
    return correlations


def check_sync(opening: np.ndarray, audio: np.ndarray, sampling_rate: int, fps: float, max_lag: int) -> Sync:
    """Estimate by how many frames the picture is late.

    Args:
        opening: `(T,)` lip opening in any unit.
        audio: mono `(samples,)`, from when the first frame is shown.
        max_lag: frames of tolerance: a lag beyond needs proof, one within does not.
    """
    correlations = lag_correlations(opening, vowel_energy(audio, sampling_rate, fps, len(opening)), fps)
    lags = np.arange(-MAX_SHIFT, MAX_SHIFT + 1)
    best = int(correlations.argmax())
    inside = int(np.where(np.abs(lags) <= max_lag, correlations, -np.inf).argmax())
    margin = MARGIN * np.sqrt(MARGIN_SECONDS * fps / len(opening))
    strong = correlations[best] >= MIN_CORRELATION
    if abs(lags[best]) > max_lag and strong and correlations[best] - correlations[inside] > margin:
        return Sync(int(lags[best]), float(correlations[best]), True)
    return Sync(int(lags[inside]), float(correlations[inside]), bool(strong and best == inside))
