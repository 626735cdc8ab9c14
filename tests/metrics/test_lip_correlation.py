"""Correlation, lag and gain of lip curves against closed forms."""

import numpy as np
import pytest

from avatarsync.metrics import best_lag, gain, inner_lip_gap, mouth_width, pearson

TIMES = np.arange(75) / 25
CURVE = np.sin(2 * np.pi * 1.7 * TIMES) + 0.4 * np.sin(2 * np.pi * 4.1 * TIMES + 1)


def face(gap, width, eyes=60.0):
    """Landmarks (T, 468, 2) with the given inner-lip gap, mouth width and eye distance, in pixels."""
    gap, width = np.broadcast_arrays(gap, width)
    landmarks = np.zeros((len(gap), 468, 2))
    for corner, x in ((33, -eyes / 2 - 10), (133, -eyes / 2 + 10), (362, eyes / 2 - 10), (263, eyes / 2 + 10)):
        landmarks[:, corner, 0] = x
    landmarks[:, 14, 1] = gap
    landmarks[:, 61, 0], landmarks[:, 291, 0] = -width / 2, width / 2
    return landmarks


def test_openings_and_widths_are_in_eye_distances_whatever_the_pose():
    landmarks = face(np.array([0.0, 6.0, 12.0]), 45.0)
    np.testing.assert_allclose(inner_lip_gap(landmarks), [0, 0.1, 0.2])
    np.testing.assert_allclose(mouth_width(landmarks), 0.75)
    turn = 2.5 * np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    moved = landmarks @ turn.T + [100, -40]
    np.testing.assert_allclose(inner_lip_gap(moved), [0, 0.1, 0.2], atol=1e-12)
    np.testing.assert_allclose(mouth_width(moved), 0.75)


def test_pearson_against_numpy_and_its_bounds():
    other = CURVE + np.random.default_rng(0).normal(0, 1, 75)
    assert pearson(CURVE, other) == pytest.approx(np.corrcoef(CURVE, other)[0, 1])
    assert pearson(CURVE, 3 * CURVE + 5) == pytest.approx(1)
    assert pearson(CURVE, -CURVE) == pytest.approx(-1)
    assert np.isnan(pearson(np.full(75, 0.25), CURVE))


@pytest.mark.parametrize("shift", [-5, -2, 0, 1, 4])
def test_the_lag_is_the_shift_and_positive_when_late(shift):
    def curve(frames):
        return np.sin(0.35 * frames) + 0.3 * np.cos(1.1 * frames)

    frames = np.arange(75)
    assert best_lag(curve(frames - shift), curve(frames)) == shift


def test_of_equally_good_lags_the_smallest_wins():
    period = np.sin(2 * np.pi * np.arange(60) / 4)
    assert best_lag(period, period) == 0
    assert best_lag(np.zeros(60), period) == 0


def test_gain_is_the_ratio_of_the_motions():
    assert gain(0.5 * CURVE + 7, CURVE) == pytest.approx(0.5)
    assert gain(np.ones(75), CURVE) == 0
    assert np.isnan(gain(CURVE, np.ones(75)))
