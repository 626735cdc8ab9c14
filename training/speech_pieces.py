"""Pieces of a phoneme track: where long recordings are cut, and the visual units of a piece."""

import math
from collections.abc import Iterable

from avatarsync.phonemes import SILENCE, Phoneme, VisualMapping

CUTTABLE_SILENCE = 0.12  # seconds
SHORTEST_SHARE = 0.25  # of the longest piece allowed
HAIRLINE = 1e-3  # seconds: a shorter phoneme or gap is rounding


def cut_at_silences(
    track: Iterable[Phoneme], num_frames: int, fps: float, max_seconds: float
) -> list[tuple[int, int]]:
    """Pieces (first frame, last frame exclusive) of at most `max_seconds`, about equally long, cut in silences.

    Where nobody pauses for long enough, a piece ends in the middle of speech.
    """
    longest = max(1, int(max_seconds * fps))
    speech = [phoneme for phoneme in track if phoneme.symbol != SILENCE]
    silences = [
        round((before.end + after.start) / 2 * fps)
        for before, after in zip(speech, speech[1:], strict=False)
        if after.start - before.end >= CUTTABLE_SILENCE
    ]
    cuts = [0]
    while num_frames - cuts[-1] > longest:
        first = cuts[-1]
        wanted = first + (num_frames - first) / math.ceil((num_frames - first) / longest)
        shortest = SHORTEST_SHARE * longest
        low, high = first + shortest, min(first + longest, num_frames - min(shortest, num_frames - wanted))
        inside = [frame for frame in silences if low <= frame <= high]
        cuts.append(min(inside, key=lambda frame: abs(frame - wanted)) if inside else int(wanted))
    return list(zip(cuts, [*cuts[1:], num_frames], strict=True))


def clip_phonemes(track: Iterable[Phoneme], start: float, end: float) -> list[Phoneme]:
    """The phonemes from `start` to `end` seconds, counted from `start`."""
    clipped = [
        Phoneme(entry.symbol, max(entry.start, start) - start, min(entry.end, end) - start, entry.word)
        for entry in track
    ]
    return [entry for entry in clipped if entry.end - entry.start > HAIRLINE]


def visual_units(phonemes: Iterable[Phoneme], mapping: VisualMapping, duration: float) -> list[dict]:
    """The visual unit of each phoneme by name, gaps filled with silence, from 0 to `duration` seconds."""
    silent, units, position = mapping.unit(SILENCE), [], 0.0
    for entry in phonemes:
        if entry.start > position + HAIRLINE:
            units.append({"unit": silent, "start": position, "end": entry.start})
        units.append({"unit": mapping.unit(entry.symbol), "start": entry.start, "end": entry.end})
        position = entry.end
    if duration > position + HAIRLINE:
        units.append({"unit": silent, "start": position, "end": duration})
    return units
