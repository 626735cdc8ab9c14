"""What phonemes say of tongue and lips, and that it glides between them."""

import numpy as np
import pytest

from avatarsync import AvatarSyncProcessor
from avatarsync.articulators import (
    BITTEN,
    FREE,
    NAMES,
    OPENED,
    OPENING_TIME,
    PARTED,
    PURSED,
    ROUNDING_REACH,
    TONGUE,
    articulators_at,
    unit_articulators,
)
from avatarsync.phonemes import Phoneme, PhonemeTrack, Speech, VisualMapping


def column(units, name, seconds=0.3):
    """Of units so long that none is changed by its neighbours."""
    return unit_articulators(units, seconds * np.arange(len(units)))[:, NAMES.index(name)]


def test_every_table_is_of_units_and_says_at_most_one():
    units = set(VisualMapping.default().units)
    for table in (TONGUE, PURSED, BITTEN, PARTED, FREE, OPENED):
        assert set(table) <= units and min(table.values()) > 0 and max(table.values()) == 1
    assert not set(FREE) & set(PURSED)
    # Lips that must shut, or bite, are not asked to do anything else.
    assert "M" not in {*PURSED, *BITTEN, *PARTED, *TONGUE, *OPENED} and not set(BITTEN) & {*PURSED, *PARTED, *OPENED}
    assert "SIL" not in {*PURSED, *BITTEN, *PARTED, *TONGUE, *OPENED}


def test_vowels_between_closures_ask_for_open_lips():
    units = ["M", "AE", "M", "AH", "AH", "F", "AA", "F", "AA", "T", "AA", "M", "AA", "SIL", "M", "R", "AH", "M"]
    wanted = {1: "AE", 3: "AH", 4: "AH", 15: "R", 16: "AH"}
    asked = [OPENED[wanted[index]] if index in wanted else 0 for index in range(len(units))]
    assert column(units, "opened") == pytest.approx(asked)
    quick = column(["M", "AE", "M"], "opened", OPENING_TIME / 4)
    assert quick == pytest.approx([0, OPENED["AE"] / 2, 0]), "who speaks fast opens less"


def test_units_ask_for_what_the_tables_say():
    assert max(TONGUE, key=TONGUE.get) == "TH"
    assert column(["TH", "L", "AA", "SIL", "not a unit"], "tongue") == pytest.approx([1, TONGUE["L"], 0, 0, 0])
    assert column(["F", "UW", "AA"], "bitten") == pytest.approx([1, 0, 0])
    assert unit_articulators([], np.zeros(0)).shape == (0, len(NAMES))


def test_consonants_are_as_round_as_the_vowels_about_them():
    assert column(["SIL", "M", "UW", "T", "UW", "F"], "pursed") == pytest.approx([0, 0.5, 1, 0.8, 1, 0], abs=1e-3)
    assert column(["S", "T", "R", "AA"], "pursed") == pytest.approx([0.24, 0.32, 0.4, 0], abs=1e-3)
    assert column(["T", "K"], "pursed") == pytest.approx([0, 0], abs=1e-3)
    assert column(["SIL", "Y", "UW"], "pursed") == pytest.approx([0, 0.4, 1], abs=1e-3), "you"
    assert column(["SIL", "Y", "EH"], "pursed") == pytest.approx([0, 0, 0], abs=1e-3), "yes"


def test_short_sounds_are_as_rounded_as_what_is_about_them_and_rounded_ones_less_as_others():
    brief, long = (column(["W", "IY", "W"], "pursed", seconds) for seconds in (0.06, 0.3))
    assert long == pytest.approx([1, 0, 1])
    assert 0.5 < brief[1] < brief[0] == brief[2], "lips hardly spread in a quick 'we would'"
    between = column(["IY", "W", "IY"], "pursed", 0.06)
    assert between[1] > 0.6 and 0 < between[0] == between[2] < between[1]
    alone = unit_articulators(["W", "IY", "AA", "W"], np.array([0.0, 0.06, ROUNDING_REACH, 9.0]))[:, 1]
    assert alone[2] == 0 < alone[1], "nothing reaches farther"
    for name in ("tongue", "bitten", "parted"):
        units = ["TH", "F", "UW", "T"]
        assert column(units, name, 0.06) == pytest.approx(column(units, name))


def test_they_are_there_at_the_keyframe_and_glide_between():
    at = np.array([0.0, 0.2, 0.4])
    asked = np.outer([0.0, 1.0, 0.5], np.ones(len(NAMES)))
    moments = articulators_at(np.linspace(-0.2, 0.6, 801), at, asked)
    assert moments.shape == (801, len(NAMES)) and moments.dtype == np.float32
    assert moments[[200, 400, 600]] == pytest.approx(asked, abs=1e-6)
    assert (moments[:200] == 0).all() and moments[601:] == pytest.approx(0.5)
    assert (np.diff(moments[200:401], axis=0) >= 0).all() and np.abs(np.diff(moments, axis=0)).max() < 0.01


def test_a_speech_says_what_each_unit_asks_for():
    track = PhonemeTrack([Phoneme("ɑ", 0.0, 0.2), Phoneme("l", 0.2, 0.3), Phoneme("u", 0.3, 0.5)], "en-us")
    schedule = AvatarSyncProcessor()(Speech(track, np.zeros(8000, np.float32), 16000, "en-us"))
    mapping = VisualMapping.default()
    for name, symbol, value in (("tongue", "l", TONGUE["L"]), ("parted", "u", PARTED["UW"]), ("pursed", "u", 1)):
        asking = (schedule.unit_ids == mapping.unit_id(symbol)).numpy()
        assert asking.any()
        assert schedule.articulators[asking, NAMES.index(name)] == pytest.approx(value, abs=0.15)
    outermost = schedule.articulators[[0, 1, -2, -1]]
    assert outermost == pytest.approx(np.zeros((4, len(NAMES))), abs=1e-3)
