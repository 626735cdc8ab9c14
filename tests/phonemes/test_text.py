import threading
import unicodedata

import numpy as np
import pytest

from avatarsync.errors import EmptyTextError, InvalidArgumentError, UnknownLanguageError
from avatarsync.phonemes import VisualMapping, languages, speak, voices


def symbols(speech) -> list[str]:
    return [phoneme.symbol for phoneme in speech.track]


def assert_covers(speech):
    """The track runs from 0 to the end of the audio without a gap."""
    track = speech.track.validate()
    assert track[0].start == 0 and track[-1].end == pytest.approx(speech.duration, abs=1e-9)
    assert all(a.end == pytest.approx(b.start, abs=1e-9) for a, b in zip(track, track[1:], strict=False))


def test_speaks_english():
    speech = speak("Hello, it is good.")
    assert speech.audio.dtype == np.float32 and speech.audio.ndim == 1 and 0.1 < np.abs(speech.audio).max() <= 1
    assert speech.language == "en-us" and 1.0 < speech.duration < 2.5
    assert symbols(speech)[:5] == ["h", "ə", "l", "oʊ", "sil"]
    assert [p.word for p in speech.track[:4]] == ["Hello"] * 4
    assert_covers(speech)


def test_punctuation_is_silence_and_silence_is_silent():
    speech = speak("Stop! Go on, and come back.")
    silences = [p for p in speech.track if p.symbol == "sil"]
    assert len(silences) == 2 and silences[0].duration > silences[1].duration > 0.06
    for silence in silences:
        span = speech.audio[int(silence.start * speech.sampling_rate) : int(silence.end * speech.sampling_rate)]
        assert np.abs(span).max() < 2e-3


def test_a_stop_owns_its_closure():
    speech = speak("A happy map.")
    for phoneme in speech.track:
        if phoneme.symbol == "p":
            start = int(phoneme.start * speech.sampling_rate) + 1
            closure = speech.audio[start : start + int(0.025 * speech.sampling_rate)]
            assert np.abs(closure).max() < 2e-3  # it begins with quiet, the burst comes later
    assert symbols(speech).count("p") == 2


def test_speaks_mandarin_with_glides_split_off():
    speech = speak("对，女儿很高兴见到你。", "cmn")
    found = symbols(speech)
    assert found[:3] == ["t", "w", "ei"] and "y" in found and "ŋ" in found
    assert_covers(speech)


def test_mixed_text_switches_the_voice():
    mixed, english, mandarin = speak("Good morning 你好"), speak("Good morning"), speak("你好", "cmn")
    assert symbols(mixed)[:2] == symbols(english)[:2] and symbols(mixed)[-2:] == symbols(mandarin)[-2:]
    assert mixed.duration == pytest.approx(english.duration + mandarin.duration, abs=0.3)
    assert_covers(mixed)
    other_way = speak("我说 hello 了", "cmn")
    assert "oʊ" in symbols(other_way) and other_way.language == "cmn"
    assert_covers(other_way)


def test_markup_is_spoken_not_parsed():
    assert "e" not in "".join(symbols(speak("<b>")))
    assert len(symbols(speak("a &amp; b"))) > len(symbols(speak("a & b")))
    assert speak("one <break time='3s'/> two").duration > speak("one two").duration
    assert not [p for p in speak("one <break time='3s'/> two").track if p.symbol == "sil" and p.duration > 2]


def test_digits_are_words():
    assert symbols(speak("42")) == symbols(speak("forty two"))


def test_long_text():
    speech = speak("The quick brown fox jumps over it, and 12 dogs. " * 210)
    assert speech.duration > 500
    assert sum(p.word == "fox" for p in speech.track) == 4 * 210  # f, ɑ, k, s
    assert_covers(speech)


@pytest.mark.parametrize("text", ["", "  \n", "…!!!", "😀", "👍🏽 ❤️"])
def test_unspeakable_text_is_refused(text):
    with pytest.raises(EmptyTextError):
        speak(text)


@pytest.mark.parametrize(
    ("text", "language", "script"),
    [("日本へいく", "ja", "kana"), ("ひとびと、人々", "ja", "kana"), ("二〇", "ja", "kana"), ("漢字", "ko", "Hangul")],
)
def test_han_characters_that_the_voice_would_only_name_are_refused(text, language, script):
    with pytest.raises(EmptyTextError, match=f"write the text in {script}"):
        speak(text, language)


def test_japanese_is_read_from_kana_and_korean_from_hangul():
    assert symbols(speak("にほん", "ja"))[:4] == ["n", "i", "h", "o̞"]
    assert symbols(speak("ニホン", "ja")) == symbols(speak("にほん", "ja"))
    assert "sil" in symbols(speak("ラーメン、たべる。", "ja"))
    assert symbols(speak("한국", "ko"))[0] == "h"


@pytest.mark.parametrize(
    "text, language, vowels",
    [("мыть", "ru", ["ɨ"]), ("тюль", "ru", ["u"]), ("tư mưa", "vi", ["ɯ", "ɯə"]), ("tu", "fr-fr", ["y"])],
)
def test_vowels_that_espeak_writes_as_rounded_ones_are_not(text, language, vowels):
    mapping = VisualMapping.default()
    assert [p.symbol for p in speak(text, language).track if mapping.is_vowel(p.symbol)] == vowels
    assert (mapping.unit(vowels[0]) == "UW") == (vowels[0] in "uy")


@pytest.mark.parametrize(("text", "language"), [("Über größere Äpfel", "de"), ("ça a été", "fr-fr"), ("ガギグ", "ja")])
def test_decomposed_letters_are_spoken_as_composed_ones(text, language):
    decomposed = unicodedata.normalize("NFD", text)
    assert decomposed != text
    composed, spoken = speak(text, language), speak(decomposed, language)
    assert symbols(spoken) == symbols(composed) and [p.word for p in spoken.track] == [p.word for p in composed.track]


@pytest.mark.parametrize(
    ("wide", "usual", "language"),
    [
        ("Ｈｅｌｌｏ　ｍｙ　ｆｒｉｅｎｄ", "Hello my friend", "en-us"),
        ("５０％", "50%", "en-us"),
        ("３．１４", "3.14", "en-us"),
        ("我有１２个ＣＤ", "我有12个CD", "cmn"),
        ("１２３", "123", "ja"),
    ],
)
def test_full_width_forms_are_the_usual_ones(wide, usual, language):
    assert symbols(speak(wide, language)) == symbols(speak(usual, language))


def test_full_width_punctuation_keeps_its_pauses():
    speech = speak("你好，很高兴！见到你？对；好：吗．我（他）～", "cmn")
    assert sum(p.symbol == "sil" and p.duration > 0.1 for p in speech.track) == 6
    assert "ɪ" not in symbols(speech)  # no "tilde"


def test_emoji_beside_words_are_not_spoken():
    assert symbols(speak("Good 😀")) == symbols(speak("Good"))


def test_languages_and_voices():
    assert {"en-us", "en-gb", "cmn", "fr-fr", "de", "yue"} <= set(languages()) and len(languages()) > 100
    assert {"f3", "m3"} <= set(voices())
    assert speak("Guten Tag", "de_AT").language == "de" and speak("Hi", "EN").language == "en-us"
    with pytest.raises(UnknownLanguageError, match="did you mean de"):
        speak("Guten Tag", "german")
    with pytest.raises(UnknownLanguageError, match="did you mean"):
        speak("Hi", "xx")
    with pytest.raises(UnknownLanguageError, match="f3"):
        speak("Hi", voice="f33")


def test_voice_and_rate_change_the_speech():
    usual = speak("Hello there, my friend.")
    assert speak("Hello there, my friend.", rate=120).duration > 1.2 * usual.duration
    other = speak("Hello there, my friend.", voice="f3")
    assert len(other.audio) != len(usual.audio) or not np.array_equal(other.audio, usual.audio)
    # The parameters of one call do not leak into the next.
    assert np.array_equal(speak("Hello there, my friend.").audio, usual.audio)
    with pytest.raises(InvalidArgumentError, match="80 to 440"):
        speak("Hi", rate=1000)
    with pytest.raises(InvalidArgumentError, match="80 to 440"):
        speak("Hi", rate="slow")
    with pytest.raises(InvalidArgumentError, match="voice is a int"):
        speak("Hi", voice=5)


def test_threads_do_not_mix_voices():
    jobs = [("Hello, it is good to see you.", "en-us"), ("你好，很高兴见到你。", "cmn"), ("Guten Morgen.", "de")] * 4
    expected = [symbols(speak(*job)) for job in jobs]
    found = [None] * len(jobs)

    def work(index):
        found[index] = symbols(speak(*jobs[index]))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected
