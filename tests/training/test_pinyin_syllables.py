"""Pinyin under Mandarin phonemes, as espeak speaks them."""

import pytest
from pinyin_syllables import pinyin_of, syllable_starts

from avatarsync.errors import InvalidArgumentError
from avatarsync.phonemes import speak


def labelled(text):
    track = speak(text, "cmn").track
    syllables = []
    for phoneme, syllable in zip(track, pinyin_of(text, track), strict=True):
        if syllable and (not syllables or syllables[-1][0] != syllable or phoneme.symbol in syllable[:1]):
            syllables.append((syllable, []))
        if syllable:
            syllables[-1][1].append(phoneme.symbol)
    return syllables


def test_every_phoneme_gets_its_syllable():
    assert [syllable for syllable, _ in labelled("你好")] == ["nǐ", "hǎo"]
    found = dict(labelled("我们明天去北京"))
    assert list(found) == ["wǒ", "men", "míng", "tiān", "qù", "běi", "jīng"]
    assert found["men"][0] == "m" and found["men"][-1] == "n" and found["míng"][-1] == "ŋ"


def test_a_consonant_between_vowels_opens_the_next_syllable():
    assert syllable_starts(["m", "ɑ", "m", "ɑ"]) == [0, 2]
    assert syllable_starts(["m", "ə", "n", "m", "i", "ŋ"]) == [0, 3]
    assert syllable_starts(["sil", "ŋ", "ə", "sil", "w", "o"]) == [1, 4]


def test_texts_that_are_not_all_chinese_are_refused():
    track = speak("你好 hello", "cmn").track
    with pytest.raises(InvalidArgumentError, match="give Chinese characters alone"):
        pinyin_of("你好 hello", track)
