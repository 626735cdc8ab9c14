"""Phonemes in a recording without a transcript, offline: the bundled recogniser, and for English pocketsphinx beside
it.

One has heard many languages and voices, most of them synthetic, the other has learned from people who read English: of
a voice that neither knows, both together tell more. Where pocketsphinx hears a phoneme, it and those that look like it
count as likelier.
"""

import functools
import os
from pathlib import Path

import numpy as np

from ..errors import ModelLoadError
from . import english_alignment
from .log_mel import FRAME, SAMPLING_RATE, log_mel, normalized
from .phoneme_decoding import PRIOR_WEIGHT, best_path, path_to_track
from .types import PhonemeTrack
from .visual_mapping import VisualMapping

FOLDER = Path(__file__).parents[1] / "weights" / "phoneme_recognizer"
FRAMES_AT_ONCE = 4096
# Nats by which a phoneme that pocketsphinx hears is likelier, half of them for what it looks like; beside its voice,
# changes cost more.
AGREEMENT = 2.0
SWITCH_COST_BESIDE = 3.0


def recognize_phonemes(
    mono: np.ndarray, sampling_rate: int, language: str, folder: str | os.PathLike = FOLDER
) -> PhonemeTrack:
    """The phonemes of `mono` `(samples,)`, named by broad IPA symbols.

    Args:
        language: espeak code of what is said; the recogniser itself knows all, pocketsphinx helps with English.
        folder: weights, as `PhonemeRecognizerModel.save_pretrained` writes them.

    Raises:
        ModelLoadError: the folder holds none, or not all of it.
    """
    model = _load(os.fspath(folder))
    names, duration = model.config.phonemes, len(mono) / sampling_rate
    scores = _log_likelihoods(model, mono, sampling_rate) - PRIOR_WEIGHT * np.array(model.config.log_priors)
    if not language.startswith("en"):
        return path_to_track(best_path(scores), names, duration, language)
    heard = english_alignment.decode_phones(mono, sampling_rate)
    path = best_path(scores + AGREEMENT * _agreement(heard, model, len(scores)), SWITCH_COST_BESIDE)
    return path_to_track(path, names, duration, language)


@functools.lru_cache(2)
def _load(folder: str):
    import torch
    from safetensors import SafetensorError

    from ..modeling_phoneme_recognizer import PhonemeRecognizerModel

    try:
        model, report = PhonemeRecognizerModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelLoadError(f"{folder} holds no phoneme recognizer ({reason}): give a folder that does") from error
    if report["missing_keys"]:
        missing = len(report["missing_keys"])
        raise ModelLoadError(f"{folder} lacks {missing} of the recognizer's weights: copy or train it again")
    return model.eval().to("cpu")


def _log_likelihoods(model, mono: np.ndarray, sampling_rate: int) -> np.ndarray:
    """`(T, C)` of frames of 10 ms; computed in pieces, the same as all at once."""
    import soxr
    import torch

    audio = soxr.resample(mono.astype(np.float32), sampling_rate, SAMPLING_RATE)
    bands, reach, parts = torch.from_numpy(normalized(log_mel(audio))), model.config.reach, []
    with torch.inference_mode(), torch.autocast("cpu", enabled=False):
        for first in range(0, len(bands), FRAMES_AT_ONCE):
            start, end = max(0, first - reach), first + FRAMES_AT_ONCE
            logits = model(bands[None, start : end + reach]).logits[0, first - start :][:FRAMES_AT_ONCE]
            parts.append(logits.log_softmax(-1).numpy())
    return np.concatenate(parts)


def _agreement(heard: PhonemeTrack, model, frames: int) -> np.ndarray:
    """How far each phoneme is what was heard, `(T, C)`: 1 the same, 0.5 one that looks alike."""
    mapping, names, units = VisualMapping.default(), model.config.phonemes, np.array(model.units)
    times, agreement = np.arange(frames) * FRAME, np.zeros((frames, len(names)))
    for phoneme in heard:
        first, last = np.searchsorted(times, (phoneme.start, phoneme.end))
        agreement[first:last] += 0.5 * (units == mapping.unit_id(phoneme.symbol))
        agreement[first:last] += 0.5 * (np.array(names) == phoneme.symbol)
    return agreement
