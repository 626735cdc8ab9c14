"""English phones in a recording by pocketsphinx: aligned to a transcript, or decoded freely."""

import functools
import re
import unicodedata

import numpy as np

from . import arpabet, stops, text
from .types import SILENCE, Phoneme, PhonemeTrack

SAMPLING_RATE = 16000
FRAME = 0.01  # seconds
PADDING = 0.3  # seconds of faint noise on both sides: pocketsphinx fails where speech begins or ends abruptly
# pocketsphinx's edges lie this much before the true ones (training/measure_alignment.py): it names the start of a
# window of 26 ms whose middle it has heard.
BIAS = 0.01
# Wide beams find nearly all; open ones, slower, the rest.
_BEAMS = ({"beam": 1e-64, "pbeam": 1e-64, "wbeam": 1e-40}, {"beam": 0.0, "pbeam": 0.0, "wbeam": 0.0})
# What usually follows what is told by people's English; 1 gives lips that fit better than 2 to 6.5.
PHONE_MODEL_WEIGHT = 1.0
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*", re.UNICODE)


def can_spell(transcript: str) -> bool:
    """Whether all letters are Latin: the rest is not for an English dictionary."""
    return all("LATIN" in unicodedata.name(c, "") for c in transcript if c.isalpha())


def align(mono: np.ndarray, sampling_rate: int, transcript: str, language: str) -> PhonemeTrack | None:
    """Align a transcript to `mono` `(samples,)`; None where pocketsphinx finds no path through it."""
    pcm = _pcm(mono, sampling_rate)
    for beams in _BEAMS:
        alignment = _align_words(pcm, transcript, language, beams)
        if alignment is not None:
            break
    else:
        return None
    spans = []
    for word in alignment.words():
        name = None if word.name.startswith(("<", "+", "[")) else re.sub(r"\(\d+\)$", "", word.name)
        spans += [(phone.name, phone.start, phone.start + phone.duration, name) for phone in word]
    return _to_track(spans, len(mono) / sampling_rate, language)


def _align_words(pcm: bytes, transcript: str, language: str, beams: dict[str, float]):
    """pocketsphinx's alignment of words and phones, or None."""
    from pocketsphinx import Decoder

    # With the search for the best path through the lattice, its second pass fails on every other sentence.
    decoder = Decoder(lm=None, loglevel="FATAL", bestpath=False, **beams)
    words = _add_words(decoder, transcript, language)
    if not words:
        return None
    try:
        decoder.set_align_text(" ".join(words))
        _run(decoder, pcm)
        if decoder.hyp() is None:
            return None
        decoder.set_alignment()
        _run(decoder, pcm)
        return decoder.get_alignment()
    except RuntimeError:  # how pocketsphinx says that nothing fits
        return None


def decode_phones(mono: np.ndarray, sampling_rate: int) -> PhonemeTrack:
    """Decode the phones of `mono` `(samples,)` without a transcript, by pocketsphinx's phone language model."""
    from pocketsphinx import Decoder, get_model_path

    decoder = Decoder(
        allphone=get_model_path("en-us/en-us-phone.lm.bin"),
        lm=None,
        dict=None,
        beam=1e-20,
        pbeam=1e-20,
        lw=PHONE_MODEL_WEIGHT,
        loglevel="FATAL",
    )
    _run(decoder, _pcm(mono, sampling_rate))
    spans = [(s.word, s.start_frame, s.end_frame + 1, None) for s in decoder.seg() or ()]
    return _to_track(spans, len(mono) / sampling_rate, None)


def _run(decoder, pcm: bytes) -> None:
    decoder.start_utt()
    decoder.process_raw(pcm, full_utt=True)
    decoder.end_utt()


def _pcm(mono: np.ndarray, sampling_rate: int) -> bytes:
    """16-bit samples at 16 kHz, padded, at a level that pocketsphinx's features do well with."""
    import soxr

    audio = soxr.resample(mono.astype(np.float32), sampling_rate, SAMPLING_RATE)
    audio = np.pad(audio * (0.7 / max(float(np.abs(audio).max()), 1e-6)), int(PADDING * SAMPLING_RATE))
    noise = np.random.default_rng(0).normal(0, 2e-4, len(audio))  # digital zeros are no silence to its features
    return ((audio + noise) * 32767).clip(-32768, 32767).astype(np.int16).tobytes()


def _add_words(decoder, transcript: str, language: str) -> list[str]:
    """The transcript in the decoder's dictionary; words that it lacks are spelled by espeak's phonemes."""
    words = []
    for match in _WORD.finditer(unicodedata.normalize("NFC", transcript)):
        word = match.group().lower().replace("’", "'")
        if decoder.lookup_word(word) is None:
            phones = pronounce(word, language)
            if not phones:
                continue
            decoder.add_word(word, " ".join(phones), True)
        words.append(word)
    return words


@functools.lru_cache(4096)
def pronounce(word: str, language: str) -> tuple[str, ...]:
    """ARPAbet phones of a word, from espeak's; () where it cannot be spoken."""
    try:
        spoken = text.speak(word, language)
    except text.EmptyTextError:
        return ()
    return tuple(phone for p in spoken.track if p.symbol != SILENCE for phone in arpabet.from_ipa(p.symbol))


def _to_track(spans: list[tuple], duration: float, language: str | None) -> PhonemeTrack:
    """Frames → seconds, with the constant bias removed; the first and last entries reach to both ends."""
    track = PhonemeTrack(language=language, duration=duration)
    for index, (phone, first, last, word) in enumerate(spans):
        start = 0.0 if index == 0 else min(max(first * FRAME - PADDING + BIAS, 0.0), duration)
        end = duration if index == len(spans) - 1 else min(max(last * FRAME - PADDING + BIAS, 0.0), duration)
        symbol = arpabet.TO_IPA[phone]
        if end <= start:
            continue
        if track and symbol == SILENCE and track[-1].symbol == SILENCE:
            track[-1].end = end
            continue
        track.append(Phoneme(symbol, start, end, word))
    return stops.shorten_stops(track)
