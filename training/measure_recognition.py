"""Measure how well phonemes are heard without a transcript: the share of frames whose visual unit is the right one.

    python training/measure_recognition.py [--clips DIR] [--recognizer FOLDER]

espeak-ng says sentences in eight languages by three speakers, with silence about them and noise over them; it also
spoke what the recogniser learned from, if other words, so that these figures flatter it. With --clips, people's
recordings are listened to, and compared with the alignment to their transcripts. "unit" counts every 10 ms whose
visual unit is right, silence included; "shut" the closures of /m b p/ heard as one within 30 ms of their centre.
"""

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from command_line import run_script
from layouts import flat
from tqdm import tqdm
from transcripts import read_transcript

from avatarsync.phonemes import PhonemeTrack, Speech, VisualMapping, english_alignment, listen, speak
from avatarsync.phonemes.audio import to_mono
from avatarsync.phonemes.bundled_recognition import FOLDER, recognize_phonemes
from avatarsync.processing_avatarsync import BILABIAL

SENTENCES = {
    "en-us": ("Please call Stella and ask her to bring these things.", "My mother bought a big map of Paris."),
    "en-gb": ("We were away a year ago, but nobody knew where.", "She sells sea shells by the shore, perhaps."),
    "de": ("Mein Vater und meine Mutter wohnen in einem blauen Haus.", "Bitte bringen Sie mir ein Glas Wasser."),
    "fr-fr": ("Ma mère a acheté une grande carte de Paris.", "Bonjour, je suis heureux de vous voir."),
    "es": ("Mi madre compra pan y un vaso de agua fresca.", "Buenos días, me alegro mucho de verte."),
    "it": ("Mia madre ha comprato una grande mappa di Parigi.", "Buongiorno, come sta oggi la signora?"),
    "ru": ("Моя мама купила большую карту Парижа.", "Доброе утро, я очень рад вас видеть."),
    "cmn": ("我的妈妈喜欢吃苹果和米饭。", "你好，很高兴见到你。"),
}  # fmt: skip
SPEAKERS, PADDING, NOISE = (None, "f2", "m3"), 0.3, 1e-3
FRAME, NEAR = 0.01, (-0.03, 0.0, 0.03)  # seconds


def units_at(track: PhonemeTrack, times: np.ndarray) -> np.ndarray:
    """Visual units at some times, silence where the track says nothing."""
    mapping, units = VisualMapping.default(), np.zeros(len(times), int)
    for phoneme in track:
        units[(times >= phoneme.start) & (times < phoneme.end)] = mapping.unit_id(phoneme.symbol)
    return units


def compare(heard: PhonemeTrack, truth: PhonemeTrack) -> tuple[float, list[bool]]:
    """The share of frames whose unit is right, and whether each closure is heard."""
    mapping, times = VisualMapping.default(), np.arange(0.0, truth.duration, FRAME)
    shut = mapping.unit_id(BILABIAL)
    centres = np.array([(p.start + p.end) / 2 for p in truth if mapping.unit_id(p.symbol) == shut])
    closed = np.any([units_at(heard, centres + shift) == shut for shift in NEAR], axis=0)
    return float(np.mean(units_at(heard, times) == units_at(truth, times))), closed.tolist()


def spoken(language: str) -> Iterable[Speech]:
    random = np.random.default_rng(0)
    for sentence in SENTENCES[language]:
        for speaker in SPEAKERS:
            speech = speak(sentence, language, speaker).padded(PADDING, PADDING)
            speech.audio = (speech.audio + random.normal(0, NOISE, len(speech.audio))).astype(np.float32)
            yield speech


def recorded(folder: Path, count: int) -> Iterable[Speech]:
    """The last clips of a folder by name that have a transcript, aligned to it."""
    sources = [source for source in flat(folder, "en-us") if source.transcript is not None][-count:]
    for source in tqdm(sources, disable=None, leave=False):
        yield listen(str(source.path), transcript=read_transcript(source.transcript).text)


def row(name: str, material: Iterable[Speech], methods: list[Callable[[np.ndarray, int], PhonemeTrack]]) -> str:
    shares, closures = [[] for _ in methods], [[] for _ in methods]
    for speech in material:
        mono = to_mono(speech.audio)
        for index, method in enumerate(methods):
            share, closed = compare(method(mono, speech.sampling_rate), speech.track)
            shares[index].append(share)
            closures[index] += closed
    cells = [f"{np.mean(s):.0%}, {np.mean(c):.0%}" for s, c in zip(shares, closures, strict=True)]
    return f"| {name} | {' | '.join(cells)} |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=Path, help="folder of videos in English with transcripts")
    parser.add_argument("--count", type=int, default=40, help="how many of the clips, the last by name")
    parser.add_argument("--recognizer", type=Path, default=FOLDER, help="of train_phoneme_recognizer.py")
    args = parser.parse_args(arguments)

    def alone(mono: np.ndarray, rate: int) -> PhonemeTrack:
        return recognize_phonemes(mono, rate, "de", args.recognizer)  # whatever is said: only English differs

    def beside_pocketsphinx(mono: np.ndarray, rate: int) -> PhonemeTrack:
        return recognize_phonemes(mono, rate, "en-us", args.recognizer)

    methods = [english_alignment.decode_phones, alone, beside_pocketsphinx]
    print("| unit, shut | pocketsphinx | recogniser | both |\n|---|---|---|---|")
    for language in SENTENCES:
        print(row(language, spoken(language), methods))
    if args.clips is not None:
        print(row("people", recorded(args.clips, args.count), methods))


if __name__ == "__main__":
    run_script(main)
