"""Alignment in any language: espeak-ng speaks the transcript, and dynamic time warping lays that on the recording.

The frames of the synthesised speech are the states of a left-to-right model; each frame of the recording is in one
state, and from frame to frame the state stays or advances by one to three. Between words lies a state of silence
that may be skipped, for people pause where espeak does not. Long recordings are first aligned coarsely, on averages
of several frames, then finely in a band around that: time and memory grow with the length, not with its square.
"""

import re
import warnings

import numpy as np

from ..errors import AlignmentError, AvatarSyncWarning
from . import mfcc, stops, text
from .espeak import DEFAULT_RATE
from .log_mel import FRAME, SAMPLING_RATE
from .types import SILENCE, Phoneme, PhonemeTrack, Speech

LONGEST_WHOLE = 2500  # frames that are aligned without a coarse pass
COARSEST = 5000  # frames of a coarse pass
HALF_BAND = 150  # frames around the coarse path
STEP_COSTS = (0.1, 0.0, 0.15, 0.4)  # of advancing by 0, 1, 2, 3 states
LEVEL_RANGE_DB = 40.0
SILENT_SHARE = 0.45  # of the way from the noise floor to loud speech
SILENCE_COST = 2.5  # of a silent frame; the distance of frames that fit is about 4, of those that do not, 7
SILENCE_SLOPE = 0.3  # per dB above
LEVEL_WEIGHT = 3.0  # of the level among 24 normalised cepstra and slopes
# The edges found lie this much before the true ones; measured by training/measure_alignment.py.
BIAS = 0.006
MAX_SPEEDUP = 3.0  # nobody speaks so much faster than espeak at its usual rate
MAX_SLOWDOWN = 10.0
SUSPICIOUS_SLOWDOWN = 2.2  # slower than this words are rather missing


def fitting_rate(transcript: str, language: str, mono: np.ndarray, sampling_rate: int) -> int:
    """Words per minute at which espeak says the transcript about as fast as the recording `mono` `(samples,)` does.

    Raises:
        AlignmentError: the transcript cannot be what is said, by its length.
        EmptyTextError: nothing in the transcript can be spoken.
    """
    track = text.speak(transcript, language).track
    expected = sum(p.duration for p in track if p.symbol != SILENCE)
    seconds = len(mono) / sampling_rate
    spoken = _spoken_seconds(mono, sampling_rate)
    if expected > MAX_SPEEDUP * seconds:
        raise AlignmentError(
            f"the transcript takes about {expected:.0f} s to say, the recording lasts {seconds:.1f} s:"
            " give the transcript of this recording only"
        )
    if spoken > MAX_SLOWDOWN * expected:
        raise AlignmentError(
            f"the transcript takes about {expected:.1f} s to say, but {spoken:.0f} s of the recording are not silent:"
            " give the whole transcript"
        )
    if spoken > SUSPICIOUS_SLOWDOWN * expected:
        warnings.warn(
            f"the words take about {expected:.1f} s to say, and {spoken:.1f} s of the recording are not silent: "
            "where words are missing, the lips will be wrong",
            AvatarSyncWarning,
            stacklevel=2,
        )
    return int(np.clip(DEFAULT_RATE * expected / max(spoken, 0.1), text.MIN_RATE, text.MAX_RATE))


def align(mono: np.ndarray, sampling_rate: int, transcript: str, language: str, rate: int) -> PhonemeTrack:
    """Lay espeak's phonemes of the transcript, spoken at `rate`, on the recording `mono` `(samples,)`.

    Raises:
        AlignmentError: the transcript does not fit the recording.
    """
    return _lay_on(mono, sampling_rate, text.speak(transcript, language, rate=rate))


def align_pieces(
    mono: np.ndarray, sampling_rate: int, transcript: str, language: str, rate: int
) -> tuple[list[str], list[list[Phoneme]]]:
    """Align a long transcript, and cut it into pieces of some 30 words, at punctuation where there is some.

    Returns:
        The pieces of which something was found, and the phonemes of each, without the silences at its ends.
    """
    pieces = cut_transcript(transcript)
    joined, chunks, offset = PhonemeTrack(language=language), [], 0.0
    for number, piece in enumerate(pieces):
        speech = text.speak(piece, language, rate=rate)
        for phoneme in speech.track:
            # The number rides on the word through the alignment, which keeps words and drops what it does not find.
            word = None if phoneme.symbol == SILENCE else f"{number}\n{phoneme.word or ''}"
            joined.append(Phoneme(phoneme.symbol, phoneme.start + offset, phoneme.end + offset, word))
        chunks.append(speech.audio)
        offset += speech.duration
    track = _lay_on(mono, sampling_rate, Speech(joined, np.concatenate(chunks), speech.sampling_rate, language))
    found: dict[int, list[Phoneme]] = {}
    for phoneme in track:
        if phoneme.symbol != SILENCE:
            number, word = phoneme.word.split("\n")
            entry = Phoneme(phoneme.symbol, phoneme.start, phoneme.end, word or None)
            found.setdefault(int(number), []).append(entry)
    return [pieces[number] for number in found], list(found.values())


def cut_transcript(transcript: str, words_per_piece: int = 30) -> list[str]:
    """Pieces of at most some 30 words, at punctuation where there is some; each has something to say."""
    pieces: list[str] = []
    room = 0
    for clause in re.split(r"(?<=[.!?;:,])\s+", transcript):
        words = clause.split()
        for first in range(0, len(words), words_per_piece):
            part = " ".join(words[first : first + words_per_piece])
            count = len(words[first : first + words_per_piece])
            if pieces and (count <= room or not any(character.isalnum() for character in part)):
                pieces[-1] += " " + part
                room -= count
            else:
                pieces.append(part)
                room = words_per_piece - count
    return pieces


def _lay_on(mono: np.ndarray, sampling_rate: int, reference: Speech) -> PhonemeTrack:
    frames, level = mfcc.features(_resample(mono, sampling_rate))
    floor = float(np.clip(np.percentile(level, 5) - np.percentile(level, 95), -LEVEL_RANGE_DB, -10.0))
    states, entries = _states(reference, floor)
    observed = _with_level(frames, level, floor)
    # How little a frame is like silence: nothing below SILENT_SHARE of the way from the noise floor to loud speech.
    above = np.clip(level - np.percentile(level, 95), floor, 0.0) - floor * (1 - SILENT_SHARE)
    silence_costs = (SILENCE_COST + SILENCE_SLOPE * np.maximum(0.0, above)).astype(np.float32)
    if (entries >= 0).sum() > len(observed) * (len(STEP_COSTS) - 1):
        raise AlignmentError(
            "the transcript has more sounds than the recording has room for: give this recording's own transcript"
        )
    path = _warp(observed, silence_costs, states, entries < 0)
    return _to_track(path, entries, reference, len(mono) / sampling_rate)


def _resample(mono: np.ndarray, sampling_rate: int) -> np.ndarray:
    import soxr

    return soxr.resample(mono.astype(np.float32), sampling_rate, SAMPLING_RATE)


def _spoken_seconds(mono: np.ndarray, sampling_rate: int) -> float:
    length = max(1, int(0.03 * sampling_rate))
    power = np.square(mono[: len(mono) // length * length].reshape(-1, length), dtype=np.float64).mean(axis=1)
    level = 10 * np.log10(power + 1e-10)
    return float(np.count_nonzero(level > np.percentile(level, 95) - 25) * 0.03)


def _with_level(frames: np.ndarray, level: np.ndarray, floor: float) -> np.ndarray:
    """Features `(frames, D)` and the level, from 0 (loud) down to the recording's noise floor in dB."""
    relative = np.clip(level - np.percentile(level, 95), floor, 0.0) / 10.0
    return np.concatenate([frames, LEVEL_WEIGHT * relative[:, None]], axis=1).astype(np.float32)


def _states(reference: Speech, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """States `(M, D)`, and the entry of the reference's track that each is of; -1 for silence."""
    spoken, level = mfcc.features(_resample(reference.audio, reference.sampling_rate))
    spoken = _with_level(spoken, level, floor)
    silence = np.zeros((1, spoken.shape[1]), np.float32)  # its distances are costs of their own
    states, entries = [silence], [-1]
    previous_word = None
    for index, phoneme in enumerate(reference.track):
        between_words = phoneme.symbol == SILENCE or phoneme.word != previous_word
        if between_words and entries[-1] != -1:
            states.append(silence)
            entries.append(-1)
        if phoneme.symbol != SILENCE:
            previous_word = phoneme.word
            first = round(phoneme.start / FRAME)
            own = spoken[first : max(first + 1, round(phoneme.end / FRAME))]
            states.append(own)
            entries += [index] * len(own)
    if entries[-1] != -1:
        states.append(silence)
        entries.append(-1)
    return np.concatenate(states), np.array(entries)


def _warp(observed: np.ndarray, silence_costs: np.ndarray, states: np.ndarray, silent: np.ndarray) -> np.ndarray:
    """The state `(N,)` of each observed frame `(N, D)`, among states `(M, D)` of which those of `silent` are silence.

    Coarse first where the recording is long.
    """
    longest = max(len(observed), len(states))
    if longest <= LONGEST_WHOLE:
        return _viterbi(observed, silence_costs, states, silent, np.zeros(len(observed), np.int64), len(states))
    factor = max(4, -(-longest // COARSEST))
    # Only the silence at both ends is kept apart; that between words is lost in the averages, and short beside them.
    coarse_states = _average(states[~silent], factor)
    coarse_states = np.concatenate([states[:1], coarse_states, states[:1]])
    coarse_silent = np.zeros(len(coarse_states), bool)
    coarse_silent[[0, -1]] = True
    coarse_observed = _average(observed, factor)
    everywhere = np.zeros(len(coarse_observed), np.int64)
    coarse_costs = _average(silence_costs[:, None], factor)[:, 0]
    coarse = _viterbi(coarse_observed, coarse_costs, coarse_states, coarse_silent, everywhere, len(coarse_states))
    voiced = np.concatenate([[0], np.flatnonzero(~silent), [len(states) - 1]])
    state_of_coarse = voiced[np.clip((coarse - 0.5) * factor, 0, len(voiced) - 1).astype(np.int64)]
    centre = np.interp(np.arange(len(observed)), (np.arange(len(coarse)) + 0.5) * factor, state_of_coarse)
    half = HALF_BAND + 2 * factor
    width = min(2 * half, len(states))
    lowest = np.clip(centre.astype(np.int64) - half, 0, len(states) - width)
    lowest[0], lowest[-1] = 0, len(states) - width
    return _viterbi(observed, silence_costs, states, silent, np.maximum.accumulate(lowest), width)


def _average(frames: np.ndarray, factor: int) -> np.ndarray:
    edges = np.arange(0, len(frames), factor)
    return np.add.reduceat(frames, edges, axis=0) / np.diff(np.append(edges, len(frames)))[:, None]


def _viterbi(
    observed: np.ndarray,
    silence_costs: np.ndarray,
    states: np.ndarray,
    silent: np.ndarray,
    lowest: np.ndarray,
    width: int,
) -> np.ndarray:
    """The cheapest path `(N,)` through the band of `width` states from `lowest[n]` on."""
    count = len(observed)
    squares = np.einsum("md,md->m", states, states)
    steps = np.array(STEP_COSTS, np.float32) * np.sqrt(states.shape[1])
    came_by = np.zeros((count, width), np.int8)
    score = np.full(width, np.inf, np.float32)
    for n in range(count):
        low = lowest[n]
        band = states[low : low + width]
        distance = squares[low : low + width] - 2 * (band @ observed[n]) + observed[n] @ observed[n]
        distance = np.sqrt(np.maximum(distance, 0))
        distance[silent[low : low + width]] = silence_costs[n]
        if n == 0:
            score[: len(STEP_COSTS)] = distance[: len(STEP_COSTS)] if low == 0 else np.inf
            continue
        shift = low - lowest[n - 1]
        previous = np.full(width, np.inf, np.float32)
        previous[: max(0, width - shift)] = score[shift:]
        # A band that moved on may still be entered from the states that it left below.
        left = score[max(0, shift - len(STEP_COSTS) + 1) : min(shift, width)]
        best, by = previous + steps[0], np.zeros(width, np.int8)
        for step in range(1, len(STEP_COSTS)):
            candidate = np.full(width, np.inf, np.float32)
            candidate[step:] = previous[: width - step]
            reach = min(step, len(left))
            if reach:
                candidate[step - reach : step] = left[len(left) - reach :]
            candidate += steps[step]
            better = candidate < best
            best[better], by[better] = candidate[better], step
        score = best + distance
        came_by[n] = by
    last = len(states) - 1 - lowest[-1]
    if not np.isfinite(score[max(0, last - 1) : last + 1]).any():
        raise AlignmentError("the transcript does not fit the recording: check that it is what is said, all of it")
    state = int(lowest[-1] + max(0, last - 1) + np.argmin(score[max(0, last - 1) : last + 1]))
    path = np.empty(count, np.int64)
    for n in range(count - 1, -1, -1):
        path[n] = state
        state -= int(came_by[n, state - lowest[n]])
    return path


def _to_track(path: np.ndarray, entries: np.ndarray, reference: Speech, duration: float) -> PhonemeTrack:
    """Runs of one entry become phonemes; runs of silence, "sil". Entries that no frame is in are left out."""
    of_frame = entries[path]
    edges = np.flatnonzero(np.diff(of_frame)) + 1
    starts = np.concatenate([[0], edges])
    times = np.clip(edges * FRAME - FRAME / 2 + BIAS, 0.0, duration)
    times = [0.0, *(float(time) for time in times), duration]
    track = PhonemeTrack(language=reference.language, duration=duration)
    for start, end, frame in zip(times[:-1], times[1:], starts, strict=True):
        if end <= start:
            continue
        entry = of_frame[frame]
        if entry == -1:
            track.append(Phoneme(SILENCE, start, end))
        else:
            source = reference.track[int(entry)]
            track.append(Phoneme(source.symbol, start, end, source.word))
    return stops.shorten_stops(track)
