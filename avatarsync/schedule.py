"""When things are seen: frame k at k/fps exactly, one keyframe per phoneme, and which keyframes a frame lies between.

Frame times are counted with whole numbers, never summed, so that the ten-thousandth frame is as exact as the first.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import numpy as np

from avatarsync.errors import InvalidArgumentError, InvalidFrameRateError
from avatarsync.phonemes import SILENCE, Phoneme, PhonemeTrack, VisualMapping

MIN_FPS, MAX_FPS = 10, 60
# The decimals that people write for the NTSC rates, e.g. 29.97 for 30000/1001.
NTSC_RATES = tuple(Fraction(nominal * 1000, 1001) for nominal in (12, 15, 24, 30, 48, 60))
NTSC_TOLERANCE = Fraction(5, 1000)
# A longer phoneme, and above all a silence, gets several keyframes: one alone would stretch its neighbours into it.
MAX_UNIT_DURATION = 0.24
# Sentences of the training corpus end in four words, and a single unit before silence is taken for an end of theirs: a
# last /u/ was shut and not rounded. A vowel that a phrase ends with is two units, if neither is shorter than this, and
# the last of /oʊ/ is /u/: no sentence ends in it either, and "no" was not rounded at all.
MIN_UNIT_DURATION = 0.03
# Silent units before the first and after the last, so that speech begins and ends in the resting face: one more than
# keyframes look about at most (phase 3 of training), since the outermost one that is shown must see silence alone.
REST_UNITS, REST_DURATION = 4, 0.2
# Lips move before the sound: a regression from the units about a moment to the lip opening of GRID's training clips
# has r = 0.841 without a lead, 0.849 with 0.02 s, 0.852 with 0.04 s, and less from 0.06 s on.
LIP_LEAD = 0.04  # seconds
# How long after a closure the next keyframe lies at least: a share of a frame, since at the closure's own moment it
# would be seen in its place ("papa" did not close), and so many seconds, or that share of the time between the centres
# of the two if it is less. Lips take a tenth of a second to open; where people speak fast, keyframes that come early
# were reached 20 ms after a closure. (With the share alone, best lags of the mouth's width are within a frame in 88
# instead of 90 % of the held-out clips.)
AFTER_CLOSURE, RELEASE, RELEASE_SHARE = 0.25, 0.045, 0.75
# Rates of up to this denominator are taken as they are; every container's clock can count them.
MAX_DENOMINATOR = 1001


def parse_frame_rate(value: int | float | str | Fraction) -> Fraction:
    """Frames per second as an exact fraction.

    Args:
        value: a number or text, e.g. 25, 29.97, "30000/1001". Decimals within 0.005 of an NTSC rate (23.976, 29.97,
            59.94 …) are that rate; other values are taken to the nearest fraction of denominator at most 1001.

    Raises:
        InvalidFrameRateError: not a number, or outside 10 to 60.
    """
    advice = f'give a number from {MIN_FPS} to {MAX_FPS}, such as 25, 29.97 or "30000/1001"'
    try:
        if isinstance(value, bool):
            raise TypeError
        if isinstance(value, np.generic):
            value = value.item()
        exact = Fraction(value.strip() if isinstance(value, str) else value)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise InvalidFrameRateError(f"{value!r} is not a frame rate: {advice}") from error
    if not MIN_FPS <= exact <= MAX_FPS:
        raise InvalidFrameRateError(f"{value} frames per second is out of range: {advice}")
    written_as_decimal = isinstance(value, float | Decimal) or (isinstance(value, str) and "." in value)
    if written_as_decimal and exact.denominator > 1:
        for rate in NTSC_RATES:
            if abs(exact - rate) < NTSC_TOLERANCE:
                return rate
    return exact.limit_denominator(MAX_DENOMINATOR)


@dataclass(frozen=True)
class FrameSchedule:
    """The frames of a clip: `num_frames` of them, frame k shown from k/fps to (k+1)/fps.

    Args:
        duration: seconds of speech.
        fps: frames per second, anything that `parse_frame_rate` reads; kept as a `Fraction`.

    Raises:
        InvalidArgumentError: the duration is negative or not finite.
        InvalidFrameRateError: see `parse_frame_rate`.
    """

    duration: float
    fps: Fraction

    def __post_init__(self):
        if not (math.isfinite(self.duration) and self.duration >= 0):
            raise InvalidArgumentError(f"a clip cannot last {self.duration} seconds: give 0 or more")
        object.__setattr__(self, "fps", parse_frame_rate(self.fps))

    @property
    def num_frames(self) -> int:
        """The number of frames nearest to duration · fps, and at least 1."""
        return max(1, round(Fraction(self.duration) * self.fps))

    def time(self, index: int) -> Fraction:
        """When frame `index` is shown, in seconds, exactly."""
        return index / self.fps

    def times(self) -> np.ndarray:
        """When each frame is shown: float64 `(num_frames,)` seconds, each the double nearest to k/fps."""
        # k · denominator is a whole number that a double holds, so the one division is the one rounding.
        return np.arange(self.num_frames) * self.fps.denominator / self.fps.numerator


@dataclass(frozen=True)
class TimedUnit:
    """A visual unit from `start` to `end`, in seconds."""

    unit_id: int
    start: float
    end: float

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.end - self.start


def timed_units(track: PhonemeTrack, mapping: VisualMapping, duration: float) -> list[TimedUnit]:
    """The visual units of a track, without gaps from 0 to `duration` seconds: what keyframes are generated for.

    Gaps are silence; phonemes longer than 0.24 s become several units of equal length, and so does a vowel before
    silence, whose last unit is `VisualMapping.last_unit_id`.
    """
    silent, units, position = mapping.unit_id(SILENCE), [], 0.0
    following = [mapping.unit_id(phoneme.symbol) for phoneme in track][1:] + [silent]

    def add(unit_id: int, start: float, end: float, least: int = 1, last_id: int | None = None) -> None:
        pieces = max(least, math.ceil((end - start) / MAX_UNIT_DURATION - 1e-9))
        edges = [start + (end - start) * index / pieces for index in range(pieces)] + [end]
        ids = [unit_id] * (pieces - 1) + [unit_id if last_id is None else last_id]
        units.extend(map(TimedUnit, ids, edges[:-1], edges[1:]))

    for index, phoneme in enumerate(track):
        if phoneme.start > position + 1e-3:
            add(silent, position, phoneme.start)
        ends = following[index] == silent or track[index + 1].start > phoneme.end + 1e-3
        lasting = mapping.is_vowel(phoneme.symbol) and phoneme.duration >= 2 * MIN_UNIT_DURATION
        split = (2, mapping.last_unit_id(phoneme.symbol)) if ends and lasting else ()
        add(mapping.unit_id(phoneme.symbol), phoneme.start, phoneme.end, *split)
        position = phoneme.end
    if duration > position + 1e-3 or not units:
        add(silent, position, max(duration, position))
    return units


def surround_with_rest(units: list[TimedUnit], silent: int) -> list[TimedUnit]:
    """The units with silence before and after them, at times before 0 and beyond the end, where no frame lies."""
    first, last = units[0].start, units[-1].end
    before = [
        TimedUnit(silent, first - (index + 1) * REST_DURATION, first - index * REST_DURATION)
        for index in reversed(range(REST_UNITS))
    ]
    after = [
        TimedUnit(silent, last + index * REST_DURATION, last + (index + 1) * REST_DURATION)
        for index in range(REST_UNITS)
    ]
    return before + units + after


def keyframe_times(units: Iterable[Phoneme | TimedUnit]) -> np.ndarray:
    """When the keyframes lie: one per phoneme or unit, at its centre; float64 `(T_s,)` seconds."""
    return np.array([(unit.start + unit.end) / 2 for unit in units], dtype=np.float64)


def shown_keyframe_times(units: list[TimedUnit], closed: int, fps: Fraction) -> np.ndarray:
    """When the keyframes of units are shown, `(T_s,)` seconds, not decreasing: at their centres, a little early.

    Those of the unit `closed` lie on the frame nearest to the centre instead, if one lies within the unit: a closure
    lasts a frame or two, and between two frames it would never be seen shut, which is what people notice first. What
    follows one is less early where lips would have no time to open.
    """
    centres = keyframe_times(units)
    times, closure = centres - LIP_LEAD, -math.inf
    for index, unit in enumerate(units):
        frame = float(round(centres[index] * fps) / fps)
        if unit.unit_id == closed and unit.start <= frame <= unit.end:
            times[index] = closure = frame
        elif math.isfinite(closure):
            release = min(RELEASE, RELEASE_SHARE * (centres[index] - closure))
            times[index] = max(times[index], closure + max(release, float(AFTER_CLOSURE / fps)))
    return np.maximum.accumulate(times)


def locate(times: np.ndarray, keyframe_times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The keyframes that each moment lies between, for the timestamp-aware interpolation.

    Before the first keyframe the face holds the first (t = 0), after the last it holds the last (t = 1). A moment on
    a keyframe belongs to the pair that the keyframe begins. With a single keyframe both neighbours are that one.

    Args:
        times: `(T,)` seconds.
        keyframe_times: `(T_s,)` seconds, not decreasing.

    Returns:
        Index of the left and of the right keyframe, int64 `(T,)` each; relative time t in [0, 1], float64 `(T,)`; and
        the interval Δ between the two in seconds, float64 `(T,)`.

    Raises:
        InvalidArgumentError: there are no keyframes, or they run backwards.
    """
    times, keyframe_times = np.asarray(times, np.float64), np.asarray(keyframe_times, np.float64)
    if len(keyframe_times) == 0:
        raise InvalidArgumentError("the track has no phonemes, hence no keyframes: give at least one")
    if np.any(np.diff(keyframe_times) < 0):
        raise InvalidArgumentError("the keyframes run backwards: put the track's phonemes in order of time")
    last = len(keyframe_times) - 1
    left = np.clip(np.searchsorted(keyframe_times, times, side="right") - 1, 0, max(last - 1, 0))
    right = np.minimum(left + 1, last)
    interval = keyframe_times[right] - keyframe_times[left]
    elapsed = times - keyframe_times[left]
    # Two keyframes at one moment have no between: the later holds from there on.
    step = ((elapsed >= 0) & (right > left)).astype(np.float64)
    relative = np.divide(elapsed, interval, out=step, where=interval > 0)
    return left, right, np.clip(relative, 0.0, 1.0), interval
