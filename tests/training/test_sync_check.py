"""The lag between lips and sound, on signals whose lag is known."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d
from sync_check import MAX_SHIFT, check_sync

RATE = 16000


def speech(seconds, fps, lag, seed=0, noise=0.3):
    """Lip opening `(T,)` and sound whose loudness follows it; the picture is late by `lag` frames."""
    random = np.random.default_rng(seed)
    count = round(seconds * fps)
    fine = gaussian_filter1d(random.normal(size=round((seconds + 4) * 100)), 6)  # syllables, 100 a second
    fine = np.clip(fine / fine.std() + 0.5, 0, None)
    at = np.arange(round(seconds * RATE)) / RATE + 2
    loudness = np.interp(at, np.arange(len(fine)) / 100, fine) ** 2
    audio = loudness * np.sin(2 * np.pi * 600 * at) * 0.1 + random.normal(0, 1e-3, len(at))
    opening = np.interp((np.arange(count) + 0.5 - lag) / fps + 2, np.arange(len(fine)) / 100, fine)
    return opening + noise * random.normal(size=count), audio.astype(np.float32)


@pytest.mark.parametrize("fps", (25.0, 29.97, 50.0))
@pytest.mark.parametrize("lag", (-8, -5, -2, 0, 1, 4, 7))
def test_the_lag_is_found(fps, lag):
    found = check_sync(*speech(6, fps, lag), RATE, fps, max_lag=2)
    assert (found.lag, found.clear) == (lag, True)
    assert found.correlation > 0.5


def test_lips_that_do_not_follow_the_sound_are_no_proof():
    """Of two strangers, whose syllables coincide at some lag or other, few are said to be out of step."""
    found = []
    for seed in range(40):
        opening, _ = speech(10, 25.0, 0, seed)
        _, audio = speech(10, 25.0, 0, seed + 1000)
        found.append(check_sync(opening, audio, RATE, 25.0, max_lag=2))
    assert sum(abs(sync.lag) > 2 for sync in found) <= 8
    assert sum(not sync.clear for sync in found) >= 24


def test_constant_signals_are_not_judged():
    for opening, audio in ((np.ones(75), speech(3, 25.0, 0)[1]), (speech(3, 25.0, 0)[0], np.zeros(3 * RATE))):
        found = check_sync(opening, audio, RATE, 25.0, max_lag=2)
        assert (found.clear, abs(found.lag) <= 2, found.correlation) == (False, True, 0.0)


def test_the_tolerance_needs_no_proof():
    opening, audio = speech(6, 25.0, 5)
    assert check_sync(opening, audio, RATE, 25.0, max_lag=2).lag == 5
    assert check_sync(opening, audio, RATE, 25.0, max_lag=7).lag == 5
    assert MAX_SHIFT == 8
