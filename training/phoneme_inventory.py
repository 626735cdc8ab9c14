"""The phonemes that the recogniser tells apart: broad IPA symbols, to which those of all languages come down."""

import functools

from avatarsync.phonemes import SILENCE, VisualMapping

PHONEMES = (
    SILENCE, "p", "b", "m", "f", "v", "θ", "ð", "t", "d", "n", "r", "l", "s", "z", "ʃ", "ʒ", "tʃ", "dʒ", "k", "ɡ", "ŋ",
    "x", "ɹ", "w", "j", "h", "a", "ɑ", "æ", "ə", "ʌ", "ɔ", "ɔɪ", "aʊ", "aɪ", "ɛ", "eɪ", "e", "ɪ", "i", "o", "oʊ", "ø",
    "u", "ʊ", "y", "ɝ", "ɕ",
)  # fmt: skip
_NEAREST = {
    "β": "b", "ɸ": "f", "ɱ": "m", "ʋ": "v", "ɲ": "n", "ɳ": "n", "ʈ": "t", "ɖ": "d", "ɾ": "r", "ɽ": "r", "ɫ": "l",
    "ɬ": "l", "ɭ": "l", "ʎ": "l", "ts": "s", "dz": "z", "ʑ": "ɕ", "tɕ": "ɕ", "dʑ": "ɕ", "ʂ": "ʃ", "ʐ": "ʒ",
    "tʂ": "tʃ", "ʈʂ": "tʃ", "dʐ": "dʒ", "r̝": "ʒ", "ɧ": "ʃ", "g": "ɡ", "c": "k", "ɟ": "ɡ", "q": "k", "χ": "x", "ɣ": "x",
    "ʁ": "x", "ʀ": "x", "ç": "ɕ", "ɻ": "ɹ", "ɚ": "ɝ", "ɜ": "ɝ", "ʍ": "w", "ɥ": "y", "ʝ": "j", "ɦ": "h", "ħ": "h",
    "ʕ": "h", "ʔ": "h", "ʰ": "h", "ɐ": "ʌ", "ɘ": "ə", "ɤ": "ʌ", "ɒ": "ɔ", "œ": "ø", "ɨ": "ɪ", "ɯ": "ɪ", "ᵻ": "ɪ",
    "ʉ": "u", "ʏ": "y", "ɵ": "ʊ", "ᵿ": "ʊ", "au": "aʊ", "ɑu": "aʊ", "ɑʊ": "aʊ", "æʊ": "aʊ", "ai": "aɪ", "ɑɪ": "aɪ",
    "ɑi": "aɪ", "aj": "aɪ", "ei": "eɪ", "ɛɪ": "eɪ", "ou": "oʊ", "əʊ": "oʊ", "əu": "oʊ", "oi": "ɔɪ", "oɪ": "ɔɪ",
    "ɔi": "ɔɪ", "ɔø": "ɔɪ",
}  # fmt: skip
_KNOWN = {symbol: symbol for symbol in PHONEMES} | _NEAREST


@functools.cache
def phoneme_id(symbol: str) -> int:
    """Index among PHONEMES of an IPA symbol: by its longest known beginning, if that looks like it, else of the first
    that does."""
    mapping = VisualMapping.default()
    unit, letters = mapping.unit(symbol), "".join(c for c in symbol if c not in "ˈˌːˑ͡" and not c.isdigit())
    for length in range(len(letters), 0, -1):
        nearest = _KNOWN.get(letters[:length])
        if nearest is not None and mapping.unit(nearest) == unit:
            return PHONEMES.index(nearest)
    return next(index for index, phoneme in enumerate(PHONEMES) if mapping.unit(phoneme) == unit)
