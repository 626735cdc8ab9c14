"""What is said in a video, from the file that accompanies it."""

from dataclasses import dataclass
from pathlib import Path

from avatarsync.errors import InvalidTrackError
from avatarsync.phonemes import PhonemeTrack, textgrid

SUFFIXES = (".align", ".TextGrid", ".txt")
GRID_UNITS_PER_SECOND = 25000
NO_WORDS = {"", "sil", "sp", "spn", "<eps>"}

TimedWord = tuple[float, float, str]  # start and end in seconds, word


@dataclass
class Transcript:
    """The `text` that is said, and its `words` with their times where the file has them."""

    text: str
    words: list[TimedWord] | None = None


def find_transcript(stems: list[Path]) -> Path | None:
    """The first file that exists of `stem.align`, `stem.TextGrid` and `stem.txt`, for each stem in turn."""
    for stem in stems:
        for suffix in SUFFIXES:
            candidate = stem.with_name(stem.name + suffix)  # names have dots: with_suffix would cut them
            if candidate.is_file():
                return candidate
    return None


def read_transcript(path: Path, first_line: bool = False) -> Transcript | None:
    """Read `.align` (GRID: "start end word" in 1/25,000 s), `.TextGrid` (its tier "words") or `.txt` (the text).

    Args:
        first_line: of a text only the first line is what is said (CMLR).

    Returns:
        None where no word is in it.

    Raises:
        InvalidTrackError: it is not what its ending says.
    """
    try:
        content = path.read_bytes()
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        if path.suffix == ".align":
            words = _read_align(text)
        elif path.suffix == ".TextGrid":
            tiers, _ = textgrid.read(text)
            words = textgrid.choose_tier(tiers, ("word",), only=True)
            if words is None:
                raise InvalidTrackError(f'no tier of words, only {list(tiers)}: name that interval tier "words"')
        else:
            lines = text.strip().splitlines()
            said = " ".join(lines[:1] if first_line else lines).strip()
            return Transcript(said) if said else None
    except (OSError, ValueError) as error:  # UnicodeDecodeError and InvalidTrackError are ValueErrors
        raise InvalidTrackError(f"{path.name} cannot be read as a transcript: {error}") from error
    words = [(start, end, word.strip()) for start, end, word in words if word.strip() not in NO_WORDS]
    return Transcript(" ".join(word for *_, word in words), words) if words else None


def _read_align(text: str) -> list[TimedWord]:
    rows = [line.split() for line in text.splitlines() if line.strip()]
    if not all(len(row) == 3 for row in rows):
        raise InvalidTrackError('expected lines of "start end word" with times in 1/25,000 s')
    return [(int(a) / GRID_UNITS_PER_SECOND, int(b) / GRID_UNITS_PER_SECOND, word) for a, b, word in rows]


def track_words(track: PhonemeTrack) -> list[TimedWord]:
    """(start, end, word) of each word of a track."""
    words: list[TimedWord] = []
    for phoneme in track:
        if phoneme.word is None:
            continue
        if words and words[-1][2] == phoneme.word and abs(words[-1][1] - phoneme.start) < 1e-6:
            words[-1] = (words[-1][0], phoneme.end, phoneme.word)
        else:
            words.append((phoneme.start, phoneme.end, phoneme.word))
    return words


def edge_differences(track: PhonemeTrack, words: list[TimedWord]) -> tuple[list[float], list[float]]:
    """Seconds by which the track's words start and end after the transcript's; empty where the words differ."""
    found = track_words(track)
    if [word for *_, word in found] != [word.lower() for *_, word in words]:
        return [], []
    pairs = list(zip(found, words, strict=True))
    return [mine[0] - theirs[0] for mine, theirs in pairs], [mine[1] - theirs[1] for mine, theirs in pairs]
