"""What a button of the demo starts: from a portrait and words to segments of video. No web in here."""

import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
from limits import (
    TIME_LIMIT,
    LimitError,
    check_picture_size,
    check_seconds,
    check_text,
    fit_picture,
    segment_edges,
)
from PIL import Image
from segments import TransportStream, VideoFormat, encode_segment, write_mp4
from timeline import from_rows, round_track

from avatarsync import AvatarSyncPipeline, PhonemeTrack, Speech
from avatarsync.adapters import CONFIG_FILE
from avatarsync.errors import (
    AdapterError,
    AvatarSyncError,
    AvatarSyncWarning,
    FaceNotFoundError,
    InvalidImageError,
    MultipleFacesError,
)
from avatarsync.outputs import Making
from avatarsync.phonemes import load_audio
from avatarsync.video import load_image


@dataclass(frozen=True)
class Choices:
    """What people set beside the portrait and the words."""

    fps: int = 25
    seed: int = 0
    blink: bool = True
    motion: str = "subtle"
    articulation: float = 1.0
    attention_window: tuple[int, int] | None = None
    face_index: int | None = None
    identity: str | None = None


@dataclass(frozen=True)
class Job:
    """A finished video, as far as "Render again" needs it.

    Attributes:
        speech: with the track that was rendered.
        making: of the whole video.
        format: size and rate.
        segments: H.264 packets of each segment.
        identity: the adapter that it was made with.
        changed: start and end, in seconds, of what was rendered last; None for all.
    """

    speech: Speech
    making: Making
    format: VideoFormat
    segments: list[list[bytes]]
    identity: str | None = None
    changed: tuple[float, float] | None = None

    @property
    def seconds(self) -> float:
        return float(sum(map(len, self.segments)) / self.format.fps)

    def save(self, folder: Path) -> tuple[Path, Path, Path]:
        """Write video, and track as JSON and as TextGrid, to a folder."""
        names = (folder / "avatarsync.mp4", folder / "phonemes.json", folder / "phonemes.TextGrid")
        write_mp4(names[0], self.segments, self.format, self.speech.audio, self.speech.sampling_rate)
        for name in names[1:]:
            self.speech.track.save(name)
        return names


@dataclass(frozen=True)
class Step:
    """How far the work is.

    Attributes:
        message: for people.
        share: of the work done, 0 to 1.
        piece: the next piece of the stream and its seconds, where there is one.
        job: the finished video, in the last step.
    """

    message: str
    share: float
    piece: tuple[bytes, float] | None = None
    job: Job | None = None


@dataclass
class Studio:
    """A pipeline and the adapters that may be used with it.

    Args:
        talk: the pipeline.
        adapters: folders of adapters by name.
        warn: told, as a sentence, whatever the package warns of.

    Raises:
        AdapterError, MissingDependencyError: one of the adapters cannot be used with this pipeline.
    """

    talk: AvatarSyncPipeline
    adapters: dict[str, Path] = field(default_factory=dict)
    warn: Callable[[str], object] = warnings.warn

    def __post_init__(self):
        # All at once, some tens of milliseconds each: what is wrong with one is for who starts the demo, not visitors.
        for name, folder in self.adapters.items():
            self.talk.load_identity(folder, name=name)
        self._wear(None)

    def read_portrait(self, path: str | os.PathLike | None) -> np.ndarray:
        """The pixels `(H, W, 3) uint8` of an uploaded picture, no larger than the demo renders.

        Raises:
            LimitError: no picture, or too many pixels. InvalidImageError: it cannot be read.
        """
        if path is None:
            raise LimitError("There is no portrait yet: upload a picture of a face, or choose an example.")
        try:
            with Image.open(path) as picture:
                check_picture_size(*picture.size)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            if isinstance(error, LimitError):
                raise
            raise InvalidImageError("This is not a picture that can be read: save it as JPEG or PNG.") from error
        return fit_picture(load_image(Path(path).read_bytes()))

    def speak(self, text: str, language: str, voice: str | None) -> Speech:
        """Synthesised speech, its track rounded as the timeline shows it."""
        return self._checked(self.talk.speak(check_text(text), language, voice or None))

    def listen(self, path: str | os.PathLike | None, transcript: str, language: str) -> Speech:
        """An uploaded recording's speech.

        Raises:
            LimitError: no recording, or a long one. InvalidAudioError: it cannot be read.
        """
        if path is None:
            raise LimitError("There is no recording yet: record one with the microphone, or upload a file.")
        transcript = (transcript or "").strip()
        if transcript:
            check_text(transcript)
        check_seconds(_recorded_seconds(path))
        try:
            audio, sampling_rate = load_audio(path)
            with self._warnings_told():
                speech = self.talk.listen(audio, transcript or None, language, sampling_rate)
        except AvatarSyncError as error:
            raise type(error)(str(error).replace(os.fspath(path), "The recording")) from error
        return self._checked(speech)

    @staticmethod
    def _checked(speech: Speech) -> Speech:
        check_seconds(speech.duration)
        return replace(speech, track=round_track(speech.track))

    def render(self, portrait: np.ndarray, speech: Speech, choices: Choices) -> Iterator[Step]:
        """Draw a whole video, segment by segment."""
        self._wear(choices.identity)
        options = {
            "seed": choices.seed,
            "blink": choices.blink,
            "motion": choices.motion,
            "articulation": choices.articulation,
            "attention_window": choices.attention_window,
            "face_index": choices.face_index,
        }
        with self._warnings_told():
            stream = self.talk.stream(portrait, speech=speech, fps=choices.fps, **options)
        video_format = VideoFormat(stream.fps, stream.height, stream.width)
        job = Job(speech, stream.making, video_format, [], choices.identity)
        edges = segment_edges(stream.num_frames, stream.fps)
        yield from self._encode(job, edges, set(range(len(edges))), stream)

    def render_again(self, job: Job, rows: Sequence[Sequence]) -> Iterator[Step]:
        """Draw the segments that an edited table changes; the others are taken over, byte for byte.

        Raises:
            InvalidTrackError: see `timeline.from_rows`. LimitError: nothing was changed.
        """
        speech = replace(job.speech, track=from_rows(rows, job.speech.track))
        if speech.track == job.speech.track:
            raise LimitError("The timeline is as it was rendered: edit a row first.")
        self._wear(job.identity)
        with self._warnings_told():
            changed = self.talk.changed_frames(job.making, speech)
        edges = segment_edges(sum(map(len, job.segments)), job.format.fps)
        touched = {index for index, (first, stop) in enumerate(edges) if ((changed >= first) & (changed < stop)).any()}
        frames = [frame for index in sorted(touched) for frame in range(*edges[index])]
        stream = None
        if frames:
            options = {**job.making.options, "fps": job.format.fps, "frames": frames}
            stream = self.talk.stream(job.making.image, speech=speech, **options)
            fps = job.format.fps
            span = (float(frames[0] / fps), float((frames[-1] + 1) / fps))
            job = replace(job, making=stream.making, changed=span)
        yield from self._encode(replace(job, speech=speech), edges, touched, stream)

    def _encode(self, job: Job, edges: list[tuple[int, int]], touched: set[int], stream) -> Iterator[Step]:
        """Steps of a video whose `touched` segments come from the stream and whose others the job has."""
        started = time.monotonic()
        sound = (job.speech.audio, job.speech.sampling_rate)
        transport = TransportStream(job.format, *sound)
        total = sum(edges[index][1] - edges[index][0] for index in touched)
        segments, done = [], 0
        for index, (first, stop) in enumerate(edges):
            if index in touched:
                frames = list(islice(stream, stop - first))
                segments.append(encode_segment(frames, job.format))
                done += len(frames)
                spent = time.monotonic() - started
                if spent > TIME_LIMIT:
                    raise LimitError(
                        f"Stopped after {TIME_LIMIT // 60} minutes: use a shorter text, a smaller picture or fewer "
                        "frames per second."
                    )
                left = spent / done * (total - done)
                message = f"Drew {done} of {total} frames, about {left:.0f} s left"
            else:
                segments.append(job.segments[index])
                message = f"Kept second {int(first / job.format.fps) + 1} as it was"
            piece = transport.append(segments[-1], last=index == len(edges) - 1)
            yield Step(message, done / max(total, 1), piece)
        seconds = time.monotonic() - started
        job = replace(job, segments=segments)
        drawn = f"{total} of {edges[-1][1]} frames" if total < edges[-1][1] else f"{total} frames"
        yield Step(f"Drew {drawn} in {seconds:.1f} s, for {job.seconds:.1f} s of video", 1.0, job=job)

    @contextmanager
    def _warnings_told(self) -> Iterator[None]:
        """Tell visitors what the package would tell whoever started the demo."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", AvatarSyncWarning)
            yield
        for warning in caught:
            if issubclass(warning.category, AvatarSyncWarning):
                self.warn(sentence(warning.message))
            else:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)

    def _wear(self, identity: str | None) -> None:
        """Speak as an adapter, or as the base."""
        if identity is not None and identity not in self.adapters:
            raise LimitError("This identity is not offered here: choose one of the list.")
        self.talk.set_identity(identity)


def find_adapters(folder: str | os.PathLike | None) -> dict[str, Path]:
    """Adapters by the names of their folders: the subfolders of a folder, or that itself; none without a folder.

    Raises:
        AdapterError: there is no such folder, or no adapter in it.
    """
    if not folder:
        return {}
    folder = Path(folder).resolve()
    files = [*folder.glob(CONFIG_FILE), *sorted(folder.glob(f"*/{CONFIG_FILE}"))]
    if not files:
        raise AdapterError(f"{folder} holds no adapter: give one, or a folder whose subfolders are adapters")
    return {file.parent.name: file.parent for file in files}


def sentence(error: AvatarSyncError | AvatarSyncWarning) -> str:
    """What went wrong, or may have, and what to do, as one sentence in the words of the page, not of Python."""
    if isinstance(error, FaceNotFoundError):
        return "No face was found in the picture: use one with a single face that looks at the camera."
    if isinstance(error, MultipleFacesError):
        return "The picture shows several faces of the same size: crop it, or choose one under Advanced, Face."
    text = " ".join(str(error).split())
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _recorded_seconds(path: str | os.PathLike) -> float:
    """How long a recording lasts, counted without decoding it; 0 where that cannot be told."""
    try:
        with av.open(os.fspath(path)) as container:
            if not container.streams.audio:
                return 0.0
            stream = container.streams.audio[0]
            packets = (packet for packet in container.demux(stream) if packet.duration)
            return float(sum((packet.duration * packet.time_base for packet in packets), Fraction(0)))
    except (av.FFmpegError, OSError, ValueError):
        return 0.0  # whoever reads it next says what is wrong


__all__ = ["Choices", "Job", "PhonemeTrack", "Step", "Studio", "find_adapters", "sentence"]
