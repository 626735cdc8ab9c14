"""AvatarSyncProcessor: speech → what the model eats, by the Phoneme-to-Visual Mapping and the schedule."""

import warnings
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from transformers import AutoProcessor
from transformers.processing_utils import ProcessorMixin

from .articulators import unit_articulators
from .configuration_avatarsync import AvatarSyncConfig
from .errors import AvatarSyncWarning, InvalidMappingError, InvalidTrackError
from .phonemes import SILENCE, Speech, VisualMapping
from .schedule import FrameSchedule, shown_keyframe_times, surround_with_rest, timed_units

BILABIAL = "m"  # its unit is /m b p/
# Seconds of silence between words that are a pause; heads do not nod at less.
SHORTEST_PAUSE = 0.2
TRACK_TOLERANCE = 0.1  # seconds that a track may outlast its audio


@dataclass
class ScheduledSpeech:
    """Units and frames of one clip.

    Attributes:
        unit_ids: int64 `(T_s,)`, with silence before and after the clip.
        durations: float32 `(T_s,)` seconds of each unit.
        keyframe_times: float64 `(T_s,)` seconds, when each unit is shown: see `shown_keyframe_times`.
        frames: the frames' schedule.
        silent_unit: id of the unit of silence.
        articulators: float64 `(T_s, 5)`, what each unit asks of tongue and lips: see `articulators`.
    """

    unit_ids: torch.Tensor
    durations: torch.Tensor
    keyframe_times: np.ndarray
    frames: FrameSchedule
    silent_unit: int
    articulators: np.ndarray

    def spoken(self) -> np.ndarray:
        """Start and end `(N, 2)` in seconds of what is spoken without a pause, in order."""
        half = self.durations.double().numpy() / 2
        spans = np.stack([self.keyframe_times - half, self.keyframe_times + half], 1)
        spans = spans[(self.unit_ids != self.silent_unit).numpy()]
        pause = spans[1:, 0] - spans[:-1, 1] >= SHORTEST_PAUSE
        return np.stack([spans[np.r_[True, pause][: len(spans)], 0], spans[np.r_[pause, True][: len(spans)], 1]], 1)


class AvatarSyncProcessor(ProcessorMixin):
    """Holds what a checkpoint was trained to understand of speech.

    Args:
        visual_mapping: phoneme → visual unit table as `VisualMapping.to_dict` writes it; None is the package's own.
        fps: frame rate when the user names none.

    Raises:
        InvalidMappingError: the table is not one.
    """

    attributes: list[str] = []

    def __init__(self, visual_mapping: dict | None = None, fps: int = 25, **kwargs):
        super().__init__(**kwargs)
        self.visual_mapping = visual_mapping
        self.fps = fps
        self.mapping = VisualMapping.default() if visual_mapping is None else VisualMapping.from_dict(visual_mapping)

    def __call__(self, speech: Speech, fps: int | float | str | Fraction | None = None) -> ScheduledSpeech:
        """Schedule a speech's units, keyframes and frames.

        Raises:
            InvalidFrameRateError: fps outside 10 to 60.
            InvalidTrackError: the track overlaps itself, runs backwards or outlasts the audio.
        """
        frames = FrameSchedule(speech.duration, self.fps if fps is None else fps)
        speech.track.validate()
        if len(speech.track) and speech.track[-1].end > speech.duration + TRACK_TOLERANCE:
            end = speech.track[-1].end
            # In milliseconds the track would end with its audio, or somewhat before.
            likely = speech.duration / 2 <= end / 1000 <= speech.duration + TRACK_TOLERANCE
            advice = "shorten the track, or lengthen the audio with silence"
            advice = "give its times in seconds, not in milliseconds" if likely else advice
            raise InvalidTrackError(f"the track ends at {end:.2f} s, its audio at {speech.duration:.2f} s: {advice}")
        unknown = [(index, p.symbol) for index, p in enumerate(speech.track) if not self.mapping.knows(p.symbol)]
        if unknown:
            named = ", ".join(f"{symbol!r} (entry {index})" for index, symbol in unknown[:5])
            more = " and more" if len(unknown) > 5 else ""
            warnings.warn(
                f"no such phoneme is known as {named}{more}: "
                "write IPA or ARPAbet symbols, else the mouth is neutral there",
                AvatarSyncWarning,
                stacklevel=2,
            )
        silent_unit = self.mapping.unit_id(SILENCE)
        units = surround_with_rest(timed_units(speech.track, self.mapping, speech.duration), silent_unit)
        shown = shown_keyframe_times(units, self.mapping.unit_id(BILABIAL), frames.fps)
        return ScheduledSpeech(
            torch.tensor([unit.unit_id for unit in units]),
            torch.tensor([unit.duration for unit in units], dtype=torch.float32),
            shown,
            frames,
            silent_unit,
            unit_articulators([self.mapping.units[unit.unit_id] for unit in units], shown),
        )

    def check_units(self, num_units: int) -> None:
        """Raises InvalidMappingError unless the mapping has the model's number of units."""
        if len(self.mapping.units) != num_units:
            raise InvalidMappingError(
                f"the mapping has {len(self.mapping.units)} units, the model was trained for {num_units}: "
                "give a table with the same units"
            )

    def to_dict(self) -> dict:
        """What `save_pretrained` writes."""
        return {
            "processor_class": type(self).__name__,
            "visual_mapping": self.visual_mapping,
            "fps": self.fps,
        }


AutoProcessor.register(AvatarSyncConfig, AvatarSyncProcessor)
