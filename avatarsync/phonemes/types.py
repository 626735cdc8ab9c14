"""The timeline of speech as a first-class object: who says which phoneme, from when to when.

`PhonemeTrack` is what the front end makes from text or from a recording, what a user edits, and what the models read.
All times are in seconds from the start of the audio.
"""

import copy
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, MutableSequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InvalidArgumentError, InvalidTrackError, OutputError
from . import textgrid

SILENCE = "sil"
# Edges closer than this are the same edge: a file's decimals must not become an overlap.
TIME_TOLERANCE = 1e-4
# Of a track, in seconds: half a day. Audio of that length still fits into memory.
MAX_DURATION = 43_200.0


@dataclass
class Phoneme:
    """One phoneme: its IPA (or ARPAbet) symbol, `start` and `end` in seconds, and the word it belongs to.

    In a track, a phoneme that grows pushes the edge of the neighbour that it touches, as a boundary does in Praat:
    `track[3].end += 0.05` shortens `track[4]`. A phoneme that shrinks leaves a gap, which is silence.
    """

    symbol: str
    start: float
    end: float
    word: str | None = None

    @property
    def duration(self) -> float:
        """Seconds from start to end."""
        return self.end - self.start

    def __setattr__(self, name: str, value) -> None:
        track = self.__dict__.get("_track")
        if track is not None and name in ("start", "end"):
            track._push_neighbour(self, name, value)
        self.__dict__[name] = value


class PhonemeTrack(MutableSequence):
    """Phonemes in order of time. Gaps are silence; so are entries with the symbol `"sil"`.

    Args:
        phonemes: the entries, in order.
        language: espeak language code, e.g. "en-us", or None.
        duration: seconds of the whole track; never less than the end of the last phoneme, which is the default.
    """

    def __init__(self, phonemes: Iterable[Phoneme] = (), language: str | None = None, duration: float | None = None):
        self._phonemes: list[Phoneme] = []
        self.language = language
        self._duration = duration
        self.extend(phonemes)

    @property
    def duration(self) -> float:
        """Seconds from 0 to the end of the track."""
        last = self._phonemes[-1].end if self._phonemes else 0.0
        return last if self._duration is None else max(self._duration, last)

    @duration.setter
    def duration(self, seconds: float | None) -> None:
        self._duration = seconds

    def __len__(self) -> int:
        return len(self._phonemes)

    def __getitem__(self, index):
        return self._phonemes[index]

    def __setitem__(self, index, value) -> None:
        added = list(value) if isinstance(index, slice) else [value]  # once: it may be an iterator
        _check_phonemes(added)
        self._phonemes[index] = added if isinstance(index, slice) else value
        for phoneme in added:
            phoneme.__dict__["_track"] = self

    def __delitem__(self, index) -> None:
        removed = self._phonemes[index]
        del self._phonemes[index]
        for phoneme in removed if isinstance(index, slice) else (removed,):
            phoneme.__dict__.pop("_track", None)

    def insert(self, index: int, phoneme: Phoneme) -> None:
        _check_phonemes([phoneme])
        self._phonemes.insert(index, phoneme)
        phoneme.__dict__["_track"] = self

    def __copy__(self) -> "PhonemeTrack":
        # A phoneme belongs to one track, and pushes its neighbours there: a copy needs phonemes of its own.
        return copy.deepcopy(self)

    def __eq__(self, other) -> bool:
        if not isinstance(other, PhonemeTrack):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    def __repr__(self) -> str:
        return f"PhonemeTrack({len(self)} phonemes, {self.duration:.2f} s, language={self.language!r})"

    def _push_neighbour(self, phoneme: Phoneme, edge: str, moved_to: float) -> None:
        """Move the edge that touched `phoneme`'s, where `phoneme` grows over it."""
        index = next((i for i, entry in enumerate(self._phonemes) if entry is phoneme), None)
        if index is None:  # it was replaced in the track
            return
        if edge == "end" and index + 1 < len(self):
            following = self._phonemes[index + 1]
            if abs(following.start - phoneme.end) <= TIME_TOLERANCE and moved_to > following.start:
                following.__dict__["start"] = moved_to
        if edge == "start" and index > 0:
            previous = self._phonemes[index - 1]
            if abs(previous.end - phoneme.start) <= TIME_TOLERANCE and moved_to < previous.end:
                previous.__dict__["end"] = moved_to

    def validate(self) -> "PhonemeTrack":
        """Check order and spans; returns the track itself.

        Raises:
            InvalidTrackError: names the first offending entry and what to change.
        """
        previous_end = 0.0
        for index, phoneme in enumerate(self._phonemes):
            name = f"entry {index} ({phoneme.symbol!r}, {phoneme.start} to {phoneme.end} s)"
            if not isinstance(phoneme.symbol, str) or not phoneme.symbol.strip():
                raise InvalidTrackError(f'{name} has no symbol: give it an IPA symbol, or "{SILENCE}"')
            if not all(
                isinstance(t, int | float | np.number) and math.isfinite(t) for t in (phoneme.start, phoneme.end)
            ):
                raise InvalidTrackError(f"{name}: start and end must be finite numbers of seconds")
            if phoneme.word is not None and not isinstance(phoneme.word, str):
                raise InvalidTrackError(f"{name}: its word is {phoneme.word!r}: give a string, or None")
            if phoneme.start < 0:
                raise InvalidTrackError(f"{name} starts before 0: shift the track so that it begins at 0 or later")
            if phoneme.end <= phoneme.start:
                raise InvalidTrackError(f"{name} spans no time: its end must come after its start")
            if phoneme.start < previous_end - TIME_TOLERANCE:
                raise InvalidTrackError(
                    f"{name} overlaps entry {index - 1}, which ends at {previous_end} s:"
                    f" start it at {previous_end} s or later, or end entry {index - 1} earlier"
                )
            previous_end = phoneme.end
        given = self._duration
        if given is not None and not (isinstance(given, int | float | np.number) and 0 <= given < math.inf):
            raise InvalidTrackError(f"the track's duration is {given!r}: give seconds, or None")
        if self.duration > MAX_DURATION:
            # What is no track of seconds even in milliseconds is simply wrong.
            hint = ", not in milliseconds" if self.duration <= 1000 * MAX_DURATION else ""
            raise InvalidTrackError(
                f"the track lasts {self.duration:.0f} s, more than {MAX_DURATION / 3600:.0f} hours: "
                f"give its times in seconds{hint}, or cut it"
            )
        return self

    def to_dict(self) -> dict:
        """A JSON-ready dictionary."""
        phonemes = []
        for phoneme in self._phonemes:
            entry = {"symbol": phoneme.symbol, "start": float(phoneme.start), "end": float(phoneme.end)}
            phonemes.append(entry if phoneme.word is None else {**entry, "word": phoneme.word})
        return {"language": self.language, "duration": float(self.duration), "phonemes": phonemes}

    @classmethod
    def from_dict(cls, content: dict) -> "PhonemeTrack":
        """The inverse of `to_dict`, validated.

        Raises:
            InvalidTrackError: keys are missing or the spans are not valid.
        """
        try:
            phonemes = [Phoneme(p["symbol"], p["start"], p["end"], p.get("word")) for p in content["phonemes"]]
            track = cls(phonemes, content.get("language"), content.get("duration"))
            return track.validate()
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise InvalidTrackError(
                f'not a phoneme track ({error!r}): expected {{"phonemes": [{{"symbol", "start", "end"}}, ...]}}'
            ) from error

    def to_json(self) -> str:
        """The track as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "PhonemeTrack":
        """Read what `to_json` wrote.

        Raises:
            InvalidTrackError: not JSON, or not a valid track.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:  # numbers or nesting beyond what Python reads, too
            raise InvalidTrackError(f"the track is not valid JSON ({error}): correct that place") from error
        return cls.from_dict(content)

    def to_textgrid(self) -> str:
        """The track as a Praat TextGrid (long text format): tier "phones", and "words" where words are known.

        Gaps become empty intervals. Neighbouring phonemes of equal words share one interval of the tier "words".
        """
        self.validate()
        tiers = {"phones": [(p.start, p.end, p.symbol) for p in self]}
        words: list[tuple[float, float, str]] = []
        for phoneme in self:
            if phoneme.word is None:
                continue
            if words and words[-1][2] == phoneme.word and phoneme.start - words[-1][1] <= TIME_TOLERANCE:
                words[-1] = (words[-1][0], phoneme.end, phoneme.word)
            else:
                words.append((phoneme.start, phoneme.end, phoneme.word))
        if words:
            tiers["words"] = words
        return textgrid.write(tiers, self.duration)

    @classmethod
    def from_textgrid(cls, text: str, language: str | None = None) -> "PhonemeTrack":
        """Read a Praat TextGrid, long or short format; intervals without a label are gaps.

        The phonemes are the tier whose name contains "phone" or "segment", or the only tier; words the tier "words".

        Raises:
            InvalidTrackError: not a TextGrid, or no tier of phonemes.
        """
        tiers, duration = textgrid.read(text)
        phones = textgrid.choose_tier(tiers, ("phone", "segment"), only=True)
        words = textgrid.choose_tier(tiers, ("word",), only=False)
        if phones is None:
            raise InvalidTrackError(
                f'the TextGrid has no tier of phonemes, only {list(tiers)}: name that interval tier "phones"'
            )
        phonemes = [Phoneme(label.strip(), start, end) for start, end, label in phones if label.strip()]
        labelled = [(start, end, label.strip()) for start, end, label in words or [] if label.strip()]
        cursor = 0
        for phoneme in phonemes:
            middle = (phoneme.start + phoneme.end) / 2
            while cursor < len(labelled) and labelled[cursor][1] <= middle:
                cursor += 1
            if cursor < len(labelled) and labelled[cursor][0] <= middle:
                phoneme.word = labelled[cursor][2]
        return cls(phonemes, language, duration).validate()

    def save(self, path: str | os.PathLike) -> None:
        """Write JSON (`.json`) or a TextGrid (`.TextGrid`), whole or not at all; an existing file is replaced.

        Raises:
            InvalidArgumentError: another suffix. OutputError: the place cannot be written.
        """
        text = self.to_textgrid() if _is_textgrid(path) else self.validate().to_json()
        write_whole(path, lambda partial: Path(partial).write_text(text + "\n", encoding="utf-8"))

    @classmethod
    def load(cls, path: str | os.PathLike) -> "PhonemeTrack":
        """Read a track from JSON (`.json`) or a Praat TextGrid (`.TextGrid`), UTF-8 or UTF-16.

        Raises:
            InvalidArgumentError: another suffix. InvalidTrackError: the file cannot be read or is no valid track.
        """
        reader = cls.from_textgrid if _is_textgrid(path) else cls.from_json
        try:
            content = Path(path).read_bytes()
            utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")  # Praat's default for labels beyond ASCII
            return reader(content.decode("utf-16" if utf16 else "utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidTrackError(f"{path} cannot be read as a phoneme track: {error}") from error
        except InvalidTrackError as error:
            raise InvalidTrackError(f"{path}: {error}") from error


@dataclass(eq=False)
class Speech:
    """Speech to be seen and heard.

    Attributes:
        track: the phonemes, timed on the audio.
        audio: `(samples,)` mono or `(samples, channels)`, float32 in [-1, 1].
        sampling_rate: samples per second.
        language: espeak language code, or None.
    """

    track: PhonemeTrack
    audio: np.ndarray
    sampling_rate: int
    language: str | None = None

    @property
    def duration(self) -> float:
        """Seconds of the audio."""
        return self.audio.shape[0] / float(self.sampling_rate)  # NumPy's float32 would round it

    def __eq__(self, other) -> bool:
        if not isinstance(other, Speech):
            return NotImplemented
        same = (self.track, self.sampling_rate, self.language) == (other.track, other.sampling_rate, other.language)
        return same and np.array_equal(self.audio, other.audio)

    def padded(self, before: float, after: float) -> "Speech":
        """The same with seconds of silence before and after it, 0 or more each."""
        start, extra = (round(seconds * self.sampling_rate) for seconds in (before, after))
        audio = np.pad(self.audio, [(start, extra)] + [(0, 0)] * (self.audio.ndim - 1))
        shift, duration = start / self.sampling_rate, len(audio) / self.sampling_rate
        phonemes = [Phoneme(p.symbol, p.start + shift, p.end + shift, p.word) for p in self.track]
        # What was silence already grows.
        if phonemes and phonemes[0].symbol == SILENCE and phonemes[0].start <= shift:
            phonemes[0].start = 0.0
        elif shift:
            phonemes.insert(0, Phoneme(SILENCE, 0.0, shift))
        if phonemes[-1:] and phonemes[-1].symbol == SILENCE:
            phonemes[-1].end = duration
        elif extra:
            phonemes.append(Phoneme(SILENCE, self.duration + shift, duration))
        return Speech(PhonemeTrack(phonemes, self.track.language, duration), audio, self.sampling_rate, self.language)

    def save(self, path: str | os.PathLike) -> None:
        """Write the audio as 16-bit WAV, whole or not at all; an existing file is replaced.

        Raises:
            InvalidArgumentError: another suffix than `.wav`. OutputError: the place cannot be written.
        """
        if Path(path).suffix.lower() != ".wav":
            raise InvalidArgumentError(
                f"speech is saved as WAV, not as {Path(path).name}: give a path that ends in .wav"
            )
        import soundfile

        audio, rate = self.audio, round(self.sampling_rate)
        if audio.dtype.kind == "f" and audio.dtype.itemsize not in (4, 8):  # soundfile knows no others
            audio = audio.astype(np.float32 if audio.dtype.itemsize < 4 else np.float64)
        write_whole(path, lambda partial: soundfile.write(partial, audio, rate, "PCM_16", format="WAV"))


def _check_phonemes(entries: list) -> None:
    for entry in entries:
        if not isinstance(entry, Phoneme):
            raise InvalidTrackError(f"{entry!r} is no entry of a track: give Phoneme(symbol, start, end)")


def _is_textgrid(path: str | os.PathLike) -> bool:
    suffix = Path(path).suffix.lower()
    if suffix not in (".json", ".textgrid"):
        raise InvalidArgumentError(f"{path}: a phoneme track ends in .json or .TextGrid")
    return suffix == ".textgrid"


def write_whole(path: str | os.PathLike, write: Callable[[str], object]) -> None:
    """Let `write` fill a file beside `path`, then move it there: readers never see half a file.

    Raises:
        OutputError: the folder is missing or cannot be written.
    """
    path = Path(path)
    try:
        handle, partial = tempfile.mkstemp(prefix=".", suffix=".partial", dir=path.parent)
        os.close(handle)
        try:
            write(partial)
            os.chmod(partial, 0o644)
            os.replace(partial, path)
        except BaseException:
            os.unlink(partial)
            raise
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror or error}): choose a folder you can write"
        ) from error
