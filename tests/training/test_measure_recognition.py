"""How what is heard is compared with what was said."""

import measure_recognition
import numpy as np
import pytest
from measure_recognition import compare, row, spoken

from avatarsync.phonemes import Phoneme, PhonemeTrack


def track(*spans) -> PhonemeTrack:
    return PhonemeTrack([Phoneme(*span) for span in spans], "en-us", spans[-1][2])


TRUTH = track(("sil", 0.0, 0.2), ("m", 0.2, 0.3), ("a", 0.3, 0.5), ("b", 0.5, 0.6), ("sil", 0.6, 0.8))


def test_what_looks_alike_is_right_and_closures_are_counted():
    assert compare(TRUTH, TRUTH) == (1.0, [True, True])
    alike = track(("sil", 0.0, 0.2), ("p", 0.2, 0.3), ("ɑ", 0.3, 0.5), ("d", 0.5, 0.6), ("sil", 0.6, 0.8))
    share, closed = compare(alike, TRUTH)
    assert share == pytest.approx(70 / 80) and closed == [True, False]
    late = track(("sil", 0.0, 0.27), ("m", 0.27, 0.3), ("a", 0.3, 0.5), ("b", 0.59, 0.6), ("sil", 0.6, 0.8))
    assert compare(late, TRUTH)[1] == [True, False]  # 20 and 40 ms from their centres


def test_rows_tell_each_method(monkeypatch):
    monkeypatch.setattr(measure_recognition, "SPEAKERS", ("m3",))
    monkeypatch.setattr(measure_recognition, "SENTENCES", {"en-us": ("My map.",)})
    material = list(spoken("en-us"))

    def deaf(mono: np.ndarray, rate: int) -> PhonemeTrack:
        return track(("sil", 0.0, len(mono) / rate))

    def knowing(mono: np.ndarray, rate: int) -> PhonemeTrack:
        return material[0].track

    assert row("en-us", material, [knowing, deaf]).startswith("| en-us | 100%, 100% | ")
    assert row("en-us", material, [deaf]).endswith(", 0% |")
