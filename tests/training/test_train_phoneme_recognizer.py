"""The phoneme recogniser's training: what it learns from, how that is changed, and a short run."""

import json

import numpy as np
import pytest
import soundfile
import train_phoneme_recognizer
from phoneme_inventory import PHONEMES, phoneme_id
from phoneme_recognizer_data import Heard, RecognizerBatches, log_priors, read_words, recordings, spoken_words
from sound_augmentation import another_room, another_voice, with_gaps

from avatarsync.errors import DatasetError, InvalidArgumentError, OutputError, UnknownLanguageError
from avatarsync.modeling_phoneme_recognizer import PhonemeRecognizerModel
from avatarsync.phonemes import VisualMapping, listen, speak
from avatarsync.phonemes.log_mel import NUM_BANDS

WORDS = {"en-us": ["mother", "map", "big", "paper", "seven"], "cmn": ["妈妈", "苹果", "爸爸"]}
SENTENCE = "My mother bought a big map."


@pytest.fixture
def words(tmp_path):
    folder = tmp_path / "words"
    folder.mkdir()
    for language, listed in WORDS.items():
        (folder / f"{language}.txt").write_text("\n".join(listed) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def corpus(tmp_path):
    """Three recordings: one with its phonemes, one with its words, one with neither."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name, voice in (("a", "m3"), ("b", "f2"), ("c", None)):
        speech = speak(SENTENCE, "en-us", voice)
        soundfile.write(folder / f"{name}.wav", speech.audio, speech.sampling_rate)
        if name == "a":
            speech.track.save(folder / "a.TextGrid")
    (folder / "b.txt").write_text(SENTENCE)
    return folder


def test_each_phoneme_comes_down_to_one_that_looks_like_it():
    mapping = VisualMapping.default()
    for unit, symbols in mapping.phonemes.items():
        assert {mapping.unit(PHONEMES[phoneme_id(symbol)]) for symbol in symbols} == {unit}
    known = {"ˈaɪ": "aɪ", "pʰ": "p", "n̩": "n", "tɕ": "ɕ", "œ": "ɔ", "ɾ": "r", "əʊ": "oʊ", "iː": "i", "_": "sil"}
    assert {symbol: PHONEMES[phoneme_id(symbol)] for symbol in known} == known


def test_labels_are_where_the_sound_is():
    speech = speak("Ah.", "en-us").padded(0.5, 0.5)
    heard = Heard.of_speech(speech)
    loud = heard.bands.mean(1) > np.percentile(heard.bands.mean(1), 90) - 4
    assert np.mean(loud == (heard.labels != phoneme_id("sil"))) > 0.9
    assert Heard.of_speech(speech, longest=0.3).bands.shape == (31, NUM_BANDS)


def test_words_are_spoken_the_same_each_time(words):
    first, again = (spoken_words(read_words(words), 0.004, {"en-us": 3.0}, seed=1) for _ in range(2))
    assert sum(len(heard.labels) for heard in first) >= 0.004 * 360_000
    assert all(np.array_equal(a.bands, b.bands) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0].bands, spoken_words(WORDS, 0.004, {"en-us": 3.0}, seed=2)[0].bands)
    assert np.exp(log_priors([(first, 1.0)])).sum() == pytest.approx(1.0, abs=0.01)


def test_words_of_no_language_are_refused(words, tmp_path):
    (words / "en-us.txt").write_text("\n")
    with pytest.raises(DatasetError, match="holds no words"):
        read_words(words)
    (words / "english.txt").write_text("mother\n")
    (words / "en-us.txt").unlink()
    with pytest.raises(DatasetError, match="names no language"):
        read_words(words)
    with pytest.raises(DatasetError, match="give files such as"):
        read_words(tmp_path)


def test_recordings_need_phonemes_or_words_beside_them(corpus, tmp_path):
    learned, held = recordings([corpus], "en-us", {"b"})
    assert (len(learned), len(held)) == (1, 1)
    agree = min(len(learned[0].labels), len(held[0].labels))
    assert agree > 80 and (held[0].labels != 0).mean() > 0.5
    (corpus / "c.txt").write_text(SENTENCE * 30)  # does not fit
    assert len(recordings([corpus], "en-us", set())[0]) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds no recording"):
        recordings([tmp_path / "empty"], "en-us", set())


def test_another_voice_moves_bands_and_labels_alike():
    random = np.random.default_rng(0)
    bands, labels = np.zeros((400, NUM_BANDS), np.float32), np.zeros(400, np.int16)
    labels[200:] = 3
    bands[200:, 20] = 10.0
    peaks = set()
    for _ in range(20):
        voiced, named = another_voice(bands, labels, 320, random)
        assert voiced.shape == (320, NUM_BANDS)
        assert np.abs((voiced.max(1) > 4) ^ (named == 3)).sum() <= 2
        if (named == 3).any():
            peaks.add(int(voiced[named == 3].mean(0).argmax()))
    assert len(peaks) > 3 and min(peaks) < 20 < max(peaks)


def test_rooms_and_gaps_leave_speech_to_be_heard():
    speech = Heard.of_speech(speak("Please call Stella.", "en-us"))
    bands = speech.bands.astype(np.float32)
    for seed in range(20):
        random = np.random.default_rng(seed)
        roomy = another_room(bands, bands[::-1], random)
        assert roomy.shape == bands.shape and roomy.dtype == np.float32 and np.isfinite(roomy).all()
        assert np.corrcoef(roomy.mean(1), bands.mean(1))[0, 1] > 0.3
        assert np.isfinite(with_gaps(roomy.copy(), random)).all()


def test_a_batch_is_its_number(words):
    spoken = spoken_words(WORDS, 0.004, {}, seed=0)
    batches = RecognizerBatches([(spoken, 1.0), (spoken[:1], 0.5)], frames=80, batch_size=3, seed=0)
    first, again = batches[5], batches[5]
    assert first["bands"].shape == (3, 80, NUM_BANDS) and first["labels"].shape == (3, 80)
    assert all((first[name] == again[name]).all() for name in first)
    assert not (first["bands"] == batches[6]["bands"]).all()


def test_a_short_run_learns_goes_on_and_listens(words, corpus, tmp_path):
    (tmp_path / "held.txt").write_text("b\n")
    options = ["--words", str(words), "--hours", "0.01", "--recordings", str(corpus), "--held_out",
               str(tmp_path / "held.txt"), "--out", str(tmp_path / "run"), "--config", "hidden_size=16",
               "--frames", "80", "--batch_size", "4", "--max_train_steps", "30", "--log_steps", "10",
               "--checkpoint_steps", "10",
               "--ema_decay", "0.5", "--warmup_steps", "2", "--learning_rate", "0.01"]  # fmt: skip
    train_phoneme_recognizer.main(options)
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert losses[-1] < losses[0]
    assert {"held_out/people_units", "held_out/words_phonemes"} <= set().union(*history)
    with pytest.raises(OutputError, match="holds a run already"):
        train_phoneme_recognizer.main(options)
    train_phoneme_recognizer.main([*options, "--resume", "latest", "--max_train_steps", "40"])
    assert (tmp_path / "run" / "checkpoints" / "checkpoint-000040").is_dir()
    model = PhonemeRecognizerModel.from_pretrained(tmp_path / "run")
    assert model.config.phonemes == PHONEMES and len(model.config.log_priors) == len(PHONEMES)
    speech = speak(SENTENCE)
    assert len(listen(speech.audio, speech.sampling_rate, recognizer=tmp_path / "run").track.validate()) > 1
    card = (tmp_path / "run" / "README.md").read_text()
    assert "2 languages" in card and str(tmp_path) not in card


def test_a_held_out_list_must_name_recordings(words, corpus, tmp_path):
    (tmp_path / "held.txt").write_text("b.wav\n")
    options = ["--words", str(words), "--recordings", str(corpus), "--held_out", str(tmp_path / "held.txt")]
    with pytest.raises(DatasetError, match="names none of the recordings"):
        train_phoneme_recognizer.main([*options, "--out", str(tmp_path / "run")])


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        (["--words", "nowhere"], DatasetError, "not a folder"),
        (["--recordings", "nowhere"], DatasetError, "not a folder"),
        (["--hours", "0"], InvalidArgumentError, "--hours"),
        (["--recordings_share", "1"], InvalidArgumentError, "--recordings_share"),
        (["--frames", "10"], InvalidArgumentError, "--frames 10"),
        (["--language", "xx"], UnknownLanguageError, "xx"),
        (["--config", "dilations=3"], InvalidArgumentError, "dilations"),
        (["--config", "hiden_size=3"], InvalidArgumentError, "give one of hidden_size"),
    ],
)
def test_options_out_of_range_are_refused_at_once(words, tmp_path, options, error, said):
    with pytest.raises(error, match=said):
        train_phoneme_recognizer.parse(["--words", str(words), "--out", str(tmp_path / "run"), *options])
