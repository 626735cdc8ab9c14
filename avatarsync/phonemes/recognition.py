"""Phonemes in a recording without a transcript, by a model that the user names.

A CTC model over phonemes (e.g. facebook/wav2vec2-lv-60-espeak-cv-ft) times them itself; the text of a CTC model over
letters, or of Whisper, is aligned. A `PhonemeRecognizerModel` listens as the bundled one does.
"""

import os
import re
from itertools import groupby

import numpy as np

from ..errors import AlignmentError, ModelLoadError
from . import arpabet
from .bundled_recognition import recognize_phonemes
from .types import SILENCE, Phoneme, PhonemeTrack

WINDOW = 20.0  # seconds that the model sees at a time, and
CONTEXT = 1.0  # what it sees beyond on both sides
# A CTC model marks a phoneme by a spike; the phoneme reaches half-way to the next, but no further than this.
LONGEST_REACH = 0.12
MULTILINGUAL_VOCABULARY = 51865  # tokens; Whisper's English-only models have one less
_WHISPER_LANGUAGES = {"cmn": "zh", "nb": "no"}  # where Whisper's codes are not espeak's


def recognize(
    mono: np.ndarray, sampling_rate: int, recognizer: str | os.PathLike, language: str
) -> tuple[PhonemeTrack | None, str | None]:
    """Phonemes of `mono` `(samples,)`, or its text where the model writes letters: one of the two is None.

    Raises:
        ModelLoadError: no such model, or one of another kind.
        AlignmentError: the model hears nothing.
    """
    from transformers import AutoConfig

    recognizer = os.fspath(recognizer)
    try:
        config = AutoConfig.from_pretrained(recognizer)
    except (OSError, ValueError) as error:
        raise _cannot_load(recognizer, error) from error
    if config.model_type == "avatarsync_phoneme_recognizer":
        return recognize_phonemes(mono, sampling_rate, language, recognizer), None
    if config.model_type == "whisper":
        return None, _transcribe(mono, sampling_rate, recognizer, language)
    return _decode_ctc(mono, sampling_rate, recognizer, language)


def _cannot_load(recognizer: str, error: Exception) -> ModelLoadError:
    reason = str(error).strip().split("\n")[0]
    return ModelLoadError(
        f"{recognizer} cannot be loaded as a recognizer ({reason}): give the Hub id or folder of a CTC phoneme model"
        " or of a Whisper model"
    )


def _heard_nothing(recognizer: str) -> AlignmentError:
    return AlignmentError(f"{recognizer} hears nothing in the recording: give a transcript, or another recognizer")


def _decode_ctc(mono: np.ndarray, sampling_rate: int, recognizer: str, language: str):
    import soxr
    import torch
    from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer

    try:
        model = AutoModelForCTC.from_pretrained(recognizer).eval()
        extractor = AutoFeatureExtractor.from_pretrained(recognizer)
        # Phonemizing text is another package's job, and not needed to name what was heard.
        tokenizer = AutoTokenizer.from_pretrained(recognizer, do_phonemize=False)
    except (OSError, ValueError, KeyError) as error:
        raise _cannot_load(recognizer, error) from error
    rate = extractor.sampling_rate
    audio = soxr.resample(mono.astype(np.float32), sampling_rate, rate)
    # Normalised once, over the whole recording: windows on their own would blow silence up.
    values = extractor(audio, sampling_rate=rate, return_tensors="np").input_values[0]

    ids: list[int] = []
    times: list[float] = []
    window, context = int(WINDOW * rate), int(CONTEXT * rate)
    for first in range(0, len(values), window):
        low, high = max(0, first - context), min(len(values), first + window + context)
        piece = values[low:high]
        if len(piece) < 0.05 * rate:
            break
        with torch.inference_mode():
            logits = model(torch.from_numpy(np.ascontiguousarray(piece))[None]).logits[0]  # (frames, vocabulary)
        seconds = (low + (np.arange(len(logits)) + 0.5) * len(piece) / len(logits)) / rate
        own = (seconds >= first / rate) & (seconds < (first + window) / rate)
        ids += logits.argmax(-1).numpy()[own].tolist()
        times += seconds[own].tolist()

    special = set(tokenizer.all_special_ids)
    delimiter = tokenizer.special_tokens_map.get("word_delimiter_token", "|")
    names = tokenizer.convert_ids_to_tokens(list(range(model.config.vocab_size)))
    if _writes_letters(names, special):
        words = "".join(names[i] or "" for i, _ in groupby(ids) if i not in special)
        words = words.replace(delimiter, " ").strip()
        if not words:
            raise _heard_nothing(recognizer)
        return None, words.lower()

    spikes = []  # (symbol, first and last time)
    for i, run in groupby(zip(ids, times, strict=True), key=lambda pair: pair[0]):
        run = [time for _, time in run]
        symbol = "" if i in special or names[i] in (None, delimiter, " ") else _to_symbol(names[i])
        if symbol:
            spikes.append((symbol, run[0], run[-1]))
    if not spikes:
        raise _heard_nothing(recognizer)
    return _spread(spikes, len(mono) / sampling_rate, language), None


def _writes_letters(names: list[str | None], special: set[int]) -> bool:
    tokens = [name for i, name in enumerate(names) if name is not None and i not in special]
    letters = {token.lower() for token in tokens if len(token) == 1 and token.isascii() and token.isalpha()}
    return len(letters) == 26 and all(len(token) == 1 and token.isascii() for token in tokens)


def _to_symbol(token: str) -> str:
    """IPA without stress, length and tone, whether the model writes IPA ("ˈaɪ", "i5") or ARPAbet ("AY1")."""
    letters = re.sub("[ˈˌːˑ\\s\\d]", "", token)
    return arpabet.TO_IPA.get(letters.upper(), letters) if letters.isupper() else letters


def _spread(spikes: list[tuple[str, float, float]], duration: float, language: str) -> PhonemeTrack:
    """Spikes → spans that meet half-way, or silence between them."""
    track = PhonemeTrack(language=language, duration=duration)
    cursor = 0.0
    for index, (symbol, first, last) in enumerate(spikes):
        before = spikes[index - 1][2] if index else 0.0
        after = spikes[index + 1][1] if index + 1 < len(spikes) else duration
        start = max(cursor, first - min((first - before) / 2 if index else first, LONGEST_REACH))
        end = min(duration, last + min((after - last) / 2 if index + 1 < len(spikes) else after - last, LONGEST_REACH))
        if end <= start or symbol == SILENCE:
            continue
        if start - cursor > 1e-6:
            track.append(Phoneme(SILENCE, cursor, start))
        track.append(Phoneme(symbol, start, end))
        cursor = end
    if duration - cursor > 1e-6:
        track.append(Phoneme(SILENCE, cursor, duration))
    return track


def _transcribe(mono: np.ndarray, sampling_rate: int, recognizer: str, language: str) -> str:
    import soxr
    from transformers import AutoProcessor, WhisperForConditionalGeneration

    try:
        model = WhisperForConditionalGeneration.from_pretrained(recognizer).eval()
        processor = AutoProcessor.from_pretrained(recognizer)
    except (OSError, ValueError, KeyError) as error:
        raise _cannot_load(recognizer, error) from error
    rate = processor.feature_extractor.sampling_rate
    audio = soxr.resample(mono.astype(np.float32), sampling_rate, rate)
    code = language.split("-")[0]
    options = {}
    if model.config.vocab_size >= MULTILINGUAL_VOCABULARY:  # English-only models take no language
        options = {"language": _WHISPER_LANGUAGES.get(code, code), "task": "transcribe"}
    window = int(processor.feature_extractor.chunk_length * rate)
    words = []
    for first in range(0, len(audio), window):
        features = processor(audio[first : first + window], sampling_rate=rate, return_tensors="pt").input_features
        words += processor.batch_decode(model.generate(features, **options), skip_special_tokens=True)
    text = " ".join(piece.strip() for piece in words).strip()
    if not text:
        raise _heard_nothing(recognizer)
    return text
