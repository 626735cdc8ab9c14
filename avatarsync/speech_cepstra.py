"""Mel-frequency cepstra as SyncNet hears speech: those of python_speech_features with its defaults.

100 frames a second, 25 ms each, no window function; 26 triangular filters from 0 to 8 kHz; 13 cepstra, liftered, the
first replaced by the logarithm of the frame's energy.
"""

import functools

import numpy as np
from scipy.fft import dct

SAMPLING_RATE, HOP, WINDOW, FFT = 16000, 160, 400, 512
NUM_MELS, NUM_CEPSTRA, LIFTER, PRE_EMPHASIS = 26, 13, 22, 0.97
FULL_SCALE = 32768  # 16-bit samples, which the logarithms know
BLOCK = 4096  # frames at a time
TINY = np.finfo(np.float64).eps


def speech_cepstra(audio: np.ndarray, before: float = 0.0) -> np.ndarray:
    """Cepstra `(frames, 13)` float32 of `audio` `(samples,)` at 16 kHz in [-1, 1]; frame k covers samples 160 k to
    160 k + 399, and those that are not whole are left out.

    Args:
        before: the sample before the first, where `audio` continues something.
    """
    frames = max(0, 1 + (len(audio) - WINDOW) // HOP)
    if not frames:
        return np.zeros((0, NUM_CEPSTRA), np.float32)
    samples = np.rint(np.clip(np.concatenate([[before], audio]) * FULL_SCALE, -FULL_SCALE, FULL_SCALE - 1))
    emphasised = samples[1:] - PRE_EMPHASIS * samples[:-1]
    windows = np.lib.stride_tricks.sliding_window_view(emphasised, WINDOW)[::HOP]
    parts = []
    for first in range(0, frames, BLOCK):
        power = np.square(np.abs(np.fft.rfft(windows[first : first + BLOCK], FFT, axis=1))) / FFT
        mel = power @ _mel_filters().T
        cepstra = dct(np.log(np.where(mel == 0, TINY, mel)), type=2, axis=1, norm="ortho")[:, :NUM_CEPSTRA]
        cepstra *= 1 + LIFTER / 2 * np.sin(np.pi * np.arange(NUM_CEPSTRA) / LIFTER)
        energy = power.sum(1)
        cepstra[:, 0] = np.log(np.where(energy == 0, TINY, energy))
        parts.append(cepstra.astype(np.float32))
    return np.concatenate(parts)


@functools.cache
def _mel_filters() -> np.ndarray:
    """Triangular filters `(26, 257)` with their corners on whole bins."""
    mels = np.linspace(0, 2595 * np.log10(1 + SAMPLING_RATE / 2 / 700), NUM_MELS + 2)
    corners = np.floor((FFT + 1) * 700 * (10 ** (mels / 2595) - 1) / SAMPLING_RATE)
    bins = np.arange(FFT // 2 + 1)
    low, middle, high = (corners[i : i + NUM_MELS, None] for i in range(3))
    rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
    return np.where((bins >= low) & (bins < middle), rising, np.where((bins >= middle) & (bins < high), falling, 0.0))
