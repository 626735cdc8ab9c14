"""Log-mel spectrogram: what the phoneme recogniser hears of a recording."""

import functools

import numpy as np

SAMPLING_RATE, HOP, WINDOW, FFT = 16000, 160, 400, 512
FRAME = HOP / SAMPLING_RATE  # seconds
NUM_BANDS = 40
LOWEST, HIGHEST = 60.0, 7600.0  # Hz
FLOOR = 1e-10  # of power, which the logarithm knows
LOUD_RANGE = 6.9  # nats, 30 dB, below the loudest frames: what is quieter says nothing of a microphone
DEVIATION = 2.5  # nats, about that of a band in speech
_BLOCK = 4096  # frames at a time: memory stays flat in the recording's length


def log_mel(audio: np.ndarray) -> np.ndarray:
    """Logarithms of the power in 40 bands, `(frames, 40)` float32, of `audio` `(samples,)` at 16 kHz; frame k is
    centred at 10·k ms."""
    frames = 1 + len(audio) // HOP
    padded = np.pad(audio.astype(np.float32), (WINDOW // 2, WINDOW // 2 + HOP))
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:frames]
    taper, filters = np.hanning(WINDOW).astype(np.float32), _band_filters()
    parts = []
    for first in range(0, frames, _BLOCK):
        power = np.square(np.abs(np.fft.rfft(windows[first : first + _BLOCK] * taper, FFT, axis=1)))
        parts.append(np.log(power.astype(np.float32) @ filters.T + FLOOR))
    return np.concatenate(parts)


def normalized(bands: np.ndarray) -> np.ndarray:
    """Bands `(frames, 40)` less what the microphone and the room make of all of them: their mean where it is loud."""
    level = bands.mean(1)
    loud = level > np.percentile(level, 95) - LOUD_RANGE
    return ((bands - bands[loud].mean(0)) / DEVIATION).astype(np.float32)


def mel_filters(count: int, lowest: float, highest: float) -> np.ndarray:
    """Triangular filters `(count, FFT // 2 + 1)`, each 1 at its peak, between two frequencies in Hz."""
    ends = 2595 * np.log10(1 + np.array([lowest, highest]) / 700)
    edges = 700 * (10 ** (np.linspace(*ends, count + 2) / 2595) - 1)
    bins = np.arange(FFT // 2 + 1) * SAMPLING_RATE / FFT
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


@functools.cache
def _band_filters() -> np.ndarray:
    """`(40, FFT // 2 + 1)`, each with the sum 1."""
    filters = mel_filters(NUM_BANDS, LOWEST, HIGHEST)
    return filters / filters.sum(1, keepdims=True)
