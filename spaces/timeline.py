"""The phoneme track as people see and edit it: a table of rows, and a picture over the waveform."""

import html
import math
from collections.abc import Sequence

import numpy as np
from limits import MAX_ROWS, LimitError

from avatarsync.errors import InvalidTrackError
from avatarsync.phonemes import SILENCE, Phoneme, PhonemeTrack, VisualMapping

HEADERS = ("phoneme", "start (s)", "end (s)", "word")
DECIMALS = 3  # of the times in the table
TOUCHING = 1.5 * 10**-DECIMALS  # seconds between edges that are one

PIXELS_PER_SECOND = 230
MIN_WIDTH = 1150
LABEL_WIDTH = 8  # pixels of a letter: a phoneme too short for its symbol goes without
WAVE_HEIGHT, BAND_HEIGHT, WORD_HEIGHT, AXIS_HEIGHT = 76, 34, 24, 20
# Kinds of mouth shape, by unit: shut, lip on teeth, tongue and teeth, rounded, open.
KINDS = {
    "silent": ("SIL",),
    "shut": ("M",),
    "teeth": ("F", "TH", "T", "L", "S", "CH", "K", "R", "Y"),
    "round": ("W", "OW", "UW", "AO", "AW"),
}


def round_track(track: PhonemeTrack) -> PhonemeTrack:
    """The track with times as the table shows them, so that what nobody edits stays what it was."""
    rounded = PhonemeTrack(language=track.language, duration=track.duration)
    for phoneme in track:
        start, end = round(float(phoneme.start), DECIMALS), round(float(phoneme.end), DECIMALS)
        if end > start:
            rounded.append(Phoneme(phoneme.symbol, start, end, phoneme.word))
    return rounded


def to_rows(track: PhonemeTrack) -> list[list]:
    """Rows of the table, one a phoneme: symbol, start, end, word."""
    return [[p.symbol, round(p.start, DECIMALS), round(p.end, DECIMALS), p.word or ""] for p in track]


def from_rows(rows: Sequence[Sequence], before: PhonemeTrack) -> PhonemeTrack:
    """The track that an edited table describes.

    Empty rows are left out. An edge that was moved over its neighbour's takes it along, as on a sheet of Praat, unless
    the neighbour's edge was edited, too.

    Args:
        rows: symbol, start, end and word, as the table returns them: times may be text.
        before: the track that the table showed.

    Raises:
        InvalidTrackError: a time that is no number, or a track that overlaps itself or outlasts the speech.
    """
    if len(rows) > MAX_ROWS:
        raise LimitError(f"The timeline has {len(rows)} rows, at most {MAX_ROWS} are taken here: shorten it.")
    entries = []
    for number, row in enumerate(rows, 1):
        symbol, start, end, word = (_clean(value) for value in row)
        if not any((symbol, start, end, word)):
            continue
        if not symbol:
            raise InvalidTrackError(f'Row {number} has no phoneme: write one, or "{SILENCE}" for silence.')
        entries.append(Phoneme(symbol, _seconds(start, number, "start"), _seconds(end, number, "end"), word or None))
    if not entries:
        raise InvalidTrackError("The timeline is empty: keep at least one row.")
    if len(entries) == len(before):
        _take_neighbours_along(entries, before)
    for number, (entry, following) in enumerate(zip(entries, [*entries[1:], None], strict=True), 1):
        name = f"Row {number} ({entry.symbol}, {entry.start:g} to {entry.end:g} s)"
        if entry.end <= entry.start:
            raise InvalidTrackError(f"{name} spans no time: its end must come after its start.")
        if following is not None and following.start < entry.end - TOUCHING:
            raise InvalidTrackError(
                f"{name} overlaps the next row, which starts at {following.start:g} s: end it there or earlier."
            )
        if entry.end > before.duration + 0.05:
            raise InvalidTrackError(
                f"{name} ends after the sound, which lasts {before.duration:.2f} s: end it earlier."
            )
    return PhonemeTrack(entries, before.language, before.duration)


def _clean(value) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value).strip()


def _seconds(value: str, row: int, which: str) -> float:
    try:
        seconds = float(value.replace(",", "."))
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        raise InvalidTrackError(f"Row {row}: its {which} must be a number of seconds, such as 0.25, not “{value}”.")
    return round(seconds, DECIMALS)


def _take_neighbours_along(entries: list[Phoneme], before: PhonemeTrack) -> None:
    pairs = zip(entries, entries[1:], before, list(before)[1:], strict=False)
    for left, right, old_left, old_right in pairs:
        if abs(old_left.end - old_right.start) > TOUCHING or left.end <= right.start + TOUCHING:
            continue
        if abs(right.start - old_right.start) < TOUCHING / 3:
            right.start = left.end
        elif abs(left.end - old_left.end) < TOUCHING / 3:
            left.end = right.start


def picture(
    track: PhonemeTrack,
    audio: np.ndarray,
    sampling_rate: int,
    changed: tuple[float, float] | None = None,
    mapping: VisualMapping | None = None,
) -> str:
    """The track over its waveform as HTML with one scalable drawing, which scrolls sideways where it is long.

    Args:
        audio: float `(samples,)` or `(samples, channels)`.
        changed: start and end, in seconds, of what was rendered again.
        mapping: phonemes to visual units, for the colours.
    """
    mapping = mapping or VisualMapping.default()
    duration = max(track.duration, len(audio) / sampling_rate, 0.1)
    width = max(MIN_WIDTH, round(duration * PIXELS_PER_SECOND))
    scale = width / duration
    band, words = WAVE_HEIGHT, WAVE_HEIGHT + BAND_HEIGHT
    axis = words + WORD_HEIGHT
    height = axis + AXIS_HEIGHT
    parts = []
    if changed is not None:
        x, span = changed[0] * scale, (changed[1] - changed[0]) * scale
        parts.append(f'<rect class="tl-changed" x="{x:.1f}" y="0" width="{span:.1f}" height="{height}" rx="4"/>')
    parts.append(f'<path class="tl-wave" d="{_waveform(audio, width, WAVE_HEIGHT)}"/>')
    for phoneme in track:
        x, span = phoneme.start * scale, phoneme.duration * scale
        unit = mapping.unit(phoneme.symbol)
        kind = next((kind for kind, units in KINDS.items() if unit in units), "open")
        fits = span >= LABEL_WIDTH * len(phoneme.symbol) and kind != "silent"
        label = html.escape(phoneme.symbol) if fits else ""
        title = html.escape(f"{phoneme.symbol}  {phoneme.start:.3f} to {phoneme.end:.3f} s, mouth shape {unit}")
        parts.append(
            f'<g class="tl-{kind}"><title>{title}</title>'
            f'<rect x="{x + 0.5:.1f}" y="{band}" width="{max(span - 1, 1):.1f}" height="{BAND_HEIGHT}" rx="3"/>'
            f'<text x="{x + span / 2:.1f}" y="{band + BAND_HEIGHT / 2 + 5:.1f}">{label}</text></g>'
        )
    for start, end, word in _words(track):
        x = (start + end) / 2 * scale
        parts.append(f'<text class="tl-word" x="{x:.1f}" y="{words + 17}">{html.escape(word)}</text>')
        parts.append(f'<path class="tl-tie" d="M{start * scale + 1:.1f} {words + 3}H{end * scale - 1:.1f}"/>')
    for tick in range(math.floor(duration / 0.5) + 1):
        x = min(tick * 0.5 * scale, width - 1)
        parts.append(f'<path class="tl-tick" d="M{x:.1f} {axis}v{6 if tick % 2 else 9}"/>')
        if tick % 2 == 0 and x < width - 22:
            parts.append(f'<text class="tl-time" x="{x + 3:.1f}" y="{height - 4}">{tick // 2} s</text>')
    label = f"Timeline: {len(track)} phonemes in {duration:.1f} seconds, over the waveform"
    drawing = (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg>"
    )
    return f'<div class="timeline" tabindex="0">{drawing}</div>'


def _waveform(audio: np.ndarray, width: int, height: int) -> str:
    """An outline of the loudest and lowest sample of every two pixels, as a path."""
    mono = audio if audio.ndim == 1 else audio.mean(1)
    columns = max(2, width // 2)
    edges = np.linspace(0, len(mono), columns + 1).astype(int)
    starts = np.minimum(edges[:-1], max(len(mono) - 1, 0))
    peak = max(float(np.abs(mono).max()), 1e-3)
    high = np.maximum.reduceat(mono, starts) / peak
    low = np.minimum.reduceat(mono, starts) / peak
    middle, half = height / 2, height / 2 - 6
    xs = (np.arange(columns) + 0.5) * width / columns
    above = [f"{x:.0f} {middle - half * y:.1f}" for x, y in zip(xs, np.maximum(high, 0.01), strict=True)]
    below = [f"{x:.0f} {middle - half * y:.1f}" for x, y in zip(xs, np.minimum(low, -0.01), strict=True)]
    return "M" + "L".join(above + below[::-1]) + "Z"


def _words(track: PhonemeTrack) -> list[tuple[float, float, str]]:
    """Start, end and text of the words: neighbouring phonemes of equal words are one."""
    words: list[tuple[float, float, str]] = []
    for phoneme in track:
        if not phoneme.word:
            continue
        if words and words[-1][2] == phoneme.word and phoneme.start - words[-1][1] <= TOUCHING:
            words[-1] = (words[-1][0], phoneme.end, phoneme.word)
        else:
            words.append((phoneme.start, phoneme.end, phoneme.word))
    return words
