"""espeak-ng through ctypes: the library and the data of the `espeakng-loader` wheel, nothing to install beside it.

espeak-ng keeps one voice and one set of parameters for the whole process, so every use holds one lock.
The library is GPL-3; it is loaded at run time and is no part of this package.
"""

import _ctypes
import ctypes
import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

_AUDIO_OUTPUT_SYNCHRONOUS = 2
_PHONEME_EVENTS_IN_IPA = 3
_EVENT_WORD, _EVENT_PHONEME = 1, 7
_PARAMETER_RATE = 1
_CHARS_UTF8 = 1  # and no SSML flag: "<" and "&" are spoken, not parsed
DEFAULT_RATE = 175
_MUTE = ("fo", "kaa", "xex")

# Cut off the words that espeak reports; it does not separate them from it after digits.
_PUNCTUATION = ' \t\n.,;:!?…"“”«»()[]。，、；：！？（）《》'

_lock = threading.RLock()


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


class _Voice(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_void_p),
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("reserved", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    ]


_SynthCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass
class Mark:
    """A phoneme as espeak announces it: symbol ("" for pauses and tone marks), first sample, word."""

    symbol: str
    sample: int
    word: str | None


@contextmanager
def _fresh_library() -> Iterator[tuple[ctypes.CDLL, int]]:
    """The library and its sampling rate, loaded anew: under one millisecond.

    espeak carries glottal phase, flutter and noise from one utterance into the next, so the same text would last a few
    samples more or less each time. Only loading it anew starts from the same state, and a seed must mean one video.
    """
    import espeakng_loader

    with _lock:
        library = ctypes.CDLL(str(espeakng_loader.get_library_path()))
        library.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))
        data = str(espeakng_loader.get_data_path()).encode()
        sampling_rate = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, data, _PHONEME_EVENTS_IN_IPA)
        try:
            if sampling_rate <= 0:
                raise RuntimeError("espeak-ng could not be initialised: reinstall espeakng-loader")
            library.espeak_ng_SetRandSeed(ctypes.c_long(1))
            yield library, sampling_rate
        finally:
            library.espeak_Terminate()
            unload = _ctypes.FreeLibrary if os.name == "nt" else _ctypes.dlclose
            unload(library._handle)


def _list_voices(kind: _Voice | None) -> list[tuple[str, str, str]]:
    """(language code, name, identifier) of every voice file of that kind."""
    with _fresh_library() as (library, _):
        voices = library.espeak_ListVoices(ctypes.byref(kind) if kind is not None else None)
        found = []
        while voices[len(found)]:
            voice = voices[len(found)].contents
            code = ctypes.string_at(voice.languages + 1).decode()  # a priority byte comes first
            found.append((code, voice.name.decode(), voice.identifier.decode()))
        return found


@functools.cache
def _voices_by_language() -> dict[str, tuple[str, str]]:
    """Language code → (name, identifier). Where a code has two voices, the first is meant.

    Left out: voices of another synthesiser (MBROLA), and languages whose dictionary the wheel lacks, which stay mute.
    """
    found = reversed(_list_voices(None))
    return {c.lower(): (name, file) for c, name, file in found if not file.startswith("mb/") and c not in _MUTE}


@functools.cache
def language_names() -> dict[str, str]:
    """Language code, in lower case → its name in English."""
    return {code: name for code, (name, _) in _voices_by_language().items()}


@functools.cache
def variant_names() -> tuple[str, ...]:
    """Names of the speakers that any language can be spoken by, e.g. "f3"."""
    wanted = ctypes.create_string_buffer(b"variant")  # held: the structure keeps no more than its address
    spec = _Voice(languages=ctypes.addressof(wanted))
    return tuple(sorted(identifier.removeprefix("!v/") for _, _, identifier in _list_voices(spec)))


def synthesize(text: str, language: str, variant: str | None, rate: int) -> tuple[np.ndarray, int, list[Mark]]:
    """Speak `text`: audio `(samples,)` int16, its sampling rate, and the marks of its phonemes in order of time."""
    pcm = bytearray()  # in one piece: thousands of small ones would leave holes in the memory
    marks: list[Mark] = []
    word: str | None = None

    def collect(samples, count, events) -> int:
        nonlocal word
        if samples and count > 0:
            pcm.extend(ctypes.string_at(samples, count * ctypes.sizeof(ctypes.c_short)))
        index = 0
        while events[index].type:
            event = events[index]
            if event.type == _EVENT_WORD:
                first = event.text_position - 1  # espeak counts characters from 1
                word = text[first : first + event.length].strip(_PUNCTUATION) or None
            elif event.type == _EVENT_PHONEME:
                # Eight bytes, without a closing zero where the symbol fills them.
                raw = ctypes.string_at(ctypes.addressof(event.id), 8).split(b"\0")[0]
                marks.append(Mark(raw.decode("utf-8", errors="ignore"), event.sample, word))
            index += 1
        return 0

    callback = _SynthCallback(collect)
    encoded = text.encode() + b"\0"
    _, name = _voices_by_language()[language]  # not the code: espeak does not find "en-gb" by it
    name = name if variant is None else f"{name}+{variant}"
    with _fresh_library() as (library, sampling_rate):
        if library.espeak_SetVoiceByName(name.encode()) != 0:
            raise RuntimeError(f"espeak-ng has no voice {name!r}")
        library.espeak_SetParameter(_PARAMETER_RATE, rate, 0)
        library.espeak_SetSynthCallback(callback)
        library.espeak_Synth(encoded, len(encoded), 0, 0, 0, _CHARS_UTF8, None, None)
        library.espeak_Synchronize()
    return np.frombuffer(pcm, np.int16), sampling_rate, marks
