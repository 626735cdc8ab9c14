"""Text → speech and its exact phoneme track, in any language of espeak-ng.

espeak-ng marks the sample at which each phoneme begins. Two things are made of those marks here that a face needs:

* A stop's closure. espeak marks a stop (p, t, k, …) at its burst and leaves the closure to the phoneme before it. The
  lips of a /p/ are shut during the closure, so the stop gets it: it begins where the waveform falls quiet.
* Silence. espeak's unnamed marks are pauses, tones or links between words; those whose waveform is quiet for longer
  than a closure are silence, the rest belong to their neighbours.
"""

import difflib
import re
import unicodedata

import numpy as np

from ..errors import EmptyTextError, InvalidArgumentError, UnknownLanguageError
from . import espeak, stops
from .types import SILENCE, Phoneme, PhonemeTrack, Speech

MIN_RATE, MAX_RATE = 80, 440  # at 450 espeak squeezes the waveform, and its marks no longer fit
QUIET = 40  # of 32,768: espeak's closures and pauses stay below
SHORTEST_SILENCE = 0.06  # seconds; a shorter quiet stretch is a closure or an onset
CLOSURE = 0.04  # seconds of a pause that the closure of a following stop takes
LONGEST_CLOSURE = 0.12
SHORTEST_PHONEME = 0.03  # seconds that a closure leaves to the phoneme before it

# Which voices read a script, by the first word of its characters' Unicode names; all other languages hand such text to
# the first. (Left to itself, espeak spells foreign letters out, and its Vietnamese crashes on Gurmukhi.)
_READERS = {
    "CJK": ("cmn", "cmn-latn-pinyin", "yue", "hak"),
    "HIRAGANA": ("ja",),
    "KATAKANA": ("ja",),
    "HANGUL": ("ko",),
    "CYRILLIC": ("ru", "ru-cl", "ru-lv", "az", "ba", "be", "bg", "bs", "cv", "kk", "ky", "mk", "nog", "sr")
    + ("tk", "tt", "uk", "uz"),
    "ARABIC": ("ar", "fa", "ku", "sd", "ug", "ur", "pa", "ms"),
    "HEBREW": ("he",),
    "DEVANAGARI": ("hi", "mr", "ne", "kok", "sd"),
    "BENGALI": ("bn", "as", "bpy"),
    "GURMUKHI": ("pa",),
    "GUJARATI": ("gu",),
    "ORIYA": ("or",),
    "TAMIL": ("ta",),
    "TELUGU": ("te",),
    "KANNADA": ("kn",),
    "MALAYALAM": ("ml",),
    "SINHALA": ("si",),
    "THAI": ("th",),
    "MYANMAR": ("my", "shn"),
    "ETHIOPIC": ("am", "ti"),
    "GEORGIAN": ("ka",),
    "ARMENIAN": ("hy", "hyw"),
}
# espeak knows no reading of Han characters in these, and says "Chinese letter" for each: their names there, and what
# to write instead.
_WITHOUT_HAN = {"ja": ("Japanese", "kanji", "kana"), "ko": ("Korean", "hanja", "Hangul")}
_HAN = ("CJK", "IDEOGRAPHIC", "KANGXI")  # characters, marks such as 々 and 〆, radicals
# Full-width forms are their ASCII characters, but not those that espeak pauses or passes over as it should: without
# spaces around them, as Chinese and Japanese write, the ASCII ones make no pause, and "~" is read out as "tilde".
_PUNCTUATION_OF_ITS_OWN = "！（），．：；？～"
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F) if chr(code) not in _PUNCTUATION_OF_ITS_OWN}
_FULL_WIDTH[0x3000] = " "
_FULL_WIDTH_POINT = re.compile("(?<=[0-9])．(?=[0-9])")
# These leave Latin letters to English; "cmn-latn-pinyin" reads them itself.
_LATIN_AS_ENGLISH = ("cmn", "yue", "hak")
_EMOJI = re.compile("[\u2600-\u27bf\u2b00-\u2bff\ufe0e\ufe0f\u200d\u20e3\U0001f000-\U0001faff\U000e0020-\U000e007f]")
_ALIASES = {"en": "en-us", "zh": "cmn", "zh-cn": "cmn", "zh-tw": "cmn", "zh-hk": "yue", "fr": "fr-fr", "no": "nb"}

# Where espeak's tables have no IPA, it writes ASCII: Mandarin retroflexes, and some rare languages.
_RESPELLED = (("ts.", "ʈʂ"), ("s.", "ʂ"), ("i.", "ɨ"), ("?", "ʔ"), ("S", "ʃ"), ("Z", "ʒ"), ("N", "ŋ"), ("A", "ɑ"),
              ("X", "χ"), ("K", "ɬ"), ("g", "ɡ"))  # fmt: skip
# By the first part of the language: what espeak writes there that is another sound in IPA. Russian ы and Vietnamese ư
# are not rounded as /y/ is.
_MISSPELLED = {"ru": ("y", "ɨ"), "vi": ("y", "ɯ")}
# A Mandarin final such as "uei" is a glide and a rhyme, and the lips show both: u-ei rounds, then opens.
_GLIDES = {"i": "j", "u": "w", "y": "ɥ"}
_GLIDE_SHARE = 0.35


def speak(text: str, language: str = "en-us", voice: str | None = None, rate: int | None = None) -> Speech:
    """Speak a text.

    Mixed text switches the voice by script: Han characters within English are spoken by the Mandarin voice, Latin
    words within Chinese by the English one, and so on; the spans are joined sample by sample, so all times stay exact.
    Emoji are not spoken. Decomposed letters and full-width forms are read as the usual ones (see `normalize_text`).
    Japanese is read from kana and Korean from Hangul: espeak-ng does not know how Han characters are said in them.

    Args:
        text: what to say; punctuation becomes timed silence.
        language: espeak language code, one of `languages()`.
        voice: speaker, one of `voices()`, e.g. "f3"; None is the language's own.
        rate: words per minute, 80 to 440; None is espeak's 175.

    Returns:
        Mono speech; its track covers the audio without gaps, silence as "sil".

    Raises:
        EmptyTextError: nothing in the text can be spoken, or it is Japanese or Korean with Han characters.
        UnknownLanguageError: language or voice do not exist; the message lists near matches.
        InvalidArgumentError: text or voice are no strings, or the rate is out of range.
    """
    if not isinstance(text, str):
        raise InvalidArgumentError(f"the text is a {type(text).__name__}: give a string")
    language = resolve_language(language)
    voice = _resolve_voice(voice)
    rate = espeak.DEFAULT_RATE if rate is None else rate
    if not isinstance(rate, int | float | np.number) or not MIN_RATE <= rate <= MAX_RATE:
        raise InvalidArgumentError(f"rate={rate}: give {MIN_RATE} to {MAX_RATE} words per minute")
    speakable = _speakable(normalize_text(text))
    if not speakable:
        raise EmptyTextError("the text is empty: give at least one word to say")
    _check_readable(speakable, language)

    chunks, phonemes, offset, sampling_rate = [], [], 0.0, 0
    for span, span_language in _split_by_script(speakable, language):
        audio, sampling_rate, marks = espeak.synthesize(span, span_language, voice, int(rate))
        phonemes += _timed_phonemes(audio, sampling_rate, marks, span_language, offset)
        offset += len(audio) / sampling_rate
        chunks.append(audio)
    if all(phoneme.symbol == SILENCE for phoneme in phonemes):
        raise EmptyTextError(f"nothing in {text[:40]!r} can be spoken by the voice {language!r}: give it words")
    audio = np.concatenate(chunks, dtype=np.float32, casting="safe")
    audio /= 32768
    track = PhonemeTrack(_join_silences(phonemes), language, len(audio) / sampling_rate)
    return Speech(track.validate(), audio, sampling_rate, language)


def languages() -> list[str]:
    """Codes of the languages that can be spoken."""
    return sorted(espeak.language_names())


def voices() -> list[str]:
    """Names of the speakers; each can speak every language."""
    return list(espeak.variant_names())


def resolve_language(language: str) -> str:
    """The espeak code for a language code: letter case, "_" and unknown regions ("de-AT") are forgiven.

    Raises:
        UnknownLanguageError: no such language; the message lists near matches.
    """
    known = espeak.language_names()
    wanted = str(language).strip().replace("_", "-").lower()
    for candidate in (wanted, wanted.split("-")[0]):
        candidate = _ALIASES.get(candidate, candidate)
        if candidate in known:
            return candidate
    names = {name.lower(): code for code, name in known.items()}
    near = [code for name, code in names.items() if wanted and wanted in name]
    near += [names[name] for name in difflib.get_close_matches(wanted, names, 3, 0.6)]
    near += difflib.get_close_matches(wanted, known, 3, 0.5)
    near = list(dict.fromkeys(near))[:5] or ["en-us", "cmn"]
    raise UnknownLanguageError(
        f"unknown language {language!r}: did you mean {', '.join(near)}? avatarsync info --languages lists all"
    )


def normalize_text(text: str) -> str:
    """The text as espeak and the dictionaries know its letters.

    Letters are composed (NFC): of a letter and its accent apart, espeak drops the accent. Full-width forms, such as
    "Ｈｉ" and the ideographic space, which espeak would spell or drop, become ASCII; punctuation only where it makes
    no pause of its own.
    """
    return _FULL_WIDTH_POINT.sub(".", unicodedata.normalize("NFC", text).translate(_FULL_WIDTH))


def normalize_symbol(symbol: str) -> str:
    """espeak's symbol without stress, length, tone and leftovers of its ASCII notation; "" for language switches."""
    if symbol.startswith("("):  # "(en)": the voice of another language takes over
        return ""
    for written, ipa in _RESPELLED:
        symbol = symbol.replace(written, ipa)
    symbol = re.sub("[ˈˌːˑ.:`^#[\\]\\-|_;'\"\\s\\d\x01]", "", symbol)
    return symbol if any(unicodedata.category(c) != "Mn" for c in symbol) else ""


def _resolve_voice(voice: str | None) -> str | None:
    if voice is None:
        return None
    if not isinstance(voice, str):
        raise InvalidArgumentError(f'the voice is a {type(voice).__name__}: give a name, such as "f3"')
    if voice in espeak.variant_names():
        return voice
    near = difflib.get_close_matches(voice, espeak.variant_names(), 4, 0.4) or ["f3", "m3"]
    raise UnknownLanguageError(
        f"unknown voice {voice!r}: did you mean {', '.join(near)}? avatarsync info --voices lists all,"
        " and another accent is a language, such as en-gb"
    )


def _speakable(text: str) -> str:
    """The text without emoji and control characters."""
    text = _EMOJI.sub(" ", text)
    return "".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in text).strip()


def _check_readable(text: str, language: str) -> None:
    """Raises EmptyTextError where espeak would name characters instead of reading them."""
    if language not in _WITHOUT_HAN:
        return
    han = [c for c in text if c.isalnum() and unicodedata.name(c, "").split(" ")[0].split("-")[0] in _HAN]
    if han:
        name, characters, script = _WITHOUT_HAN[language]
        named = "".join(dict.fromkeys(han))[:10]
        raise EmptyTextError(f"the {name} voice cannot read {characters} ({named}): write the text in {script}")


def _split_by_script(text: str, language: str) -> list[tuple[str, str]]:
    """Spans of text, each with the language that speaks it. What has no script goes with what is before it."""
    spans: list[list] = []
    pending = ""
    for character in text:
        script = unicodedata.name(character, "").split(" ")[0]
        if not character.isalpha():
            speaker = None
        elif script == "LATIN" and language in _LATIN_AS_ENGLISH:
            speaker = "en-us"
        elif script in _READERS and language not in _READERS[script]:
            speaker = _READERS[script][0]
        else:
            speaker = language
        if speaker is None:
            if spans:
                spans[-1][0] += character
            else:
                pending += character
        elif spans and spans[-1][1] == speaker:
            spans[-1][0] += character
        else:
            spans.append([pending + character, speaker])
            pending = ""
    return [tuple(span) for span in spans] or [(pending, language)]


def _timed_phonemes(
    audio: np.ndarray, sampling_rate: int, marks: list[espeak.Mark], language: str, offset: float
) -> list[Phoneme]:
    """Phonemes that cover `audio` `(samples,)` without a gap, in seconds from `offset` on."""
    total, respelled = len(audio), _MISSPELLED.get(language.split("-")[0])
    starts = [*np.maximum.accumulate([min(mark.sample, total) for mark in marks] or [total]).tolist(), total]
    spans: list[list] = []  # [symbol, first sample, word]; each lasts to the next
    if starts[0] > 0:
        spans.append([SILENCE, 0, None])
    for mark, start, end in zip(marks, starts, starts[1:], strict=False):
        if end <= start:
            continue
        symbol = normalize_symbol(mark.symbol)
        if respelled is not None:
            symbol = symbol.replace(*respelled)
        if symbol:
            spans.append([symbol, start, mark.word])
        elif np.abs(audio[start:end].astype(np.int32)).max() < QUIET or not spans:
            spans.append([SILENCE, start, None])
    spans = _join_quiet(spans)
    for index in range(1, len(spans)):
        _give_closure(spans, index, audio, sampling_rate)
    spans = _absorb_short_silences(spans, total, int(SHORTEST_SILENCE * sampling_rate))

    phonemes = []
    for index, (symbol, start, word) in enumerate(spans):
        end = spans[index + 1][1] if index + 1 < len(spans) else total
        if end > start:
            times = (offset + start / sampling_rate, offset + end / sampling_rate)
            phonemes += _split_glide(Phoneme(symbol, *times, word), language)
    return phonemes


def _join_quiet(spans: list[list]) -> list[list]:
    return [span for i, span in enumerate(spans) if i == 0 or span[0] != SILENCE or spans[i - 1][0] != SILENCE]


def _give_closure(spans: list[list], index: int, audio: np.ndarray, sampling_rate: int) -> None:
    """Start a stop where the waveform before its burst falls quiet."""
    symbol, start, _ = spans[index]
    if not stops.is_stop(symbol):
        return
    before = spans[index - 1]
    if before[0] == SILENCE:
        closure = min(start - before[1], int(CLOSURE * sampling_rate))
    else:
        kept = min(int(SHORTEST_PHONEME * sampling_rate), (start - before[1]) // 2)
        first = max(before[1] + kept, start - int(LONGEST_CLOSURE * sampling_rate))
        loud = np.flatnonzero(np.abs(audio[first:start].astype(np.int32)) >= QUIET)
        closure = start - first - (int(loud[-1]) + 1 if len(loud) else 0)
    spans[index][1] = start - closure


def _absorb_short_silences(spans: list[list], total: int, shortest: int) -> list[list]:
    """Silences shorter than `shortest` samples go to the phoneme after them, or at the end to the one before."""
    kept: list[list] = []
    pulled_to = None
    for index, span in enumerate(spans):
        end = spans[index + 1][1] if index + 1 < len(spans) else total
        if span[0] == SILENCE and end - span[1] < shortest and len(spans) > 1:
            pulled_to = span[1] if index + 1 < len(spans) else None
            continue
        kept.append([span[0], span[1] if pulled_to is None else pulled_to, span[2]])
        pulled_to = None
    return kept


def _split_glide(phoneme: Phoneme, language: str) -> list[Phoneme]:
    symbol = phoneme.symbol
    vowels = len(symbol) > 1 and all(unicodedata.category(c) == "Ll" for c in symbol) and symbol[1] in "aeiouyɑɛəæɔɤ"
    if not (language.startswith("cmn") and vowels and symbol[0] in _GLIDES):
        return [phoneme]
    edge = phoneme.start + _GLIDE_SHARE * phoneme.duration
    return [
        Phoneme(_GLIDES[symbol[0]], phoneme.start, edge, phoneme.word),
        Phoneme(symbol[1:], edge, phoneme.end, phoneme.word),
    ]


def _join_silences(phonemes: list[Phoneme]) -> list[Phoneme]:
    joined: list[Phoneme] = []
    for phoneme in phonemes:
        if joined and phoneme.symbol == SILENCE and joined[-1].symbol == SILENCE:
            joined[-1].end = phoneme.end
        else:
            joined.append(phoneme)
    return joined
