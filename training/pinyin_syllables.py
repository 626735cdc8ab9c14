"""Which pinyin syllable each phoneme of spoken Mandarin belongs to, as the paper's Figure 6 labels its frames."""

from pypinyin import Style, lazy_pinyin

from avatarsync.errors import InvalidArgumentError
from avatarsync.phonemes import SILENCE, PhonemeTrack

VOWELS = set("aeiouyɑɐɛəɚɜɤɨʉɪʊɔœøæʌɯ")
CODAS = ("n", "ŋ", "ɻ", "ɹ", "r")


def syllable_starts(symbols: list[str]) -> list[int]:
    """Index of the first phoneme of each syllable; every syllable has one vowel or diphthong as one symbol."""
    starts, last = [], None
    for index, symbol in enumerate(symbols):
        if symbol == SILENCE:
            last = None
        elif symbol[0] in VOWELS:
            begin = index
            while begin and symbols[begin - 1] != SILENCE and symbols[begin - 1][0] not in VOWELS:
                begin -= 1
            # The consonant after a vowel closes its syllable, if another one follows that opens the next.
            between = symbols[begin:index]
            if last is not None and between and between[0] in CODAS and (len(between) > 1 or between[0] == "ŋ"):
                begin += 1
            starts.append(begin)
            last = index
    return starts


def pinyin_of(text: str, track: PhonemeTrack) -> list[str]:
    """Pinyin of each phoneme of the track; "" for silence.

    Raises:
        InvalidArgumentError: the text has another number of syllables than was spoken: not all of it is Chinese.
    """
    syllables = lazy_pinyin(text, style=Style.TONE, errors="ignore")
    symbols = [phoneme.symbol for phoneme in track]
    starts = syllable_starts(symbols)
    if len(starts) != len(syllables):
        raise InvalidArgumentError(
            f"{len(starts)} syllables were spoken, pinyin has {len(syllables)}: give Chinese characters alone"
        )
    labels, current = [], -1
    for index, symbol in enumerate(symbols):
        while current + 1 < len(starts) and starts[current + 1] <= index:
            current += 1
        labels.append("" if symbol == SILENCE else syllables[current])
    return labels
