"""What phonemes say of tongue and lips, and that it glides between them."""

import numpy as np
import pytest

from avatarsync import AvatarSyncProcessor
from avatarsync.articulators import (
    BITTEN,
    FREE,
    NAMES,
    PARTED,
    PURSED,
    TONGUE,
    articulators_at,
    unit_articulators,
)
from avatarsync.phonemes import Phoneme, PhonemeTrack, Speech, VisualMapping


def column(units, name):
    return unit_articulators(units)[:, NAMES.index(name)]


def test_every_table_is_of_units_and_says_at_most_one():
    units = set(VisualMapping.default().units)
    for table in (TONGUE, PURSED, BITTEN, PARTED):
        assert set(table) <= units and min(table.values()) > 0 and max(table.values()) == 1
    assert units >= FREE and not FREE & set(PURSED)
    # Lips that must shut, or bite, are not asked to do anything else.
    assert "M" not in {*PURSED, *BITTEN, *PARTED, *TONGUE} and not set(BITTEN) & {*PURSED, *PARTED}
    assert "SIL" not in {*PURSED, *BITTEN, *PARTED, *TONGUE}


def test_units_ask_for_what_the_tables_say():
    assert max(TONGUE, key=TONGUE.get) == "TH"
    assert column(["TH", "L", "AA", "SIL", "not a unit"], "tongue") == pytest.approx([1, TONGUE["L"], 0, 0, 0])
    assert column(["F", "UW", "AA"], "bitten") == pytest.approx([1, 0, 0])
    assert unit_articulators([]).shape == (0, len(NAMES))


def test_consonants_are_as_round_as_the_vowels_about_them():
    assert column(["SIL", "M", "UW", "T", "UW", "F"], "pursed") == pytest.approx([0, 0.5, 1, 1, 1, 0])
    assert column(["S", "T", "R", "AA"], "pursed") == pytest.approx([0.4, 0.4, 0.4, 0])
    assert column(["T", "K"], "pursed") == pytest.approx([0, 0])


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
    for name, symbol, value in (("tongue", "l", TONGUE["L"]), ("pursed", "u", PURSED["UW"]), ("pursed", "ɑ", 0)):
        asking = (schedule.unit_ids == mapping.unit_id(symbol)).numpy()
        assert asking.any() and (schedule.articulators[asking, NAMES.index(name)] == value).all()
    assert not schedule.articulators[(schedule.unit_ids == schedule.silent_unit).numpy()].any()
