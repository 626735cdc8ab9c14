"""The bands that the phoneme recogniser hears."""

import numpy as np
import pytest

from avatarsync.phonemes import log_mel as module
from avatarsync.phonemes.log_mel import FRAME, NUM_BANDS, SAMPLING_RATE, log_mel, mel_filters, normalized


def tone(frequency: float, seconds: float = 1.0) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(int(seconds * SAMPLING_RATE)) / SAMPLING_RATE).astype(np.float32)


@pytest.mark.parametrize("frequency", (200.0, 1000.0, 3500.0, 7000.0))
def test_a_tone_is_loudest_in_its_own_band(frequency):
    bands = log_mel(tone(frequency))
    assert bands.shape == (101, NUM_BANDS) and bands.dtype == np.float32
    peaks = mel_filters(NUM_BANDS, 60.0, 7600.0).argmax(1) * SAMPLING_RATE / 512
    assert abs(peaks[bands[50].argmax()] - frequency) < max(40.0, 0.06 * frequency)


def test_frames_are_centred_at_multiples_of_ten_milliseconds():
    audio = np.zeros(SAMPLING_RATE, np.float32)
    audio[SAMPLING_RATE // 2] = 1.0  # a click at half a second
    assert abs(log_mel(audio).mean(1).argmax() * FRAME - 0.5) <= FRAME


def test_pieces_are_the_same_as_the_whole(monkeypatch):
    audio = np.random.default_rng(0).normal(0, 0.1, 30_000).astype(np.float32)
    whole = log_mel(audio)
    monkeypatch.setattr(module, "_BLOCK", 7)
    assert np.abs(log_mel(audio) - whole).max() < 1e-4


def test_loudness_and_the_microphone_do_not_count():
    bands = log_mel(np.random.default_rng(0).normal(0, 0.1, 40_000) * np.repeat([0.02, 1.0], 20_000))
    colour = np.linspace(-1, 1, NUM_BANDS, dtype=np.float32)
    colour -= colour.mean()
    assert np.abs(normalized(bands + 3.0) - normalized(bands)).max() < 1e-5
    assert np.abs(normalized(bands + colour) - normalized(bands)).max() < 1e-5


@pytest.mark.parametrize("samples", (0, 1, 159, 160))
def test_the_shortest_sounds_have_bands(samples):
    bands = normalized(log_mel(np.zeros(samples, np.float32)))
    assert bands.shape == (1 + samples // 160, NUM_BANDS) and np.isfinite(bands).all()
