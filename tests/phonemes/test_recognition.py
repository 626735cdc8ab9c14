import json

import numpy as np
import pytest
import torch
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from avatarsync.errors import AlignmentError, ModelLoadError
from avatarsync.phonemes import listen, recognition, speak

PHONEMES = ["<pad>", "<s>", "</s>", "<unk>", "|", "m", "aɪ", "ˈɑː", "SH", "AY1", "p"]


def save_model(folder, tokens, seed=0, favourite=None):
    """A tiny random CTC model; with `favourite`, its bias makes it hear that token only."""
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    tokenizer = Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    Wav2Vec2Processor(Wav2Vec2FeatureExtractor(), tokenizer).save_pretrained(folder)
    torch.manual_seed(seed)
    config = Wav2Vec2Config(
        vocab_size=len(tokens),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(16, 16, 16),
        conv_kernel=(10, 8, 4),
        conv_stride=(8, 8, 5),
        num_feat_extract_layers=3,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm="layer",
        initializer_range=0.5,
        pad_token_id=0,
    )
    model = Wav2Vec2ForCTC(config).eval()
    if favourite is not None:
        with torch.no_grad():
            model.lm_head.bias[tokens.index(favourite)] = 1000.0
    model.save_pretrained(folder)
    return folder


def test_ctc_model_times_phonemes(tmp_path):
    folder = save_model(tmp_path / "model", PHONEMES)
    speech = speak("Please call Stella.")
    track = listen(speech.audio, speech.sampling_rate, recognizer=folder, language="en-us").track.validate()
    found = {phoneme.symbol for phoneme in track} - {"sil"}
    assert len(found) >= 2 and found <= {"m", "aɪ", "ɑ", "ʃ", "p"}  # IPA without stress and length, ARPAbet translated
    assert track[0].start == 0 and track[-1].end == pytest.approx(speech.duration) and track.language == "en-us"
    assert all(a.end == pytest.approx(b.start) for a, b in zip(track, track[1:], strict=False))


def test_windows_do_not_change_what_is_heard_or_when(tmp_path, monkeypatch):
    folder = save_model(tmp_path / "model", PHONEMES)
    speech = speak("Please call Stella and ask her to bring these things.")
    whole, _ = recognition.recognize(speech.audio, speech.sampling_rate, folder, "en-us")
    monkeypatch.setattr(recognition, "WINDOW", 1.0)
    windowed, _ = recognition.recognize(speech.audio, speech.sampling_rate, folder, "en-us")
    times = np.arange(0.01, speech.duration, 0.02)

    def symbols(track):
        return [next((p.symbol for p in track if p.start <= t < p.end), None) for t in times]

    same = np.mean([a == b for a, b in zip(symbols(whole), symbols(windowed), strict=True)])
    assert same > 0.7 and windowed.duration == whole.duration  # the tiny model's attention sees a window only


def test_letters_are_aligned(tmp_path):
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'"]
    folder = save_model(tmp_path / "model", letters, favourite="M")
    track = listen(speak("Em.").audio, 22050, recognizer=folder).track.validate()
    assert [p.symbol for p in track if p.symbol != "sil"] == ["ɛ", "m"]


def test_a_model_that_hears_nothing(tmp_path):
    folder = save_model(tmp_path / "model", PHONEMES, favourite="<pad>")
    with pytest.raises(AlignmentError, match="hears nothing"):
        listen(speak("Hello.").audio, 22050, recognizer=folder)


def test_folders_that_are_no_recognizer(tmp_path):
    with pytest.raises(ModelLoadError, match="CTC"):
        listen(speak("Hello.").audio, 22050, recognizer=tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ModelLoadError, match="CTC"):
        listen(speak("Hello.").audio, 22050, recognizer=tmp_path)


def test_whisper_text_is_aligned(tmp_path):
    tokenizer = WhisperTokenizer(vocab={"Ġhello": 0, "Ġmap": 1, "!": 2}, merges=[])
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"]
    tokenizer.add_special_tokens({"extra_special_tokens": special})
    WhisperProcessor(WhisperFeatureExtractor(feature_size=8, chunk_length=4), tokenizer).save_pretrained(tmp_path)
    end, start, _ = tokenizer.convert_tokens_to_ids(special)
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=8,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_source_positions=200,
        max_target_positions=6,
        decoder_start_token_id=start,
        eos_token_id=end,
        pad_token_id=end,
        bos_token_id=end,
        suppress_tokens=[],
        begin_suppress_tokens=[],
    )
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(config)
    with torch.no_grad():  # whatever it hears, it writes "hello", four times before its length ends
        model.model.decoder.layer_norm.weight.zero_()
        model.model.decoder.layer_norm.bias.copy_(model.proj_out.weight[0] * 100)
    model.generation_config.max_length = 4
    model.save_pretrained(tmp_path)
    speech = speak("hello hello hello hello")
    track = listen(speech.audio, speech.sampling_rate, recognizer=tmp_path).track.validate()
    assert [p.symbol for p in track if p.symbol != "sil"] == ["h", "ʌ", "l", "oʊ"] * 4
    assert {p.word for p in track if p.symbol != "sil"} == {"hello"}
