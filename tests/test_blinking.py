"""Blinks: as often and as fast as people's, seeded, and over when the video is."""

import numpy as np
import pytest

from avatarsync.blinking import CLOSING, OPENING, SHUT, eye_openness


def at(fps, duration):
    return np.arange(round(fps * duration)) / fps


def starts(openness):
    """Indices of the last open moments."""
    return np.flatnonzero((openness[:-1] == 1) & (openness[1:] < 1))


def test_people_who_speak_blink_ten_to_twenty_times_a_minute():
    counts = [len(starts(eye_openness(at(100, 600), seed, 600))) / 10 for seed in range(5)]
    assert all(10 < count < 20 for count in counts), counts


def test_a_lid_falls_faster_than_it_rises():
    openness = eye_openness(at(1000, 60), 0, 60)
    for start in starts(openness):
        lowest = start + round(1000 * (CLOSING + SHUT / 2))
        assert openness[lowest] < 1e-3
        assert openness[start + round(1000 * (CLOSING + SHUT + OPENING)) + 2] == 1
        falling, rising = openness[start:lowest], openness[lowest : lowest + 300]
        assert (np.diff(falling) <= 1e-6).all() and (falling > 0.5).sum() < (rising[rising < 1] > 0.5).sum()


@pytest.mark.parametrize("fps", [10, 25, 60])
def test_a_video_begins_and_ends_with_open_eyes(fps):
    blinked = 0
    for seed in range(300):
        duration = 1.5 + 0.02 * seed
        times = at(fps, duration)
        openness = eye_openness(times, seed, duration)
        assert openness[0] == 1 and (openness[times >= duration - 0.2] == 1).all(), (seed, duration)
        blinked += (openness < 0.5).any()
    assert blinked > 150


def test_neither_frame_rate_nor_length_nor_a_selection_moves_a_blink():
    whole = eye_openness(at(25, 60), 3, 60)
    assert np.array_equal(eye_openness(at(50, 60), 3, 60)[::2], whole)
    assert np.array_equal(eye_openness(at(25, 60)[100:300:7], 3, 60), whole[100:300:7])
    shorter, last = eye_openness(at(25, 30), 3, 30), starts(whole)
    before = last[last < 700]
    assert len(before) > 3 and np.array_equal(shorter[: before[-1]], whole[: before[-1]])
    assert not np.array_equal(eye_openness(at(25, 60), 4, 60), whole)
    assert len(eye_openness(np.zeros(0), 3, 60)) == 0
