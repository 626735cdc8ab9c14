import itertools
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from avatarsync.errors import InvalidArgumentError, InvalidFrameRateError
from avatarsync.phonemes import Phoneme, PhonemeTrack, VisualMapping
from avatarsync.schedule import (
    LIP_LEAD,
    RELEASE_SHARE,
    REST_DURATION,
    REST_UNITS,
    FrameSchedule,
    TimedUnit,
    keyframe_times,
    locate,
    parse_frame_rate,
    shown_keyframe_times,
    surround_with_rest,
    timed_units,
)

RATES = [10, 12.5, "23.976", 24, Fraction(24000, 1001), 25, 29.97, "30000/1001", 30, 50, 59.94, 60]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (25, Fraction(25)),
        ("25", Fraction(25)),
        (" 30000/1001 ", Fraction(30000, 1001)),
        (29.97, Fraction(30000, 1001)),
        ("29.97", Fraction(30000, 1001)),
        (23.976, Fraction(24000, 1001)),
        ("23.98", Fraction(24000, 1001)),
        (59.94, Fraction(60000, 1001)),
        (24.0, Fraction(24)),
        ("30.0", Fraction(30)),
        (12.5, Fraction(25, 2)),
        (17.3, Fraction(173, 10)),
        (Fraction(60), Fraction(60)),
        (Fraction(2997, 100), Fraction(2997, 100)),  # someone who writes a fraction means it
        (np.int64(25), Fraction(25)),
        (np.float64(29.97), Fraction(30000, 1001)),
        (np.float32(29.97), Fraction(30000, 1001)),
        (Decimal("29.97"), Fraction(30000, 1001)),
        (np.int64(25), Fraction(25)),
    ],
)
def test_frame_rates_are_exact(value, expected):
    assert parse_frame_rate(value) == expected


@pytest.mark.parametrize(
    "value", [9.99, 60.1, 0, -25, "fast", "", "1/0", float("nan"), float("inf"), None, True, [25], 25j]
)
def test_frame_rates_out_of_range_or_no_numbers(value):
    with pytest.raises(InvalidFrameRateError, match="from 10 to 60"):
        parse_frame_rate(value)


@pytest.mark.parametrize("fps", RATES)
@pytest.mark.parametrize("duration", [0.0, 0.013, 1 / 3, 2.48, 59.9999, 600.0, 3600.1])
def test_the_number_of_frames(fps, duration):
    schedule = FrameSchedule(duration, fps)
    assert schedule.num_frames >= 1
    assert abs(schedule.num_frames - round(duration * schedule.fps)) <= 1
    times = schedule.times()
    assert times.shape == (schedule.num_frames,) and times.dtype == np.float64


@pytest.mark.parametrize("fps", RATES)
def test_the_last_frame_of_ten_minutes_is_as_exact_as_the_first(fps):
    schedule = FrameSchedule(600.0, fps)
    times = schedule.times()
    exact = parse_frame_rate(fps)
    for index in (0, 1, 7, 1001, schedule.num_frames // 2, schedule.num_frames - 1):
        assert schedule.time(index) == index / exact
        assert times[index] == float(Fraction(index) / exact)


@pytest.mark.parametrize("duration", [-0.1, float("nan"), float("inf")])
def test_impossible_durations(duration):
    with pytest.raises(InvalidArgumentError, match="cannot last"):
        FrameSchedule(duration, 25)


def test_one_keyframe_per_phoneme_at_its_centre():
    track = PhonemeTrack([Phoneme("h", 0.1, 0.2), Phoneme("ə", 0.2, 0.26), Phoneme("sil", 0.5, 1.0)])
    np.testing.assert_allclose(keyframe_times(track), [0.15, 0.23, 0.75])


def test_locate_against_a_plain_loop():
    rng = np.random.default_rng(0)
    keys = np.sort(rng.uniform(0.2, 3, 20))
    times = FrameSchedule(3.4, 60).times()
    left, right, relative, interval = locate(times, keys)
    for k, time in enumerate(times):
        assert right[k] == left[k] + 1 and interval[k] == keys[right[k]] - keys[left[k]] > 0
        if time < keys[0]:
            assert (left[k], relative[k]) == (0, 0)
        elif time >= keys[-1]:
            assert (right[k], relative[k]) == (len(keys) - 1, 1)
        else:
            assert keys[left[k]] <= time < keys[right[k]]
            np.testing.assert_allclose(keys[left[k]] + relative[k] * interval[k], time)


def test_a_moment_on_a_keyframe_begins_its_pair():
    left, right, relative, interval = locate([0.0, 1.0, 2.0, 4.0], [0.0, 1.0, 2.0, 4.0])
    assert left.tolist() == [0, 1, 2, 2]
    assert right.tolist() == [1, 2, 3, 3]
    assert relative.tolist() == [0, 0, 0, 1]
    assert interval.tolist() == [1, 1, 2, 2]


def test_a_single_keyframe_is_both_neighbours():
    left, right, relative, interval = locate([0.0, 0.5, 9.0], [0.5])
    for values in (left, right, relative, interval):
        assert values.tolist() == [0, 0, 0]


@pytest.mark.parametrize("keys", [[1.0, 1.0], [0.5, 1.0, 1.0], [1.0, 1.0, 2.0], [0.5, 1.0, 1.0, 1.0, 2.0]])
def test_keyframes_at_one_moment_give_no_division_by_zero(keys):
    times = np.linspace(0, 3, 31)
    with np.errstate(all="raise"):
        left, right, relative, interval = locate(times, keys)
    assert np.isfinite(relative).all() and (relative >= 0).all() and (relative <= 1).all()
    # Nearest in time: from the common moment on, the later of the two holds.
    after = times >= keys[-1]
    assert (right[after] == len(keys) - 1).all() and (relative[after] == 1).all()
    before = times < keys[0]
    assert (left[before] == 0).all() and (relative[before] == 0).all()


def test_locate_needs_keyframes_in_order():
    with pytest.raises(InvalidArgumentError, match="no phonemes"):
        locate([0.0], [])
    with pytest.raises(InvalidArgumentError, match="backwards"):
        locate([0.0], [1.0, 0.5])


def test_a_vowel_that_a_phrase_ends_with_is_two_units():
    mapping = VisualMapping.default()
    track = PhonemeTrack(
        [
            Phoneme("t", 0.0, 0.1),
            Phoneme("uː", 0.1, 0.2),  # speech goes on
            Phoneme("j", 0.2, 0.25),
            Phoneme("uː", 0.25, 0.37),  # a gap follows, which is silence
            Phoneme("t", 0.5, 0.6),
            Phoneme("u", 0.6, 0.65),  # too short for two
            Phoneme("sil", 0.65, 0.7),
            Phoneme("b", 0.7, 0.8),
            Phoneme("ɜ", 0.8, 0.9),
            Phoneme("sil", 0.9, 1.0),
            Phoneme("f", 1.0, 1.1),
            Phoneme("n", 1.1, 1.2),  # no vowel
            Phoneme("sil", 1.2, 1.3),
            Phoneme("oʊ", 1.3, 1.8),  # long: three units by its length
        ]
    )
    units = timed_units(track, mapping, 1.8)
    names = [mapping.units[unit.unit_id] for unit in units]
    assert names == (
        ["T", "UW", "Y", "UW", "UW", "SIL", "T", "UW", "SIL", "M", "R", "R", "SIL", "F", "T", "SIL", "OW", "OW", "UW"]
    )
    assert [unit.duration for unit in units[3:5]] == pytest.approx([0.06, 0.06])
    assert all(first.end == second.start for first, second in itertools.pairwise(units)) and units[-1].end == 1.8


def test_speech_is_surrounded_by_rest():
    units = [TimedUnit(3, 0.0, 0.1), TimedUnit(4, 0.1, 0.3)]
    surrounded = surround_with_rest(units, silent=0)
    assert [unit.unit_id for unit in surrounded] == [0] * REST_UNITS + [3, 4] + [0] * REST_UNITS
    edges = [(first.end, second.start) for first, second in itertools.pairwise(surrounded)]
    assert all(end == pytest.approx(start) for end, start in edges)
    assert surrounded[REST_UNITS - 1].end == 0 and surrounded[REST_UNITS + 2].start == pytest.approx(0.3)
    assert all(unit.duration == pytest.approx(REST_DURATION) for unit in surrounded if unit.unit_id == 0)


@pytest.mark.parametrize("fps", [25, Fraction(30000, 1001), 60])
def test_closures_land_on_frames(fps):
    fps = Fraction(fps)
    edges = np.cumsum([0, 0.07, 0.05, 0.11, 0.012, 0.2])
    ids = [3, 7, 4, 7, 5]
    units = [TimedUnit(*parts) for parts in zip(ids, edges[:-1], edges[1:], strict=True)]
    times = keyframe_times(units)
    landed = shown_keyframe_times(units, closed=7, fps=fps)
    assert landed[1] * fps == pytest.approx(round(landed[1] * fps)) and abs(landed[1] - times[1]) <= 0.5 / fps
    # A closure too short for any frame is like the others, and order is kept.
    assert landed[3] == pytest.approx(times[3] - LIP_LEAD) or edges[3] <= landed[3] <= edges[4]
    assert (np.diff(landed) >= 0).all()


def test_keyframes_are_early_but_lips_take_their_time_to_open():
    edges = np.cumsum([0, 0.07, 0.08, 0.04, 0.08, 0.2, 0.07, 0.24])
    ids = [3, 7, 4, 5, 3, 4, 7, 5]
    units = [TimedUnit(*parts) for parts in zip(ids, edges, [*edges[1:], edges[-1] + 0.01], strict=True)]
    times = keyframe_times(units)
    landed = shown_keyframe_times(units, closed=7, fps=Fraction(50))
    closure = landed[1]
    assert abs(closure - times[1]) <= 0.01
    # A short vowel after it is 0.06 s away, a longer one and all others come as early as ever.
    assert (
        landed[2] - closure == pytest.approx(RELEASE_SHARE * (times[2] - closure)) and landed[2] > times[2] - LIP_LEAD
    )
    early = [0, 4, 5]
    np.testing.assert_allclose(landed[early], times[early] - LIP_LEAD)


@pytest.mark.parametrize("fps", [10, 25, 30, 60])
def test_the_frame_of_a_closure_shows_it(fps):
    """A short vowel after it, shown early, must not be seen in its place."""
    for start in np.linspace(0.1, 0.2, 23):
        edges = np.cumsum([0, start, 0.075, 0.04, 0.04, 0.3])
        units = [TimedUnit(*parts) for parts in zip([3, 7, 4, 4, 0], edges[:-1], edges[1:], strict=True)]
        shown = shown_keyframe_times(units, closed=7, fps=Fraction(fps))
        times = FrameSchedule(float(edges[-1]), fps).times()
        on_frame = np.abs(times - shown[1]) < 1e-9
        assert on_frame.any() or fps == 10
        left, _, relative, _ = locate(times[on_frame], shown)
        assert (left == 1).all() and (relative == 0).all()


def test_keyframes_never_run_backwards():
    units = [TimedUnit(7, 0.0, 0.08), TimedUnit(3, 0.08, 0.09), TimedUnit(4, 0.09, 0.3)]
    shown = shown_keyframe_times(units, closed=7, fps=Fraction(12))
    assert (np.diff(shown) >= 0).all() and shown[0] in (0.0, pytest.approx(1 / 12), pytest.approx(0.02))
