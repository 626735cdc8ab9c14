"""What phonemes say of the tongue and the lips beside the codes.

Codes say how one man speaks. Nothing in them holds of the tongue, for faces whose mouths are drawn
(`mouth_interior.py`), and of the lips they say what he does: on /u/ his mouth gets 4 % narrower, on /θ ð/ and /f v/
his lips all but shut. Phoneticians say more, and it is what people read from lips: /u w/ are rounded, /θ ð/ show the
tip of the tongue between the teeth, /f v/ the lower lip under the upper ones. `ExpressionTransfer` does at least that;
where codes do more, they are followed.

Nor does he ever say a vowel between two closures: no word of his sentences is "map" or "mum", and codes keep lips all
but shut there. Such vowels ask for most of the opening that they have elsewhere, of every face whose own way of
speaking is not known.

Consonants whose lips are free are as round as the vowels about them are, from one to the next, and what is between two
rounded sounds for less than a tenth of a second is not said with spread lips. Between keyframes everything glides as
lips do.
"""

from collections.abc import Sequence

import numpy as np

from .schedule import locate
from .smooth_step import smooth_step

# By visual unit; none is 0. The tip of the tongue: 0 low, 1 between the teeth.
TONGUE = {
    "TH": 1.0, "L": 0.8, "T": 0.7, "S": 0.6, "CH": 0.5, "Y": 0.5, "IY": 0.5, "EY": 0.4, "IH": 0.4, "K": 0.3, "R": 0.3,
    "EH": 0.25, "AY": 0.2, "AH": 0.15,
}  # fmt: skip
# How rounded lips are, and how much units whose lips are free take of their neighbours' rounding: /s/ is not said
# without teeth.
PURSED = {"UW": 1.0, "W": 1.0, "OW": 0.75, "CH": 0.6, "AO": 0.5, "R": 0.4, "AW": 0.25}
FREE = {"M": 1.0, "K": 1.0, "T": 0.8, "L": 0.8, "Y": 0.8, "S": 0.6}
# A unit is as rounded as the mean of those nearer than this, in seconds; the nearer and rounder, the more they count.
ROUNDING_REACH, ROUNDED_WEIGHT = 0.12, 3.0
# The lower lip under the upper teeth.
BITTEN = {"F": 1.0}
# Lips that are apart, so that one sees what is behind them. (His sentences end in "soon" and "again", and his mouth
# shuts with them; /ɜ/, whose unit is "R", he never says, and hardly opens his lips for /ɹ/.)
PARTED = {
    "TH": 1.0, "R": 1.0, "CH": 1.0, "W": 0.7, "L": 0.6, "S": 0.6, "T": 0.5, "K": 0.5, "Y": 0.5, "AH": 0.5, "UW": 0.5,
    "OW": 0.5,
}  # fmt: skip
# Lips that are wide open, in vowels between lips that shut: some eight tenths of how far codes open them elsewhere,
# all of it for "AH" (/ʌ/ and the schwa), as shares of the widest.
OPENED = {
    "AA": 1.0, "AW": 0.9, "AY": 0.9, "AE": 0.8, "EY": 0.8, "EH": 0.7, "AO": 0.6, "OW": 0.55, "AH": 0.55, "IY": 0.55,
    "IH": 0.5, "R": 0.4, "UW": 0.35,
}  # fmt: skip
SHUTTING = ("M", "F")  # one at least is the first
# Between closures that are nearer to each other, in seconds, there is less time to open.
OPENING_TIME = 0.2

NAMES = ("tongue", "pursed", "bitten", "parted", "opened")


def unit_articulators(units: Sequence[str], times: np.ndarray) -> np.ndarray:
    """What visual units ask of `NAMES`: `(T_s, 5)` float64, 0 to 1 each.

    Args:
        units: their names.
        times: `(T_s,)` seconds, when they are shown.
    """
    tables = (TONGUE, PURSED, BITTEN, PARTED)
    asked = np.array([[table.get(unit, 0.0) for table in tables] for unit in units]).reshape(len(units), len(tables))
    asked[:, 1] = _rounding(asked[:, 1], np.array([FREE.get(unit, 0.0) for unit in units]), times)
    return np.concatenate([asked, _opening(units, times)[:, None]], 1)


def _opening(units: Sequence[str], times: np.ndarray) -> np.ndarray:
    """How wide units open their lips `(T_s,)` that lie, with nothing but vowels beside them, between two that shut."""
    opened, before = np.zeros(len(units)), None
    for index, unit in enumerate(units):
        if unit in OPENED:
            continue
        if before is not None and unit in SHUTTING and SHUTTING[0] in (unit, units[before]):
            vowels = slice(before + 1, index)
            time = min(1.0, (times[index] - times[before]) / OPENING_TIME)
            opened[vowels] = [time * OPENED[vowel] for vowel in units[vowels]]
        before = index if unit in SHUTTING else None
    return opened


def _rounding(own: np.ndarray, free: np.ndarray, times: np.ndarray) -> np.ndarray:
    """How rounded units are `(T_s,)`, of how rounded they are by themselves and what they take of their neighbours."""
    bound = np.flatnonzero(free == 0)
    if len(bound) == 0:
        return own
    rounded = own + free * np.interp(np.arange(len(own)), bound, own[bound])
    weight = 1 + (ROUNDED_WEIGHT - 1) * rounded
    total, weights, apart = weight * rounded, weight.copy(), 1
    while apart < len(own):
        near = np.clip(1 - ((times[apart:] - times[:-apart]) / ROUNDING_REACH) ** 2, 0, None) ** 2
        if not near.any():
            break
        for here, there in ((slice(apart, None), slice(None, -apart)), (slice(None, -apart), slice(apart, None))):
            total[here] += near * (weight * rounded)[there]
            weights[here] += near * weight[there]
        apart += 1
    return total / weights


def articulators_at(times: np.ndarray, keyframe_times: np.ndarray, articulators: np.ndarray) -> np.ndarray:
    """The same at `times` `(T,)` in seconds; float32 `(T, 5)`.

    Args:
        keyframe_times, articulators: `(T_s,)`, when each unit is shown, and `(T_s, 5)`, what it asks for.
    """
    left, right, relative, _ = locate(times, keyframe_times)
    share = smooth_step(relative)[:, None]
    return (articulators[left] * (1 - share) + articulators[right] * share).astype(np.float32)
