"""Head motion: smooth, small, seeded, and a function of the speech nearby."""

import numpy as np
import pytest

from avatarsync.head_motion import HEAD_LAG, HEAD_MOTION_REACH, NOD, RISE, head_poses, speech_share

TIMES = np.arange(250) / 25
SPOKEN = np.array([[1.0, 1.4], [1.4, 4.0], [7.0, 8.0]])


def test_a_video_begins_with_the_portrait_as_it_is():
    assert np.abs(head_poses(TIMES, SPOKEN, seed=5)[0]).max() < 1e-6


def test_motion_is_small_and_smooth():
    for seed in range(20):
        poses = head_poses(TIMES, SPOKEN, seed)
        assert np.abs(poses[:, :2]).max() < 0.03 and np.abs(poses[:, 2]).max() < 0.02
        # No more than a fifth of a pixel of a 128-pixel crop a frame, and no jerks.
        assert np.abs(np.diff(poses, axis=0)).max() < 0.2 / 128
        assert np.abs(np.diff(poses, 2, axis=0)).max() < 0.05 / 128
        assert poses[:, 0].std() > 0.0005


def test_the_seed_decides_and_the_frame_rate_does_not():
    poses = head_poses(TIMES, SPOKEN, 1)
    assert np.array_equal(poses, head_poses(TIMES, SPOKEN, 1))
    assert not np.allclose(poses, head_poses(TIMES, SPOKEN, 2))
    finer = head_poses(np.arange(500) / 50, SPOKEN, 1)
    np.testing.assert_allclose(finer[::2], poses, atol=1e-7)


def test_the_head_rises_while_somebody_speaks():
    silent = head_poses(TIMES, np.empty((0, 2)), 3)
    change = silent - head_poses(TIMES, SPOKEN, 3)
    # In the middle of a long span, and long after one and before the next.
    np.testing.assert_allclose(change[70], [0, RISE, 0, NOD], atol=1e-5)
    np.testing.assert_allclose(change[145], 0, atol=1e-7)


def test_the_head_follows_the_speech():
    change = head_poses(TIMES, np.empty((0, 2)), 3) - head_poses(TIMES, np.array([[4.0, 9.9]]), 3)
    halfway = TIMES[np.argmax(change[:, 1] > RISE / 2)]
    assert halfway == pytest.approx(4.0 + HEAD_LAG, abs=0.05)


def test_speech_share_against_a_sum():
    fine = np.arange(0, 10, 0.001) + 0.0005
    spoken = ((fine[:, None] >= SPOKEN[:, 0]) & (fine[:, None] < SPOKEN[:, 1])).any(1)
    for time, share in zip(TIMES[::17], speech_share(TIMES, SPOKEN)[::17], strict=True):
        offset = (fine - time) / HEAD_MOTION_REACH
        window = np.where(np.abs(offset) < 1, 1 + np.cos(np.pi * offset), 0)
        assert share == pytest.approx((window * spoken).sum() * 0.001 / (2 * HEAD_MOTION_REACH), abs=2e-3)


def test_speech_far_away_does_not_matter():
    edited = SPOKEN.copy()
    edited[2] = [7.5, 8.8]
    before, after = head_poses(TIMES, SPOKEN, 1), head_poses(TIMES, edited, 1)
    heard = TIMES - HEAD_LAG
    near = (heard > 7 - HEAD_MOTION_REACH) & (heard < 8.8 + HEAD_MOTION_REACH)
    assert np.array_equal(before[~near], after[~near]) and not np.array_equal(before[near], after[near])
