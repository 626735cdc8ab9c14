"""Where phonemes put the tip of the tongue, and that it glides between them."""

import numpy as np
import pytest

from avatarsync import AvatarSyncProcessor
from avatarsync.phonemes import Phoneme, PhonemeTrack, Speech, VisualMapping
from avatarsync.tongue import HEIGHTS, tongue_heights, unit_heights


def test_every_height_is_of_a_unit_and_between_the_teeth_is_highest():
    assert set(HEIGHTS) <= set(VisualMapping.default().units)
    assert max(HEIGHTS, key=HEIGHTS.get) == "TH" and HEIGHTS["TH"] == 1
    assert unit_heights(["TH", "L", "AA", "SIL", "not a unit"]) == pytest.approx([1, HEIGHTS["L"], 0, 0, 0])


def test_it_is_there_at_the_keyframe_and_glides_between():
    at, heights = np.array([0.0, 0.2, 0.4]), np.array([0.0, 1.0, 0.5])
    moments = tongue_heights(np.linspace(-0.2, 0.6, 801), at, heights)
    assert moments[[200, 400, 600]] == pytest.approx(heights, abs=1e-6)
    assert (moments[:200] == 0).all() and moments[601:] == pytest.approx(0.5)
    assert (np.diff(moments[200:401]) >= 0).all() and np.abs(np.diff(moments)).max() < 0.01


def test_a_speech_says_how_high_each_unit_is():
    track = PhonemeTrack([Phoneme("ɑ", 0.0, 0.2), Phoneme("l", 0.2, 0.3), Phoneme("ɑ", 0.3, 0.5)], "en-us")
    schedule = AvatarSyncProcessor()(Speech(track, np.zeros(8000, np.float32), 16000, "en-us"))
    raised = (schedule.unit_ids == VisualMapping.default().unit_id("l")).numpy()
    assert raised.sum() == 1 and (schedule.tongue_heights == np.where(raised, HEIGHTS["L"], 0)).all()
