"""Mel-frequency cepstral coefficients, for aligning one voice with another."""

import numpy as np
from scipy.fft import dct

from .log_mel import FFT, HOP, WINDOW, mel_filters

NUM_MELS = 26
LOWEST, HIGHEST = 100.0, 7600.0  # Hz
NUM_CEPSTRA = 13
_BLOCK = 4096  # frames at a time: memory stays flat in the recording's length


def features(audio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """MFCCs of `audio` `(samples,)` at 16 kHz.

    Returns:
        Cepstra 1 to 12 and their slopes, `(frames, 24)` float32, each of mean 0 and deviation 1 over the frames that
        are not quiet; and the level of each frame in dB, `(frames,)`. Frame k is centred at 10·k ms.
    """
    frames = 1 + len(audio) // HOP
    padded = np.pad(audio.astype(np.float32), (WINDOW // 2, WINDOW // 2 + HOP))
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:frames]
    taper, filters = np.hamming(WINDOW).astype(np.float32), mel_filters(NUM_MELS, LOWEST, HIGHEST)
    cepstra, levels = [], []
    for first in range(0, frames, _BLOCK):
        block = windows[first : first + _BLOCK]
        block = block - block.mean(axis=1, keepdims=True)
        levels.append(10 * np.log10(np.mean(np.square(block), axis=1) + 1e-10))
        emphasised = np.diff(block, axis=1, prepend=block[:, :1]) + 0.03 * block
        power = np.square(np.abs(np.fft.rfft(emphasised * taper, FFT, axis=1)))
        mel = np.log(power @ filters.T + 1e-8)
        cepstra.append(dct(mel, type=2, axis=1, norm="ortho")[:, 1:NUM_CEPSTRA])
    cepstra, level = np.concatenate(cepstra), np.concatenate(levels)
    slopes = np.gradient(cepstra, axis=0) if frames > 1 else np.zeros_like(cepstra)
    joined = np.concatenate([cepstra, slopes], axis=1)
    voiced = level > np.percentile(level, 95) - 30
    return ((joined - joined[voiced].mean(0)) / (joined[voiced].std(0) + 1e-3)).astype(np.float32), level
