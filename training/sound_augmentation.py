"""Bands of a recording as they would be of another voice, in another room, through another microphone.

All of it works on log-mel bands `(T, 40)`: resampling thousands of hours would take longer than training.
"""

import numpy as np

from avatarsync.phonemes.log_mel import FRAME, NUM_BANDS

SPEEDS = (0.85, 1.2)
VOCAL_TRACTS = (0.84, 1.19)  # of bands: children and women, men
ROOM_SHARE, ECHO_TIMES, ECHO_LEVELS = 0.35, (0.15, 0.7), (0.1, 0.6)  # seconds until 60 dB less; of the direct sound
NOISE_SHARE, NOISE_RATIOS = 0.85, (3.0, 45.0)  # dB
BABBLE_SHARE, BABBLE_RATIOS = 0.12, (8.0, 25.0)  # dB
TELEPHONE_SHARE, TELEPHONE_BANDS = 0.15, (22, 38)  # the first band that is lost
COLOUR_SHARE = 0.3
TINY = 1e-9  # of the loudest power
_BANDS = np.arange(NUM_BANDS)


def another_voice(bands: np.ndarray, labels: np.ndarray, frames: int, random: np.random.Generator):
    """A stretch of bands and labels `(T,)` that becomes `frames` long, faster or slower, by a longer or shorter
    vocal tract."""
    source = min(int(frames * random.uniform(*SPEEDS)), len(bands))
    first = int(random.integers(len(bands) - source + 1))
    places = np.linspace(first, first + source - 1, frames)
    spoken = _between(bands, places, axis=0)
    stretched = np.clip(_BANDS * random.uniform(*VOCAL_TRACTS), 0, NUM_BANDS - 1)
    return _between(spoken, stretched, axis=1), labels[np.rint(places).astype(int)]


def another_room(bands: np.ndarray, others: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Bands with echo, noise and other voices, `others` `(T, 40)`, through a microphone of its own."""
    power = np.exp(bands - bands.max())
    loud = np.exp(np.percentile(bands.mean(1), 90) - bands.max())
    if random.random() < ROOM_SHARE:
        power = _echoing(power, random)
    ratio = random.uniform(*NOISE_RATIOS) if random.random() < NOISE_SHARE else 60.0
    colour = random.normal() * np.linspace(1, -1, NUM_BANDS)
    for wave in range(2, 6):
        colour = colour + random.normal(0, 0.7) * np.cos(np.pi * wave * (_BANDS + 0.5) / NUM_BANDS)
    noise = np.exp(colour) / np.exp(colour).mean() * loud * 10 ** (-ratio / 10)
    power = power + noise * random.gamma(2.5, 1 / 2.5, power.shape)
    if random.random() < BABBLE_SHARE:
        level = loud * 10 ** (-random.uniform(*BABBLE_RATIOS) / 10)
        power = power + np.exp(others - np.percentile(others.mean(1), 90)) * level
    bands = np.log(power + TINY)
    if random.random() < TELEPHONE_SHARE:
        lost = slice(int(random.integers(*TELEPHONE_BANDS)), None)
        bands[:, lost] = bands.min() + random.normal(0, 0.3, bands[:, lost].shape)
    if random.random() < COLOUR_SHARE:
        wave = np.cos(2 * np.pi * (_BANDS + 0.5) / NUM_BANDS)
        bands = bands + random.normal(0, 0.5) * np.linspace(-1, 1, NUM_BANDS) + random.normal(0, 0.3) * wave
    return bands.astype(np.float32)


def with_gaps(bands: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Normalised bands of which some frames, and some bands, are not heard."""
    if random.random() < 0.3:
        first = int(random.integers(len(bands) - 12))
        bands[first : first + int(random.integers(3, 12))] = bands.mean()
    if random.random() < 0.3:
        first = int(random.integers(NUM_BANDS - 6))
        bands[:, first : first + int(random.integers(1, 6))] = 0
    return bands


def _echoing(power: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Power with a tail that dies away."""
    stays = np.exp(-np.log(1e6) * FRAME / random.uniform(*ECHO_TIMES))
    level = random.uniform(*ECHO_LEVELS) * (1 - stays)
    echoing, tail = np.empty_like(power), np.zeros(power.shape[1], power.dtype)
    for frame, direct in enumerate(power):
        tail = stays * tail + level * direct
        echoing[frame] = direct + tail
    return echoing


def _between(bands: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
    """Bands at places between frames (axis 0) or between bands (axis 1)."""
    before = np.minimum(places.astype(int), bands.shape[axis] - 2)
    share = (places - before).astype(np.float32)
    share = share[:, None] if axis == 0 else share
    return bands.take(before, axis) * (1 - share) + bands.take(before + 1, axis) * share
