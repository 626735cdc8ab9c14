"""Speech front end: text or a recording → timed phonemes → visual units (the paper's Tokenization and PVM)."""

from .audio import listen, load_audio
from .text import languages, speak, voices
from .types import SILENCE, Phoneme, PhonemeTrack, Speech
from .visual_mapping import VisualMapping

__all__ = [
    "SILENCE",
    "Phoneme",
    "PhonemeTrack",
    "Speech",
    "VisualMapping",
    "languages",
    "listen",
    "load_audio",
    "speak",
    "voices",
]
