"""Stops (p, t, k, …): consonants that begin with a closure, which is as quiet as a pause."""

from .types import SILENCE, Phoneme, PhonemeTrack

_FIRST_LETTERS = frozenset("pbtdkɡgqcɟʈɖɢɓɗʄɠʛ")
# No stop lasts longer; an aligner that makes one longer has taken a pause, or noise in it, for the closure.
LONGEST_STOP = 0.15
LONGEST_STOP_IN_SPEECH = 0.3


def is_stop(symbol: str) -> bool:
    """Whether a symbol begins with a stop; affricates do."""
    return symbol[0] in _FIRST_LETTERS


def shorten_stops(track: PhonemeTrack) -> PhonemeTrack:
    """The track with the pauses that too long stops hold given back to silence."""
    shortened = PhonemeTrack(language=track.language, duration=track.duration)
    for phoneme in track:
        before = shortened[-1] if len(shortened) else None
        after_silence = before is None or before.symbol == SILENCE
        longest = LONGEST_STOP if after_silence else LONGEST_STOP_IN_SPEECH
        if is_stop(phoneme.symbol) and phoneme.duration > longest:
            start = phoneme.end - LONGEST_STOP
            if before is not None and before.symbol == SILENCE:
                before.end = start
            else:
                shortened.append(Phoneme(SILENCE, phoneme.start, start))
            phoneme = Phoneme(phoneme.symbol, start, phoneme.end, phoneme.word)
        shortened.append(phoneme)
    return shortened
