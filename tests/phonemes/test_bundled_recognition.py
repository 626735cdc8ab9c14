"""What the bundled recogniser hears of recordings whose phonemes are known, and how it is asked."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModel

from avatarsync.errors import ModelLoadError
from avatarsync.modeling_phoneme_recognizer import PhonemeRecognizerConfig, PhonemeRecognizerModel
from avatarsync.phonemes import VisualMapping, bundled_recognition, english_alignment, listen, speak
from avatarsync.phonemes.bundled_recognition import FOLDER, recognize_phonemes

SENTENCES = {
    "en-us": "Please call Stella and ask her to bring a big map of Paris.",
    "de": "Mein Vater und meine Mutter wohnen in einem blauen Haus.",
    "es": "Mi madre compra pan y un vaso de agua fresca.",
    "cmn": "我的妈妈喜欢吃苹果和米饭。",
}


def units(track, times: np.ndarray) -> np.ndarray:
    """Visual units at some times."""
    mapping, found = VisualMapping.default(), np.zeros(len(times), int)
    for phoneme in track:
        found[(times >= phoneme.start) & (times < phoneme.end)] = mapping.unit_id(phoneme.symbol)
    return found


def noisy(audio: np.ndarray, level: float = 1e-3) -> np.ndarray:
    return (audio + np.random.default_rng(0).normal(0, level, len(audio))).astype(np.float32)


@pytest.mark.parametrize("language", SENTENCES)
@pytest.mark.parametrize("voice", ("f2", "m3"))
def test_most_of_what_lips_do_is_heard_in_any_language(language, voice):
    """Chance would be right in a tenth of the frames; always silent, in a fifth."""
    speech = speak(SENTENCES[language], language, voice).padded(0.3, 0.3)
    track = listen(noisy(speech.audio), speech.sampling_rate, language=language).track.validate()
    times = np.arange(0.0, speech.duration, 0.01)
    assert np.mean(units(track, times) == units(speech.track, times)) > 0.6
    assert (track.language, track.duration) == (language, pytest.approx(speech.duration))
    assert track[0].start == 0 and all(a.end == b.start for a, b in zip(track, track[1:], strict=False))


def test_lips_are_shut_where_they_must_be():
    speech = speak("My mama bought a map. Papa may be home by May.", "en-us", "m2").padded(0.3, 0.3)
    heard = listen(noisy(speech.audio), speech.sampling_rate).track
    centres = np.array([(p.start + p.end) / 2 for p in speech.track if p.symbol in "pbm"])
    near = np.stack([units(heard, centres + shift) for shift in (-0.03, 0.0, 0.03)])
    assert np.mean((near == VisualMapping.default().unit_id("m")).any(0)) > 0.7


def test_silence_is_silence():
    speech = speak("Hello there.").padded(1.5, 1.5)
    track = listen(noisy(speech.audio, 3e-4), speech.sampling_rate).track
    assert track[0].symbol == track[-1].symbol == "sil"
    assert track[0].end > 1.3 and track[-1].start < speech.duration - 1.3


def test_pieces_are_the_same_as_the_whole(monkeypatch):
    speech = speak(SENTENCES["es"], "es")
    model = bundled_recognition._load(str(FOLDER))
    whole = bundled_recognition._log_likelihoods(model, speech.audio, speech.sampling_rate)
    monkeypatch.setattr(bundled_recognition, "FRAMES_AT_ONCE", 50)
    pieces = bundled_recognition._log_likelihoods(model, speech.audio, speech.sampling_rate)
    assert whole.shape == pieces.shape and np.abs(whole - pieces).max() < 1e-3


def test_pocketsphinx_is_asked_about_english_alone(monkeypatch):
    asked, decode = [], english_alignment.decode_phones
    monkeypatch.setattr(english_alignment, "decode_phones", lambda *audio: asked.append(1) or decode(*audio))
    speech = speak("Hello there.")
    for language in ("fr-fr", "en-gb", "cmn"):
        recognize_phonemes(speech.audio, speech.sampling_rate, language)
        assert len(asked) == (language != "fr-fr")


def test_settings_of_the_moment_do_not_count():
    speech = speak("Hello there, how are you?")
    usual = listen(speech.audio, speech.sampling_rate, language="fr-fr").track
    bundled_recognition._load.cache_clear()
    with torch.autocast("cpu", torch.bfloat16):
        assert listen(speech.audio, speech.sampling_rate, language="fr-fr").track == usual


def test_another_recognizer_is_named_by_its_folder(tmp_path):
    torch.manual_seed(0)
    PhonemeRecognizerModel(PhonemeRecognizerConfig(("sil", "a", "m"), hidden_size=8)).save_pretrained(tmp_path / "own")
    speech = speak("Hello there.")
    track = listen(speech.audio, speech.sampling_rate, recognizer=tmp_path / "own", language="it").track.validate()
    assert {phoneme.symbol for phoneme in track} <= {"sil", "a", "m"} and track.language == "it"
    assert isinstance(AutoModel.from_pretrained(FOLDER), PhonemeRecognizerModel)


def test_folders_without_all_weights_are_refused(tmp_path):
    speech = speak("Hello.")
    with pytest.raises(ModelLoadError, match="no phoneme recognizer"):
        recognize_phonemes(speech.audio, speech.sampling_rate, "de", tmp_path)
    small = PhonemeRecognizerModel(PhonemeRecognizerConfig(("sil", "a"), hidden_size=8, dilations=(1,)))
    small.save_pretrained(tmp_path / "small")
    config = PhonemeRecognizerConfig(("sil", "a"), hidden_size=8, dilations=(1, 2))
    config.save_pretrained(tmp_path / "small")
    with pytest.raises(ModelLoadError, match="lacks 6 of the recognizer's weights"):
        recognize_phonemes(speech.audio, speech.sampling_rate, "de", tmp_path / "small")


@pytest.mark.parametrize("damage", ("cut", "another size", "priors"))
def test_damaged_weights_are_told(tmp_path, damage):
    config = PhonemeRecognizerConfig(("sil", "a"), hidden_size=8, dilations=(1,))
    PhonemeRecognizerModel(config).save_pretrained(tmp_path)
    weights, settings = tmp_path / "model.safetensors", tmp_path / "config.json"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:500])
    else:
        content = json.loads(settings.read_text())
        content |= {"hidden_size": 16} if damage == "another size" else {"log_priors": [0.0]}
        settings.write_text(json.dumps(content))
    speech = speak("Hello.")
    with pytest.raises(ModelLoadError, match="no phoneme recognizer"):
        recognize_phonemes(speech.audio, speech.sampling_rate, "de", tmp_path)
