"""Measure how exactly phonemes are timed in recordings, against espeak-ng's own times.

    python training/measure_alignment.py [--clips DIR]

espeak-ng says sentences in two languages, by several speakers, at several speeds; silence is put around them and noise
over them. Each recording is aligned with its transcript, and the starts of the phonemes that both tracks have are
compared. With --clips, recordings of people are aligned too, and the edges of their words compared with the GRID
corpus's .align files, which were made by a machine and hold errors of their own.
Prints Markdown tables: bias (median), mean, 95th percentile and share within 50 ms of the absolute error.
"""

import argparse
from difflib import SequenceMatcher
from itertools import product
from pathlib import Path

import numpy as np
from layouts import flat
from tqdm import tqdm
from transcripts import edge_differences, read_transcript

from avatarsync.phonemes import SILENCE, Phoneme, PhonemeTrack, VisualMapping, dtw_alignment, english_alignment, speak
from avatarsync.phonemes.audio import load_audio, to_mono

SENTENCES = {
    "en-us": (
        "The quick brown fox jumps over the lazy dog.",
        "Please call Stella and ask her to bring these things with her from the store.",
        "My mother bought a big map of Paris.",
        "We were away a year ago.",
        "She sells sea shells, but the shells she sells are not from the sea.",
        "Hello, it is good to see you.",
    ),
    "cmn": (
        "你好，很高兴见到你。",
        "今天天气很好，我们去公园玩。",
        "他的妈妈买了一本新书。",
        "请把这个杯子放在桌子上。",
        "我女儿会骑自行车，她跑得很快。",
    ),
}
SPEAKERS = (None, "m3", "f3", "f5")
RATES = (130, 175, 230)
PADDING = 0.4
NOISE = 1e-3


def by_pocketsphinx(mono: np.ndarray, sampling_rate: int, transcript: str, language: str) -> PhonemeTrack | None:
    return english_alignment.align(mono, sampling_rate, transcript, language)


def by_warping(mono: np.ndarray, sampling_rate: int, transcript: str, language: str) -> PhonemeTrack:
    rate = dtw_alignment.fitting_rate(transcript, language, mono, sampling_rate)
    return dtw_alignment.align(mono, sampling_rate, transcript, language, rate)


def start_errors(truth: PhonemeTrack, found: PhonemeTrack, units: VisualMapping) -> list[float]:
    """Errors of the starts, in seconds, of the phonemes that both tracks have, by visual unit."""
    truth, found = ([p for p in track if p.symbol != SILENCE] for track in (truth, found))
    names = ([units.unit(p.symbol) for p in track] for track in (truth, found))
    blocks = SequenceMatcher(None, *names, autojunk=False).get_matching_blocks()
    return [found[b + k].start - truth[a + k].start for a, b, size in blocks for k in range(size)]


def row(name: str, errors: list[float], of: int) -> str:
    errors = np.array(errors) * 1000
    off = np.abs(errors)
    return (
        f"| {name} | {len(errors)} of {of} | {np.median(errors):+.0f} ms | {off.mean():.0f} ms |"
        f" {np.percentile(off, 95):.0f} ms | {np.mean(off <= 50):.0%} |"
    )


def measure_synthetic() -> None:
    units, noise = VisualMapping.default(), np.random.default_rng(0)
    methods = (
        ("English, pocketsphinx", "en-us", by_pocketsphinx),
        ("English, time warping", "en-us", by_warping),
        ("Mandarin, time warping", "cmn", by_warping),
    )
    print(
        "| phoneme starts | compared | bias | mean error | 95th percentile | within 50 ms |\n|---|---|---|---|---|---|"
    )
    for name, language, method in methods:
        errors, total, lost = [], 0, 0
        for sentence, speaker, rate in product(SENTENCES[language], SPEAKERS, RATES):
            speech = speak(sentence, language, speaker, rate)
            audio = np.pad(speech.audio, int(PADDING * speech.sampling_rate))
            audio = (audio + noise.normal(0, NOISE, len(audio))).astype(np.float32)
            shift = int(PADDING * speech.sampling_rate) / speech.sampling_rate
            truth = PhonemeTrack(Phoneme(p.symbol, p.start + shift, p.end + shift) for p in speech.track)
            total += sum(p.symbol != SILENCE for p in truth)
            found = method(audio, speech.sampling_rate, sentence, language)
            if found is None:
                lost += 1
            else:
                errors += start_errors(truth, found, units)
        print(row(name, errors, total) + (f" ({lost} sentences not aligned)" if lost else ""))


def measure_clips(folder: Path, count: int) -> None:
    sources = [source for source in flat(folder, "en-us") if source.transcript is not None]
    sources = sources[:: max(1, len(sources) // count)]
    print("\n| word edges, people | compared | bias | mean error | 95th percentile | within 50 ms |")
    print("|---|---|---|---|---|---|")
    for name, method in (("pocketsphinx", by_pocketsphinx), ("time warping", by_warping)):
        starts, ends, total = [], [], 0
        for source in tqdm(sources, disable=None, leave=False):
            transcript = read_transcript(source.transcript)
            audio, sampling_rate = load_audio(source.path)
            total += len(transcript.words)
            track = method(to_mono(audio), sampling_rate, transcript.text, "en-us")
            if track is not None:
                differences = edge_differences(track, transcript.words)
                starts += differences[0]
                ends += differences[1]
        print(row(f"{name}, starts", starts, total))
        print(row(f"{name}, ends", ends, total))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=Path, help="folder of GRID videos with their .align files")
    parser.add_argument("--count", type=int, default=60, help="how many of the clips")
    args = parser.parse_args()
    measure_synthetic()
    if args.clips is not None:
        measure_clips(args.clips, args.count)


if __name__ == "__main__":
    main()
