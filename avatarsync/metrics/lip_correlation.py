"""Do generated lips move as the real ones do?

Openings and widths are distances of two landmarks in units of the distance of the eye centres, so that neither the
size of the picture nor a head that comes nearer counts as motion of the mouth.
"""

import numpy as np

from ..image_processing_face import eye_distance

UPPER_INNER_LIP, LOWER_INNER_LIP = 13, 14
MOUTH_CORNERS = (61, 291)


def _distance(landmarks: np.ndarray, first: int, second: int) -> np.ndarray:
    return np.linalg.norm(landmarks[..., first, :2] - landmarks[..., second, :2], axis=-1) / eye_distance(landmarks)


def inner_lip_gap(landmarks: np.ndarray) -> np.ndarray:
    """Lip opening `(T,)`: distance of landmarks 13 and 14 of `(T, 468, 2)`, in eye distances."""
    return _distance(landmarks, UPPER_INNER_LIP, LOWER_INNER_LIP)


def mouth_width(landmarks: np.ndarray) -> np.ndarray:
    """Mouth width `(T,)`: distance of landmarks 61 and 291 of `(T, 468, 2)`, in eye distances."""
    return _distance(landmarks, *MOUTH_CORNERS)


def pearson(first: np.ndarray, second: np.ndarray) -> float:
    """Pearson's r of two curves `(T,)`; nan where either does not vary."""
    first, second = (np.asarray(curve, np.float64) - np.mean(curve) for curve in (first, second))
    size = np.sqrt((first @ first) * (second @ second))
    return float(first @ second / size) if size > 0 else float("nan")


def best_lag(generated: np.ndarray, real: np.ndarray, max_lag: int = 5) -> int:
    """The shift, in frames, at which `generated` `(T,)` correlates best with `real` `(T,)`; positive: it is late.

    Lags of -max_lag … max_lag are tried, each over the frames that both curves then have; of equals the smallest
    shift wins. Curves must be longer than `max_lag + 1` frames.
    """
    best, best_value = 0, -np.inf
    for lag in sorted(range(-max_lag, max_lag + 1), key=abs):
        late, early = (generated, real) if lag >= 0 else (real, generated)
        value = pearson(late[abs(lag) :], early[: len(early) - abs(lag)])
        if value > best_value + 1e-12:
            best, best_value = lag, value
    return best


def gain(generated: np.ndarray, real: np.ndarray) -> float:
    """How large the generated motion is: the ratio of the standard deviations; nan where `real` does not vary."""
    spread = np.std(real)
    return float(np.std(generated) / spread) if spread > 0 else float("nan")
