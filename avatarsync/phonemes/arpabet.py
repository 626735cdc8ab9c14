"""ARPAbet, which pocketsphinx speaks, and IPA, which tracks are written in."""

import functools

from .types import SILENCE

TO_IPA = {
    "AA": "ɑ", "AE": "æ", "AH": "ʌ", "AO": "ɔ", "AW": "aʊ", "AY": "aɪ", "B": "b", "CH": "tʃ", "D": "d", "DH": "ð",
    "EH": "ɛ", "ER": "ɝ", "EY": "eɪ", "F": "f", "G": "ɡ", "HH": "h", "IH": "ɪ", "IY": "i", "JH": "dʒ", "K": "k",
    "L": "l", "M": "m", "N": "n", "NG": "ŋ", "OW": "oʊ", "OY": "ɔɪ", "P": "p", "R": "ɹ", "S": "s", "SH": "ʃ",
    "T": "t", "TH": "θ", "UH": "ʊ", "UW": "u", "V": "v", "W": "w", "Y": "j", "Z": "z", "ZH": "ʒ", "SIL": SILENCE,
    # pocketsphinx's fillers: noise and breath are no speech.
    "+NSN+": SILENCE, "+SPN+": SILENCE, "+BREATH+": SILENCE,
}  # fmt: skip

# What espeak's English, or a foreign name in it, has beyond the inverse of TO_IPA.
_FROM_IPA = {ipa: phone for phone, ipa in TO_IPA.items() if ipa != SILENCE} | {
    "ə": "AH", "ɐ": "AH", "ᵻ": "IH", "ɨ": "IH", "y": "UW", "ɚ": "ER", "ɜ": "ER", "ɜɹ": "ER", "ɒ": "AA", "a": "AA",
    "e": "EY", "o": "OW", "ɔɹ": "AO R", "oɹ": "AO R", "ɑɹ": "AA R", "ɛɹ": "EH R", "ɪɹ": "IH R", "ʊɹ": "UH R",
    "aɪɚ": "AY ER", "aɪə": "AY AH", "aʊɚ": "AW ER", "iə": "IY AH", "əʊ": "OW", "əl": "AH L", "n̩": "AH N",
    "l̩": "AH L", "ɾ": "T", "ʔ": "T", "ɫ": "L", "r": "R", "x": "K", "χ": "K", "ʍ": "W", "ç": "HH", "ɲ": "N Y",
    "ʌɹ": "ER", "eə": "EH R", "ʊə": "UH R", "ɪə": "IH R", "ts": "T S", "dz": "D Z", "ø": "ER", "œ": "ER", "ɣ": "G",
    "β": "B", "ɬ": "L", "ɕ": "SH", "ʑ": "ZH", "tɕ": "CH", "dʑ": "JH", "ʁ": "R", "g": "G",
}  # fmt: skip


@functools.cache
def from_ipa(symbol: str) -> tuple[str, ...]:
    """ARPAbet phones of an IPA symbol, its longest known pieces one after the other; () where none is known."""
    phones: list[str] = []
    rest = symbol
    while rest:
        for length in range(len(rest), 0, -1):
            if rest[:length] in _FROM_IPA:
                phones += _FROM_IPA[rest[:length]].split()
                break
        rest = rest[length:]
    return tuple(phones)
