import struct
import unicodedata
import warnings

import av
import numpy as np
import pytest
import soundfile
import torch

from avatarsync.errors import (
    AlignmentError,
    AvatarSyncWarning,
    EmptyTextError,
    InvalidAudioError,
    SilentAudioError,
    UnknownLanguageError,
)
from avatarsync.phonemes import Phoneme, PhonemeTrack, VisualMapping, dtw_alignment, listen, load_audio, speak
from avatarsync.phonemes.audio import check_audio, check_speech, to_mono
from avatarsync.phonemes.english_alignment import pronounce

RATE = 16000
SENTENCE = "My mother bought a big map of Paris."


def tone(seconds: float, rate: int = RATE, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(2 * np.pi * 220 * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def recording(text: str, language: str = "en-us", padding: float = 0.4, **options):
    """Speech with silence around it and noise over it: samples, rate, and the true track."""
    speech = speak(text, language, **options)
    samples = int(padding * speech.sampling_rate)
    audio = np.pad(speech.audio, samples)
    audio = (audio + np.random.default_rng(0).normal(0, 1e-3, len(audio))).astype(np.float32)
    shift = samples / speech.sampling_rate
    truth = PhonemeTrack([Phoneme(p.symbol, p.start + shift, p.end + shift, p.word) for p in speech.track])
    return audio, speech.sampling_rate, truth


def word_starts(track) -> list[tuple[str, float]]:
    starts = []
    for index, phoneme in enumerate(track):
        if phoneme.word is not None and (index == 0 or track[index - 1].word != phoneme.word):
            starts.append((phoneme.word.lower(), phoneme.start))
    return starts


def write_media(path, audio: np.ndarray, rate: int, video: bool = False) -> None:
    """`audio` `(channels, samples)` in the format that the suffix names."""
    with av.open(str(path), "w") as container:
        layout = "mono" if audio.shape[0] == 1 else "stereo"
        codec = {".mp3": "libmp3lame", ".m4a": "aac", ".mp4": "aac", ".ogg": "libopus"}[path.suffix]
        stream = container.add_stream(codec, rate=rate, layout=layout)
        if video:
            pictures = container.add_stream("libx264", rate=25)
            pictures.width = pictures.height = 32
            for _ in range(5):
                picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
                container.mux(pictures.encode(picture))
            container.mux(pictures.encode(None))
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(audio), format="fltp", layout=layout)
        frame.rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("name", ["a.mp3", "a.m4a", "a.mp4", "a.ogg"])
def test_reads_any_format_with_its_rate_and_channels(tmp_path, name):
    audio = np.stack([tone(1.0, 48000), 0.5 * tone(1.0, 48000)])
    write_media(tmp_path / name, audio, 48000, video=name.endswith("mp4"))
    read, rate = load_audio(tmp_path / name)
    assert rate == 48000 and read.dtype == np.float32 and read.shape[1] == 2
    assert read.shape[0] == pytest.approx(48000, rel=0.1)
    levels = read[5000:40000].std(axis=0)
    assert levels[0] == pytest.approx(0.5 / np.sqrt(2), rel=0.1) and levels[1] == pytest.approx(levels[0] / 2, rel=0.1)


def test_wav_is_read_exactly(tmp_path):
    audio = tone(0.5, 11025)
    soundfile.write(tmp_path / "a.wav", audio, 11025, "FLOAT")
    read, rate = load_audio(tmp_path / "a.wav")
    assert rate == 11025 and np.array_equal(read, audio)


@pytest.mark.parametrize("channels", [3, 6, 7, 8, 9, 16])
def test_many_channels_are_read_exactly(tmp_path, channels):
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, (RATE, channels)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", audio, RATE, "FLOAT")
    read, rate = load_audio(tmp_path / "a.wav")
    assert rate == RATE and np.array_equal(read, audio)


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x80000000, 0xFFFFFFFF - 36])
def test_wav_files_of_streaming_writers_are_read(tmp_path, size):
    """sox, arecord and FFmpeg write these where they cannot go back to write the size."""
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(4.0), RATE)
    content = bytearray(path.read_bytes())
    content[4:8], content[40:44] = struct.pack("<I", size + 36 if size else 0), struct.pack("<I", size or 0xFFFFFFFF)
    path.write_bytes(content)
    assert len(load_audio(path)[0]) == 4 * RATE


@pytest.mark.parametrize("name", ["a.aac", "a.mp3"])
def test_lengths_that_are_guessed_by_the_bit_rate_are_no_promise(tmp_path, name):
    """Silence takes few bits: a file that begins with it seems to last far longer than it does."""
    audio = np.concatenate([np.zeros(4 * 44100), np.random.default_rng(0).uniform(-0.9, 0.9, 8 * 44100)])
    options = {".mp3": {"write_xing": "0"}}.get(name[-4:], {})
    with av.open(str(tmp_path / name), "w", options=options) as container:
        codec = {"a.mp3": "libmp3lame", "a.aac": "aac"}[name]
        stream = container.add_stream(codec, rate=44100, layout="mono", options={"global_quality": "236"})
        stream.codec_context.qscale = True
        frame = av.AudioFrame.from_ndarray(audio[None].astype(np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(str(tmp_path / name)) as container:
        assert container.duration / 1e6 > 20  # FFmpeg's guess
    assert len(load_audio(tmp_path / name)[0]) / 44100 == pytest.approx(12, abs=0.2)


def test_a_folder_is_told_to_be_one(tmp_path):
    with pytest.raises(InvalidAudioError, match="is a folder"):
        load_audio(tmp_path)


def test_unreadable_files_are_refused(tmp_path):
    (tmp_path / "text.wav").write_text("this is not sound")
    (tmp_path / "empty.wav").write_bytes(b"")
    soundfile.write(tmp_path / "zero.wav", np.zeros(0, np.float32), RATE)
    soundfile.write(tmp_path / "short.wav", tone(0.05), RATE)
    with av.open(str(tmp_path / "mute.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 32
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    for name in ("text.wav", "empty.wav", "zero.wav", "short.wav", "mute.mp4", "missing.wav"):
        with pytest.raises(InvalidAudioError, match=name):
            load_audio(tmp_path / name)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.m4a", "a.mp3"])
def test_truncated_files_are_refused(tmp_path, name):
    path = tmp_path / name
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 4 * RATE).astype(np.float32)
    if path.suffix in (".m4a", ".mp3"):
        write_media(path, noise[None], RATE)
    else:
        soundfile.write(path, noise, RATE)
    load_audio(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InvalidAudioError):
        load_audio(path)


@pytest.mark.parametrize(
    ("audio", "rate"),
    [
        (np.zeros(RATE, np.int16), RATE),
        (np.zeros((2, RATE), np.float32), RATE),
        (np.zeros((1, 1, RATE), np.float32), RATE),
        (np.full(RATE, np.nan, np.float32), RATE),
        (np.full(RATE, 1e300), RATE),
        (np.zeros((RATE, 0), np.float32), RATE),
        (tone(1), 0),
        (tone(0.01), RATE),
        (tone(1), None),
        (tone(1) * 32767, RATE),
    ],
)
def test_bad_samples_are_refused(audio, rate):
    with pytest.raises(InvalidAudioError) as caught:
        listen(audio, rate)
    assert len(str(caught.value)) < 200


def test_whole_numbers_are_told_what_to_divide_them_by():
    with pytest.raises(InvalidAudioError, match=r"int16 \(16000,\).* divide samples of 16 bits by 32768"):
        listen(np.zeros(16000, np.int16), 16000)


def test_clipped_samples_are_taken_and_whole_numbers_as_floats_are_not(tmp_path):
    check_audio(tone(1, level=3.0), RATE)
    soundfile.write(tmp_path / "a.wav", tone(1) * 32767, RATE, "FLOAT")
    with pytest.raises(InvalidAudioError, match="divide samples of 16 bits by 32768"):
        load_audio(tmp_path / "a.wav")


def test_channels_that_cancel_each_other_are_not_mixed():
    speech = speak(SENTENCE).audio
    opposed = np.stack([speech, -0.98 * speech], axis=1)
    assert np.array_equal(to_mono(opposed), speech)
    check_speech(opposed, RATE)
    for usual in (np.stack([speech, speech], 1), np.stack([speech, 0 * speech], 1), np.zeros((RATE, 2), np.float32)):
        assert np.array_equal(to_mono(usual), usual.mean(1))
    alone = np.zeros((len(speech), 8), np.float32)
    alone[:, 3] = speech
    assert np.array_equal(to_mono(alone), alone.mean(1))


def test_transcripts_are_normalised_like_texts():
    audio, rate, _ = recording("Hello there, a naïve café.")
    usual = listen(audio, rate, transcript="Hello there, a naïve café.").track
    odd = unicodedata.normalize("NFD", "Ｈｅｌｌｏ　there, a naïve café.")
    assert listen(audio, rate, transcript=odd).track == usual


@pytest.mark.parametrize("offset", [0.0, 0.2])
@pytest.mark.parametrize("noise", [0.0, 1e-4, 1.5e-3])
def test_silence_is_refused(noise, offset):
    audio = np.random.default_rng(0).normal(offset, noise, 2 * RATE).astype(np.float32)
    with pytest.raises(SilentAudioError, match="silent"):
        listen(audio, RATE)


def test_faint_speech_is_no_silence():
    audio, rate, truth = recording(SENTENCE)
    faint = speak(SENTENCE).audio * 0.008
    assert len(listen(faint, rate, transcript=SENTENCE).track) > 15


@pytest.mark.parametrize("voice", [None, "f3"])
def test_english_alignment_is_exact(voice):
    audio, rate, truth = recording(SENTENCE, voice=voice)
    speech = listen(audio, rate, transcript=SENTENCE)
    track = speech.track.validate()
    assert (
        speech.audio is not None
        and speech.sampling_rate == rate
        and track.duration == pytest.approx(len(audio) / rate)
    )
    assert track[0].start == 0 and track[0].symbol == "sil" and track[-1].end == pytest.approx(track.duration)
    found, true = word_starts(track), word_starts(truth)
    assert [word for word, _ in found] == SENTENCE.lower().strip(".").split() == [word for word, _ in true]
    errors = [abs(mine - theirs) for (_, mine), (_, theirs) in zip(found, true, strict=True)]
    assert np.mean(errors) < 0.03 and max(errors) < 0.1
    # The lips are shut when they must be.
    units = VisualMapping.default()
    for phoneme in truth:
        if units.unit(phoneme.symbol) == "M":
            middle = (phoneme.start + phoneme.end) / 2
            assert any(p.start <= middle <= p.end and units.unit(p.symbol) == "M" for p in track)


def test_words_beyond_the_dictionary():
    text = "Zyxorbian frobnicators met 42 gnomes."
    audio, rate, truth = recording(text)
    found = word_starts(listen(audio, rate, transcript=text).track)
    assert [word for word, _ in found] == ["zyxorbian", "frobnicators", "met", "42", "gnomes"]
    assert abs(found[2][1] - next(start for word, start in word_starts(truth) if word == "met")) < 0.06
    assert pronounce("frobnicators", "en-us")[:3] == ("F", "R", "AA")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("今天天气很好，我们去公园玩。", "cmn"),
        ("Guten Morgen, wie geht es dir heute?", "de"),
        ("Я сегодня иду в магазин.", "ru"),
    ],
)
def test_other_languages_are_aligned_by_warping(text, language):
    audio, rate, truth = recording(text, language, voice="m3", rate=210)
    track = listen(audio, rate, transcript=text, language=language).track.validate()
    spoken = [p for p in truth if p.symbol != "sil"]
    found = [p for p in track if p.symbol != "sil"]
    assert [p.symbol for p in found] == [p.symbol for p in spoken] and track.language == language
    errors = [abs(mine.start - theirs.start) for mine, theirs in zip(found, spoken, strict=True)]
    assert np.mean(errors) < 0.025 and max(errors) < 0.12
    assert track[0].symbol == "sil" and track[0].end == pytest.approx(0.4, abs=0.05)


def test_pauses_that_the_text_does_not_show():
    first, second = speak("Please call Stella"), speak("and ask her to come")
    pause = np.zeros(first.sampling_rate, np.float32)
    audio = np.concatenate([pause, first.audio, pause, second.audio, pause])
    audio += np.random.default_rng(0).normal(0, 1e-3, len(audio)).astype(np.float32)
    text, rate = "Please call Stella and ask her to come", first.sampling_rate
    aligned = listen(audio, rate, transcript=text).track
    warped = dtw_alignment.align(audio, rate, text, "en-us", 175)
    for track in (aligned, warped):
        silences = [p for p in track if p.symbol == "sil" and p.duration > 0.7]
        assert len(silences) == 3
        assert silences[1].start == pytest.approx(1 + first.duration, abs=0.1)


@pytest.mark.parametrize("language", ["en-us", "de"])
def test_long_recordings_are_aligned_in_parts(language):
    text = " ".join(f"Here is sentence number {i}, and the dog barked at {i + 100} cats!" for i in range(20))
    audio, rate, truth = recording(text, language)
    assert len(audio) > 60 * rate
    track = listen(audio, rate, transcript=text, language=language).track.validate()
    mine = [p for p in track if (p.word or "").lower().startswith("sentence")]
    theirs = [p for p in truth if (p.word or "").lower().startswith("sentence")]
    starts = [[p.start for i, p in enumerate(t) if i == 0 or p.start - t[i - 1].end > 0.2] for t in (mine, theirs)]
    assert len(starts[0]) == len(starts[1]) == 20
    assert np.abs(np.subtract(*starts)).max() < 0.15
    assert track[-1].end == pytest.approx(len(audio) / rate)


def test_transcripts_of_absurd_length_are_refused():
    audio, rate, _ = recording("Hello there.")
    with pytest.raises(AlignmentError, match="transcript"):
        listen(audio, rate, transcript=SENTENCE * 20)
    audio, rate, _ = recording(SENTENCE * 8)
    with pytest.raises(AlignmentError, match="whole transcript"):
        listen(audio, rate, transcript="My.")


def test_a_transcript_that_lacks_words_is_remarked_on():
    audio, rate, _ = recording("The quick brown fox jumps over the lazy dog, and the dog does not even wake up.")
    with pytest.warns(AvatarSyncWarning, match="words are missing"):
        listen(audio, rate, transcript="The quick brown fox")
    with warnings.catch_warnings():
        warnings.simplefilter("error", AvatarSyncWarning)
        slow, rate, _ = recording("Hello there, how are you?", rate=90)
        listen(slow, rate, transcript="Hello there, how are you?")


@pytest.mark.parametrize("audio", [{}, {"array": [0.0]}, None, b"RIFF", [0.0, 0.1], torch.zeros(9)])
def test_what_is_no_recording_is_refused(audio):
    with pytest.raises(InvalidAudioError, match="give a path") as caught:
        listen(audio)
    assert len(str(caught.value)) < 200


def test_bad_arguments_are_refused():
    audio, rate, _ = recording("Hello there.")
    with pytest.raises(EmptyTextError):
        listen(audio, rate, transcript="  ")
    with pytest.raises(UnknownLanguageError):
        listen(audio, rate, transcript="Hello there.", language="xx")
    with pytest.raises(AlignmentError, match="one of the two"):
        listen(audio, rate, transcript="Hello there.", recognizer="somewhere")


def test_without_a_transcript_lips_mostly_fit():
    audio, rate, truth = recording("My mother bought a big map of Paris. Please call Stella and ask her to come.")
    track = listen(audio, rate).track.validate()
    assert track[0].symbol == "sil" and track[-1].end == pytest.approx(len(audio) / rate)
    times = np.arange(0.02, len(audio) / rate, 0.02)

    def silent(timeline):
        return np.array([not any(p.start <= t < p.end and p.symbol != "sil" for p in timeline) for t in times])

    assert np.mean(silent(track) == silent(truth)) > 0.85


def test_listen_reads_files_and_stereo(tmp_path):
    audio, rate, _ = recording("Hello, it is good to see you.")
    soundfile.write(tmp_path / "a.wav", np.stack([audio, 0.5 * audio], axis=1), rate)
    speech = listen(tmp_path / "a.wav", transcript="Hello, it is good to see you.")
    assert speech.audio.shape == (len(audio), 2) and speech.sampling_rate == rate
    of_dataset = listen(
        {"array": audio, "sampling_rate": rate, "path": None}, transcript="Hello, it is good to see you."
    )
    assert of_dataset.sampling_rate == rate and np.array_equal(of_dataset.audio, audio)
    assert [word for word, _ in word_starts(speech.track)] == ["hello", "it", "is", "good", "to", "see", "you"]
