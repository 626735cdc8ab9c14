"""What the processor tells of a speech beside its units."""

import numpy as np
import pytest

from avatarsync import AvatarSyncProcessor
from avatarsync.phonemes import Phoneme, PhonemeTrack, Speech
from avatarsync.processing_avatarsync import SHORTEST_PAUSE


def schedule(*spans, duration=4.0):
    track = PhonemeTrack([Phoneme("ɑ", start, end) for start, end in spans], "en-us")
    return AvatarSyncProcessor()(Speech(track, np.zeros(int(duration * 16000), np.float32), 16000, "en-us"))


def test_short_gaps_are_no_pause():
    gap, pause = SHORTEST_PAUSE - 0.05, SHORTEST_PAUSE + 0.05
    spoken = schedule((0.5, 0.7), (0.7 + gap, 1.2), (1.2 + pause, 2.0), (2.0, 2.7)).spoken()
    assert spoken.shape == (2, 2)
    # Lips lead the sound by up to 40 ms.
    assert spoken.ravel() == pytest.approx([0.5, 1.2, 1.2 + pause, 2.7], abs=0.041)


def test_silence_has_nothing_spoken():
    assert schedule().spoken().shape == (0, 2)
