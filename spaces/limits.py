"""What the demo accepts, for how long it works and how long it keeps things: all in one place."""

from fractions import Fraction

import numpy as np
from PIL import Image

from avatarsync.errors import AvatarSyncError

MAX_FILE_BYTES = 20 * 2**20  # of one upload
MAX_PICTURE_PIXELS = 24_000_000
MAX_SIDE = 960  # of the video, in pixels; larger portraits are scaled down
MAX_TEXT = 600  # characters
MAX_SECONDS = 45  # of speech
MAX_ROWS = 1500  # of the timeline's table
QUEUE_SIZE = 20  # people who wait
TIME_LIMIT = 300  # seconds of work for one video
KEEP_SECONDS = 1800  # files and sessions are deleted after so long
SWEEP_SECONDS = 300  # how often that is looked after
SEGMENT_SECONDS = 1.0  # what is shown, and rendered again, at a time


class LimitError(AvatarSyncError, ValueError):
    """More than the demo takes on."""


def check_given(value: float | None, field: str, least: float, most: float | None = None) -> None:
    """Raises LimitError where a number's field was left empty: its default would be nobody's choice."""
    if value is None:
        raise LimitError(f"{field} is empty: give a number from {least:g}{'' if most is None else f' to {most:g}'}.")


def check_text(text: str) -> str:
    """The text without blanks around it. Raises LimitError where it is empty or too long."""
    text = (text or "").strip()
    if not text:
        raise LimitError("There is nothing to say yet: write a sentence, or record one.")
    if len(text) > MAX_TEXT:
        raise LimitError(f"The text has {len(text)} characters, at most {MAX_TEXT} are spoken here: shorten it.")
    return text


def check_seconds(seconds: float) -> None:
    """Raises LimitError for speech that is too long."""
    if seconds > MAX_SECONDS:
        raise LimitError(f"This lasts {seconds:.0f} seconds, at most {MAX_SECONDS} are rendered here: shorten it.")


def check_picture_size(width: int, height: int) -> None:
    """Raises LimitError before a large picture is decoded."""
    if width * height > MAX_PICTURE_PIXELS:
        raise LimitError(
            f"The picture has {width * height / 1e6:.0f} megapixels, at most {MAX_PICTURE_PIXELS / 1e6:.0f} are "
            "taken here: scale it down."
        )


def fit_picture(pixels: np.ndarray) -> np.ndarray:
    """A portrait `(H, W, 3) uint8`, scaled down where a side is longer than the demo renders."""
    height, width = pixels.shape[:2]
    scale = MAX_SIDE / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def segment_edges(num_frames: int, fps: Fraction) -> list[tuple[int, int]]:
    """First frame and the one after the last of each segment; a short rest goes with the one before it."""
    length = max(1, round(SEGMENT_SECONDS * fps))
    starts = list(range(0, num_frames, length))
    if len(starts) > 1 and num_frames - starts[-1] < length / 2:
        starts.pop()
    return list(zip(starts, [*starts[1:], num_frames], strict=True))
