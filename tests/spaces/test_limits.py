"""What is accepted."""

from fractions import Fraction

import numpy as np
import pytest
from limits import (
    MAX_PICTURE_PIXELS,
    MAX_SECONDS,
    MAX_SIDE,
    MAX_TEXT,
    LimitError,
    check_given,
    check_picture_size,
    check_seconds,
    check_text,
    fit_picture,
    segment_edges,
)


def test_texts():
    assert check_text("  Hello. ") == "Hello."
    assert check_text("x" * MAX_TEXT)
    for text in ("", "  \n", None, "x" * (MAX_TEXT + 1)):
        with pytest.raises(LimitError):
            check_text(text)


def test_numbers():
    check_given(0, "Seed", 0)
    with pytest.raises(LimitError, match="Frames per second is empty: give a number from 10 to 60.$"):
        check_given(None, "Frames per second", 10, 60)
    with pytest.raises(LimitError, match="Seed is empty: give a number from 0.$"):
        check_given(None, "Seed", 0)


def test_lengths_and_sizes():
    check_seconds(MAX_SECONDS)
    check_picture_size(MAX_PICTURE_PIXELS // 1000, 1000)
    with pytest.raises(LimitError, match="seconds"):
        check_seconds(MAX_SECONDS + 1)
    with pytest.raises(LimitError, match="megapixels"):
        check_picture_size(MAX_PICTURE_PIXELS // 1000 + 1, 1000)


def test_large_pictures_are_scaled_and_small_ones_left():
    large = np.zeros((2 * MAX_SIDE, MAX_SIDE, 3), np.uint8)
    large[MAX_SIDE:] = 200
    fitted = fit_picture(large)
    assert fitted.shape == (MAX_SIDE, MAX_SIDE // 2, 3) and fitted.dtype == np.uint8
    assert fitted[10].max() < 5 and fitted[-10].min() > 195
    small = np.zeros((200, 300, 3), np.uint8)
    assert fit_picture(small) is small


@pytest.mark.parametrize("fps", [Fraction(10), Fraction(25), Fraction(30000, 1001), Fraction(60)])
@pytest.mark.parametrize("num_frames", [1, 24, 25, 26, 37, 38, 250, 1001])
def test_segments_cover_every_frame_once(num_frames, fps):
    edges = segment_edges(num_frames, fps)
    assert [frame for first, stop in edges for frame in range(first, stop)] == list(range(num_frames))
    # None is too short for the stream's sound to keep up, none keeps people waiting.
    lengths = [(stop - first) / fps for first, stop in edges]
    assert max(lengths) < 1.6
    assert len(edges) == 1 or min(lengths) > 0.45
