"""What the phoneme recogniser learns from: words that espeak-ng speaks in many languages, and recordings of people."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
import torch
from numbered_batches import NumberedBatches
from phoneme_inventory import PHONEMES, phoneme_id
from sound_augmentation import another_room, another_voice, with_gaps
from tqdm import tqdm
from transcripts import find_transcript, read_transcript

from avatarsync.errors import AvatarSyncError, DatasetError
from avatarsync.phonemes import PhonemeTrack, Speech, languages, listen, load_audio, speak, voices
from avatarsync.phonemes.audio import to_mono
from avatarsync.phonemes.log_mel import FRAME, SAMPLING_RATE, log_mel, normalized
from avatarsync.phonemes.text import EmptyTextError

SOUND_SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".m4a", ".mp4", ".mov", ".mkv", ".avi", ".webm", ".mpg"}
RUN_WORDS, PAUSE_SHARE, RATES = (3, 9), 0.3, (120, 260)  # words in a sentence; commas in it; words per minute
OWN_VOICE_SHARE = 0.07
LONGEST_RUN = 8.0  # seconds
ZIPF = 0.6  # words are said less unequally often than people say them
STRANGE_VOICES = ("whisper", "croak", "robo", "Robot", "Demonic", "Tweaky", "Anxious", "Storm", "fast", "Gene")
QUIET_SHARE = 0.5  # of the stretches that a recording does not fill: silence about it, else another one after it
GAP = 40  # frames beyond a stretch, for those that are said faster


@dataclass
class Heard:
    """A recording.

    Attributes:
        bands: `(T, 40)` float16, as `log_mel` returns them.
        labels: `(T,)` int16, phonemes.
    """

    bands: np.ndarray
    labels: np.ndarray

    @classmethod
    def of_speech(cls, speech: Speech, longest: float | None = None) -> "Heard":
        mono = to_mono(speech.audio).astype(np.float32)
        audio = soxr.resample(mono, speech.sampling_rate, SAMPLING_RATE)
        audio = audio if longest is None else audio[: int(longest * SAMPLING_RATE)]
        bands = log_mel(audio)
        times, labels = np.arange(len(bands)) * FRAME, np.zeros(len(bands), np.int16)
        for phoneme in speech.track:
            labels[slice(*np.searchsorted(times, (phoneme.start, phoneme.end)))] = phoneme_id(phoneme.symbol)
        return cls(bands.astype(np.float16), labels)


def read_words(folder: Path) -> dict[str, list[str]]:
    """Of each espeak language the words of `folder/LANGUAGE.txt`, one a line, the most frequent first.

    Raises:
        DatasetError: no such file is there, or one names no language or no words.
    """
    words = {}
    for file in sorted(folder.glob("*.txt")):
        if file.stem not in languages():
            raise DatasetError(f"{file} names no language of avatarsync info --languages: name it as en-us.txt is")
        words[file.stem] = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not words[file.stem]:
            raise DatasetError(f"{file} holds no words: give one a line")
    if not words:
        raise DatasetError(f"{folder} holds no words: give files such as en-us.txt, a word a line")
    return words


def spoken_words(words: dict[str, list[str]], hours: float, shares: dict[str, float], seed: int) -> list[Heard]:
    """Runs of words as espeak-ng's voices say them.

    Args:
        shares: how much of a language is spoken, 1 where none is told.
    """
    random, spoken, seconds = np.random.default_rng(seed), [], 0.0
    names = list(words)
    weights = np.array([shares.get(name, 1.0) for name in names])
    speakers = [voice for voice in voices() if not any(odd in voice for odd in STRANGE_VOICES)]
    with tqdm(total=round(3600 * hours), desc="words, seconds", disable=None) as bar:
        while seconds < 3600 * hours:
            language = names[random.choice(len(names), p=weights / weights.sum())]
            voice = None if random.random() < OWN_VOICE_SHARE else speakers[random.integers(len(speakers))]
            text, rate = _run_of(words[language], language, random), int(random.integers(*RATES))
            try:
                speech = speak(text, language, voice, rate)
            except EmptyTextError:
                continue
            spoken.append(Heard.of_speech(speech, LONGEST_RUN))
            bar.update(round(seconds + len(spoken[-1].bands) * FRAME) - round(seconds))
            seconds += len(spoken[-1].bands) * FRAME
    return spoken


def _run_of(words: list[str], language: str, random: np.random.Generator) -> str:
    frequencies = np.arange(1, len(words) + 1) ** -ZIPF
    count = int(random.integers(*RUN_WORDS, endpoint=True))
    run = [words[index] for index in random.choice(len(words), count, p=frequencies / frequencies.sum())]
    if random.random() < PAUSE_SHARE:
        run[int(random.integers(len(run) - 1))] += ","
    return ("" if language == "cmn" else " ").join(run) + "."


def recordings(folders: list[Path], language: str, held_out: set[str]) -> tuple[list[Heard], list[Heard]]:
    """Recordings below folders to learn from, and held-out ones: those with phonemes in a TextGrid beside them, or
    with a transcript, to which they are aligned.

    Args:
        language: espeak code of what is said.
        held_out: names without their endings.

    Raises:
        DatasetError: a folder holds none.
    """
    learned, held = [], []
    for folder in folders:
        files = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SOUND_SUFFIXES]
        before = len(learned) + len(held)
        for path in tqdm(files, desc=folder.name, disable=None):
            speech = _labelled(path, language)
            if speech is not None:
                (held if path.stem in held_out else learned).append(Heard.of_speech(speech))
        if len(learned) + len(held) == before:
            raise DatasetError(f"{folder} holds no recording with a TextGrid or a transcript beside it: add NAME.txt")
    return learned, held


def _labelled(path: Path, language: str) -> Speech | None:
    """A recording with its phonemes; None where nobody has written down what is said, or it does not fit."""
    file = find_transcript([path.with_suffix("")])
    if file is None:
        return None
    try:
        if file.suffix == ".TextGrid":
            track = PhonemeTrack.load(file)
            return Speech(track, *load_audio(path), language)
        transcript = read_transcript(file)
        return None if transcript is None else listen(os.fspath(path), transcript=transcript.text, language=language)
    except AvatarSyncError as error:
        tqdm.write(f"{path.name} is left out: {error}")
        return None


class RecognizerBatches(NumberedBatches):
    """Stretches of `frames` frames, each from one of the collections by their shares, as others would say them."""

    def __init__(self, collections: list[tuple[list[Heard], float]], frames: int, batch_size: int, seed: int):
        super().__init__(seed)
        self.collections = [collection for collection, _ in collections]
        shares = np.array([share for _, share in collections])
        self.shares, self.frames, self.batch_size = shares / shares.sum(), frames, batch_size

    def make(self, random: np.random.Generator, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Keyword arguments of `PhonemeRecognizerModel.forward`."""
        said = [another_voice(*self._stretch(random), self.frames, random) for _ in range(self.batch_size)]
        bands = [
            with_gaps(normalized(another_room(own, said[index - 1][0], random)), random)
            for index, (own, _) in enumerate(said)
        ]
        labels = np.stack([labels for _, labels in said]).astype(np.int64)
        return {"bands": torch.from_numpy(np.stack(bands)), "labels": torch.from_numpy(labels)}

    def _stretch(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """At least `frames` + GAP frames of bands and labels, of recordings of one collection."""
        collection, wanted = self.collections[random.choice(len(self.shares), p=self.shares)], self.frames + GAP
        first = collection[random.integers(len(collection))]
        bands, labels = [first.bands.astype(np.float32)], [first.labels]
        missing = wanted - len(labels[0])
        if missing > 0 and random.random() < QUIET_SHARE:
            quiet = np.percentile(bands[0], 2, axis=0).astype(np.float32)
            early = int(random.integers(missing + 1))
            bands = [np.tile(quiet, (early, 1)), *bands, np.tile(quiet, (missing - early, 1))]
            labels = [np.zeros(early, np.int16), *labels, np.zeros(missing - early, np.int16)]
        while sum(map(len, labels)) < wanted:
            another = collection[random.integers(len(collection))]
            bands.append(another.bands.astype(np.float32))
            labels.append(another.labels)
        return np.concatenate(bands), np.concatenate(labels)


def log_priors(collections: list[tuple[list[Heard], float]]) -> list[float]:
    """Of each phoneme, the logarithm of its share of the frames."""
    counts = np.ones(len(PHONEMES))
    for collection, _ in collections:
        for heard in collection:
            counts += np.bincount(heard.labels, minlength=len(PHONEMES))
    return np.log(counts / counts.sum()).round(4).tolist()
