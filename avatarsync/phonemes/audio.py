"""A recording → the speech in it: reading it, and timing its phonemes with or without a transcript."""

import contextlib
import os
import re
import struct

import numpy as np

from ..errors import AlignmentError, InvalidAudioError, SilentAudioError
from . import dtw_alignment, english_alignment
from .bundled_recognition import recognize_phonemes
from .text import normalize_text, resolve_language
from .types import Phoneme, PhonemeTrack, Speech

MIN_SECONDS = 0.1
# Clipped and mixed recordings exceed 1; whole numbers of 16 bits that were only cast to floats reach thousands.
MAX_PEAK = 8.0
# Sizes from here on are no sizes: sox and arecord, which cannot seek in a pipe, write 0x7FFFF000 and 0x80000000.
STREAMED_WAV_SIZE = 0x7FFFF000
# Frames without an index or a total: FFmpeg divides the file's size by the bit rate of its beginning.
GUESSED_LENGTHS = ("aac", "loas", "ac3", "eac3", "dts")
MP3_HEAD = 4096  # bytes after the tags that hold the first frame, which says how many there are, if any does
# Of the power that one channel alone leaves in the mean of all: where less is left, the channels cancel each other.
CANCELLED_SHARE = 0.1
# Speech reaches -45 dBFS somewhere and rises and falls by 10 dB and more; noise and hum do not, silence does neither.
SILENCE_LEVEL_DB = -60.0
QUIET_LEVEL_DB = -45.0
SPEECH_RANGE_DB = 10.0
LONGEST_PIECE = 45.0  # seconds that pocketsphinx aligns at a time


def load_audio(path: str | os.PathLike) -> tuple[np.ndarray, int]:
    """Read the sound of an audio or video file in any format that PyAV reads.

    Returns:
        Audio `(samples,)`, or `(samples, channels)` where there are several, float32 in [-1, 1]; the sampling rate,
        which is the file's own.

    Raises:
        InvalidAudioError: not a file with sound, truncated, or shorter than 0.1 s.
    """
    import av

    path = os.fspath(path)
    if os.path.isdir(path):
        raise InvalidAudioError(f"{path} is a folder: give the path of a recording in it")
    if not os.path.isfile(path):
        raise InvalidAudioError(f"{path}: no such file; give the path of a recording")
    chunks: list[np.ndarray] = []  # (samples, channels) each
    damaged = None
    try:
        with av.open(os.path.abspath(path)) as container:  # "12:30.wav" alone would be of a protocol "12"
            if not container.streams.audio:
                raise InvalidAudioError(f"{path} has no sound: give a recording, or a video with an audio track")
            stream = container.streams.audio[0]
            announced = _announced_seconds(path, container, stream)
            sampling_rate, layout = stream.rate, stream.layout.name
            # Packed, not planar: from eight channels on PyAV counts a plane too many and reads beyond the last.
            resampler = av.AudioResampler(format="flt", layout=layout, rate=sampling_rate)
            channels = stream.layout.nb_channels
            try:
                for frame in container.decode(stream):
                    chunks += [part.to_ndarray().reshape(-1, channels) for part in resampler.resample(frame)]
                chunks += [part.to_ndarray().reshape(-1, channels) for part in resampler.resample(None)]
            except av.FFmpegError as error:
                damaged = error
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, InvalidAudioError):
            raise
        raise InvalidAudioError(f"{path} cannot be read as sound ({error}): give a WAV, MP3, FLAC, M4A …") from error
    audio = np.concatenate(chunks) if chunks else np.zeros((0, 1), np.float32)
    seconds = len(audio) / sampling_rate
    if damaged is not None or (announced is not None and seconds < 0.9 * announced - 0.5):
        raise InvalidAudioError(f"{path} is truncated or damaged after {seconds:.2f} s: make or copy the file again")
    audio = audio[:, 0] if audio.shape[1] == 1 else audio
    check_audio(audio, sampling_rate, path)
    return audio, sampling_rate


def _announced_seconds(path: str, container, stream) -> float | None:
    """How long the file says that its sound lasts; None where it does not say, whatever FFmpeg guesses then."""
    if container.format.name in GUESSED_LENGTHS:
        return None
    if container.format.name == "mp3":
        return _announced_mp3_seconds(path, stream.rate)
    with open(path, "rb") as file:
        riff, size, wave = struct.unpack("<4sI4s", file.read(12).ljust(12, b"\0"))
    if (riff, wave) == (b"RIFF", b"WAVE") and 0 < size < STREAMED_WAV_SIZE and container.duration is not None:
        # FFmpeg reports what is there of a WAV file, its header what should be.
        return container.duration / 1e6 * (size + 8) / max(os.path.getsize(path), 1)
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    if container.duration is not None and not container.streams.video:
        return container.duration / 1e6  # in FFmpeg's AV_TIME_BASE
    return None


def _announced_mp3_seconds(path: str, sampling_rate: int) -> float | None:
    """Seconds by the number of frames in an MP3 file's Xing, Info or VBRI header; None where it has none."""
    with open(path, "rb") as file:
        head = file.read(10)
        while head[:3] == b"ID3" and len(head) == 10:
            size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
            file.seek(size, os.SEEK_CUR)
            head = file.read(10)
        head += file.read(MP3_HEAD)
    frames = 0
    if found := re.search(rb"(?:Xing|Info)(.{4})(.{4})", head, re.DOTALL):
        flags, count = (int.from_bytes(number, "big") for number in found.groups())
        frames = count if flags & 1 else 0
    elif found := re.search(rb"VBRI.{10}(.{4})", head, re.DOTALL):
        frames = int.from_bytes(found.group(1), "big")
    # 1152 samples a frame at the rates of MPEG-1, half as many below.
    return frames * (1152 if sampling_rate >= 32000 else 576) / sampling_rate if frames else None


def check_audio(audio: np.ndarray, sampling_rate: int, name: str = "the audio") -> None:
    """Refuse what is no waveform.

    Args:
        audio: `(samples,)` or `(samples, channels)`.

    Raises:
        InvalidAudioError: wrong shape or type, NaN, a bad sampling rate, shorter than 0.1 s, or far beyond [-1, 1].
    """
    if not isinstance(audio, np.ndarray) or audio.ndim not in (1, 2) or not np.issubdtype(audio.dtype, np.floating):
        given = f"{audio.dtype} {audio.shape}" if isinstance(audio, np.ndarray) else f"a {type(audio).__name__}"
        advice = "; divide samples of 16 bits by 32768" if given.startswith("int16") else ""
        raise InvalidAudioError(
            f"{name} is {given}: expected floats in [-1, 1] of shape (samples,) or (samples, channels){advice}"
        )
    if audio.ndim == 2 and audio.shape[1] == 0:
        raise InvalidAudioError(f"{name} has shape {audio.shape}, no channels: give at least one")
    if audio.ndim == 2 and audio.shape[1] > max(8, audio.shape[0]):
        raise InvalidAudioError(f"{name} has shape {audio.shape}: put samples first, (samples, channels)")
    if isinstance(sampling_rate, bool) or not isinstance(sampling_rate, int | float | np.number):
        raise InvalidAudioError(f"{name}: the sampling rate is {sampling_rate!r}: give a number of Hz")
    if not 4000 <= sampling_rate <= 384000:
        raise InvalidAudioError(f"{name}: a sampling rate of {sampling_rate} Hz; give 4,000 to 384,000")
    if audio.shape[0] < MIN_SECONDS * sampling_rate:
        seconds = audio.shape[0] / sampling_rate
        raise InvalidAudioError(f"{name} lasts only {seconds:.3f} s: give at least {MIN_SECONDS} s of speech")
    if not np.isfinite(audio).all():
        raise InvalidAudioError(f"{name} contains NaN or infinity: export it again")
    check_peak(audio, name)


def check_peak(audio: np.ndarray, name: str = "the audio") -> None:
    """Refuse what would be deafening: finite samples of any shape that lie far beyond [-1, 1].

    Raises:
        InvalidAudioError: a peak above 8.
    """
    peak = max(float(audio.max(initial=0)), -float(audio.min(initial=0)))
    if peak > MAX_PEAK:
        raise InvalidAudioError(
            f"{name} reaches {peak:.6g}, where floats in [-1, 1] are expected: divide samples of 16 bits by 32768"
        )


def check_speech(audio: np.ndarray, sampling_rate: int, name: str = "the audio") -> None:
    """Refuse a recording that holds silence, hum or hiss only.

    Judged by the level of 30-ms frames: the loudest 1 % must be above -60 dBFS, and where they stay below -45 dBFS
    they must also stand out from the quietest 10 % by 10 dB.

    Raises:
        SilentAudioError: no speech in it.
    """
    mono = to_mono(audio)
    length = max(1, int(0.03 * sampling_rate))
    frames = mono[: len(mono) // length * length].reshape(-1, length)
    frames = frames - frames.mean(axis=1, keepdims=True)  # a constant offset is not sound
    levels = 10 * np.log10(np.maximum(np.mean(np.square(frames, dtype=np.float64), axis=1), 1e-12))
    loud, quiet = np.percentile(levels, 99), np.percentile(levels, 10)
    if loud < SILENCE_LEVEL_DB or (loud < QUIET_LEVEL_DB and loud - quiet < SPEECH_RANGE_DB):
        raise SilentAudioError(
            f"{name} is silent ({loud:.0f} dBFS at its loudest): give a recording with speech in it"
        )


def to_mono(audio: np.ndarray) -> np.ndarray:
    """The mean of all channels, `(samples,)`; the loudest channel where they cancel each other in the mean.

    One of two microphones with its poles swapped is not heard on its own, yet their mean is silence.
    """
    if audio.ndim == 1:
        return audio
    mean = audio.mean(axis=1)
    powers = np.einsum("nc,nc->c", audio, audio, dtype=np.float64)
    left = np.einsum("n,n->", mean, mean, dtype=np.float64)
    if left < CANCELLED_SHARE * powers.max() / audio.shape[1] ** 2:
        return np.ascontiguousarray(audio[:, powers.argmax()])
    return mean


def listen(
    audio: str | os.PathLike | np.ndarray,
    sampling_rate: int | None = None,
    transcript: str | None = None,
    language: str = "en-us",
    recognizer: str | os.PathLike | None = None,
) -> Speech:
    """Time the phonemes of a recording.

    With a transcript, English is aligned by pocketsphinx, every other language by dynamic time warping against
    espeak-ng speaking the transcript. Without, the bundled recogniser names what it hears (roughly, yet the lips
    mostly fit), or `recognizer` does: a CTC phoneme model, or a Whisper model whose text is then aligned.

    Args:
        audio: a path, or float samples `(samples,)` or `(samples, channels)` with `sampling_rate`; or both in a
            dictionary, under "array" and "sampling_rate", as the columns of `datasets` are read.
        transcript: what is said.
        language: espeak language code of the speech.
        recognizer: Hub id or folder of a transformers model with a CTC head over phonemes, or of a Whisper model,
            or folder of a `PhonemeRecognizerModel`; not together with a transcript.

    Returns:
        Speech with the audio as it was read, and a track of IPA symbols that covers it.

    Raises:
        InvalidAudioError, SilentAudioError, UnknownLanguageError, EmptyTextError: bad input.
        AlignmentError: the transcript does not fit the recording.
    """
    language = resolve_language(language)
    if transcript is not None and recognizer is not None:
        raise AlignmentError("a transcript and a recognizer contradict each other: give one of the two")
    # Tensors warn of being asked for a name.
    if hasattr(audio, "__getitem__") and not hasattr(audio, "shape") and not isinstance(audio, str):
        with contextlib.suppress(KeyError, TypeError, IndexError):
            audio, sampling_rate = audio["array"], audio["sampling_rate"]
    if isinstance(audio, np.ndarray):
        if sampling_rate is None:
            raise InvalidAudioError("samples without a rate: give sampling_rate=")
        check_audio(audio, sampling_rate)
        name, samples = "the audio", audio.astype(np.float32)
    elif not isinstance(audio, str | os.PathLike):
        raise InvalidAudioError(
            f"a {type(audio).__name__} is not a recording: give a path, a NumPy array with sampling_rate=, or "
            'a dictionary with "array" and "sampling_rate"'
        )
    else:
        name = os.fspath(audio)
        samples, sampling_rate = load_audio(audio)
    check_speech(samples, sampling_rate, name)
    mono = to_mono(samples)
    track = None
    if recognizer is not None:
        from . import recognition

        track, transcript = recognition.recognize(mono, sampling_rate, recognizer, language)
    if transcript is not None:
        track = align(mono, sampling_rate, transcript, language)
    elif track is None:
        track = recognize_phonemes(mono, sampling_rate, language)
    return Speech(track.validate(), samples, sampling_rate, language)


def align(mono: np.ndarray, sampling_rate: int, transcript: str, language: str) -> PhonemeTrack:
    """The track of a transcript on mono audio `(samples,)`; see `listen`."""
    rate = dtw_alignment.fitting_rate(transcript, language, mono, sampling_rate)
    transcript = normalize_text(transcript)
    if not (language.startswith("en") and english_alignment.can_spell(transcript)):
        return dtw_alignment.align(mono, sampling_rate, transcript, language, rate)
    if len(mono) > LONGEST_PIECE * sampling_rate:
        return _align_in_pieces(mono, sampling_rate, transcript, language, rate)
    track = english_alignment.align(mono, sampling_rate, transcript, language)
    return dtw_alignment.align(mono, sampling_rate, transcript, language, rate) if track is None else track


def _align_in_pieces(mono: np.ndarray, sampling_rate: int, transcript: str, language: str, rate: int) -> PhonemeTrack:
    """pocketsphinx's memory grows with its sentence: long recordings are cut between pieces of the transcript.

    Where a piece is said comes from the language-agnostic alignment, which stays where pocketsphinx finds none.
    """
    duration = len(mono) / sampling_rate
    pieces, whole = dtw_alignment.align_pieces(mono, sampling_rate, transcript, language, rate)
    cuts = [0.0]
    for before, after in zip(whole, whole[1:], strict=False):
        cuts.append((before[-1].end + after[0].start) / 2)
    cuts.append(duration)
    joined = PhonemeTrack(language=language, duration=duration)
    for piece, rough, low, high in zip(pieces, whole, cuts[:-1], cuts[1:], strict=True):
        part = mono[round(low * sampling_rate) : round(high * sampling_rate)]
        track = english_alignment.align(part, sampling_rate, piece, language)
        if track is not None:
            rough = [Phoneme(p.symbol, p.start + low, p.end + low, p.word) for p in track]
        for entry in rough:
            entry.start, entry.end = max(entry.start, low), min(entry.end, high)
        joined.extend(entry for entry in rough if entry.end > entry.start)
    return joined
