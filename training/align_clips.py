"""Time the phonemes of talking videos whose words are known.

    python training/align_clips.py --videos DIR --out DIR [--language en-us]

Beside each video lies its transcript: NAME.align (GRID: "start end word", in 1/25,000 s), NAME.TextGrid (the tier
"words") or NAME.txt (the text). Writes OUT/NAME.json, a `PhonemeTrack`. Existing files are kept, so an interrupted
run goes on where it stopped. Where the transcript has times, the difference of the word edges is reported.
"""

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

from avatarsync.errors import AvatarSyncError
from avatarsync.phonemes import PhonemeTrack, listen, textgrid

VIDEO_SUFFIXES = {".mp4", ".mov", ".mkv", ".mpg", ".avi", ".webm"}
GRID_UNITS_PER_SECOND = 25000
NO_WORDS = {"", "sil", "sp", "spn"}

Word = tuple[float | None, float | None, str]


def read_transcript(video: Path) -> list[Word] | None:
    """(start, end, word) of each word, times None where the transcript has none; None without a transcript."""
    align, text = video.with_suffix(".align"), video.with_suffix(".txt")
    if align.exists():
        rows = [line.split() for line in align.read_text().splitlines() if line.strip()]
        words = [(int(a) / GRID_UNITS_PER_SECOND, int(b) / GRID_UNITS_PER_SECOND, word) for a, b, word in rows]
    elif video.with_suffix(".TextGrid").exists():
        tiers, _ = textgrid.read(video.with_suffix(".TextGrid").read_text(encoding="utf-8-sig"))
        words = textgrid.choose_tier(tiers, ("word",), only=True) or []
    elif text.exists():
        words = [(None, None, word) for word in text.read_text(encoding="utf-8-sig").split()]
    else:
        return None
    return [word for word in words if word[2].strip() not in NO_WORDS]


def word_edges(track: PhonemeTrack) -> list[Word]:
    """(start, end, word) of each word of a track."""
    words: list[Word] = []
    for phoneme in track:
        if phoneme.word is None:
            continue
        if words and words[-1][2] == phoneme.word and abs(words[-1][1] - phoneme.start) < 1e-6:
            words[-1] = (words[-1][0], phoneme.end, phoneme.word)
        else:
            words.append((phoneme.start, phoneme.end, phoneme.word))
    return words


def report(differences: np.ndarray, edge: str) -> None:
    median, mean = np.median(differences) * 1000, np.abs(differences).mean() * 1000
    p95 = np.percentile(np.abs(differences), 95) * 1000
    print(
        f"word {edge}s: {len(differences)}, median {median:+.0f} ms, mean |.| {mean:.0f} ms, 95 % within {p95:.0f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--videos", type=Path, required=True, help="folder of videos, transcripts beside them")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tracks")
    parser.add_argument("--language", default="en-us", help="espeak language code of the speech")
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    videos = sorted(path for path in args.videos.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES)
    starts, ends, left_out, written = [], [], {}, 0
    for video in tqdm(videos, disable=None):
        target = args.out / f"{video.stem}.json"
        words = read_transcript(video)
        if not words:
            left_out[video.name] = "no transcript beside it"
            continue
        if target.exists():
            track = PhonemeTrack.load(target)
        else:
            try:
                track = listen(video, transcript=" ".join(word for *_, word in words), language=args.language).track
            except AvatarSyncError as error:
                left_out[video.name] = str(error)
                continue
            track.save(target)
            written += 1
        found = word_edges(track)
        if words[0][0] is not None and [w for *_, w in found] == [w.lower() for *_, w in words]:
            starts += [mine[0] - theirs[0] for mine, theirs in zip(found, words, strict=True)]
            ends += [mine[1] - theirs[1] for mine, theirs in zip(found, words, strict=True)]
    print(f"{written} aligned, {len(videos) - written - len(left_out)} there already, {len(left_out)} left out")
    for name, reason in left_out.items():
        print(f"  {name}: {reason}")
    if starts:
        report(np.array(starts), "start")
        report(np.array(ends), "end")


if __name__ == "__main__":
    main()
