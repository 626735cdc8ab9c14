"""Which moments must be shut, and how open the mouth is there."""

import numpy as np
import pytest

from avatarsync.metrics import bilabial_centres, openings_at, silence_centres
from avatarsync.phonemes import Phoneme, PhonemeTrack


def test_bilabials_of_ipa_and_arpabet_and_nothing_else():
    symbols = ["m", "a", "pʰ", "n", "b", "f", "P", "AA", "sil", "w"]
    track = PhonemeTrack(Phoneme(symbol, i / 10, (i + 1) / 10) for i, symbol in enumerate(symbols))
    np.testing.assert_allclose(bilabial_centres(track), [0.05, 0.25, 0.45, 0.65])


def test_silences_are_gaps_and_entries_of_silence_joined():
    track = PhonemeTrack(
        [
            Phoneme("a", 0.3, 0.5),  # 0 … 0.3 is a gap
            Phoneme("sil", 0.5, 0.6),
            Phoneme("sil", 0.6, 0.7),  # and a gap to 0.8: one silence of 0.3 s
            Phoneme("b", 0.8, 0.9),
            Phoneme("sil", 0.9, 1.05),  # too short
            Phoneme("a", 1.05, 1.2),
        ],
        duration=1.6,
    )
    np.testing.assert_allclose(silence_centres(track), [0.15, 0.65, 1.4])
    np.testing.assert_allclose(silence_centres(track, shortest=0.15), [0.15, 0.65, 0.975, 1.4])


def test_a_silence_of_exactly_the_shortest_length_counts():
    track = PhonemeTrack([Phoneme("a", 0.0, 0.1), Phoneme("a", 0.3, 0.5)])
    np.testing.assert_allclose(silence_centres(track), [0.2])


def test_openings_are_shares_of_the_percentile_at_the_nearest_frame():
    gap = np.arange(101.0)
    assert openings_at(gap, [1.0], 25)[0] == pytest.approx(25 / 90)
    assert openings_at(gap, [1.019], 25)[0] == pytest.approx(25 / 90)
    assert openings_at(gap, [1.021], 25)[0] == pytest.approx(26 / 90)
    assert openings_at(gap, [9.0], 25)[0] == pytest.approx(100 / 90), "beyond the end the last frame counts"
    assert openings_at(gap, [1.0], 25, percentile=50)[0] == pytest.approx(0.5)
    assert openings_at(gap, [], 25).shape == (0,)


def test_a_mouth_that_never_opens_is_shut():
    assert openings_at(np.zeros(50), [0.5, 1.0], 25).tolist() == [0, 0]
