"""A held-out portrait: a face that the model never saw says a sentence full of closures and pauses."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from layouts import PICTURE_SUFFIXES

from avatarsync import AvatarSyncPipeline
from avatarsync.metrics import inner_lip_gap
from avatarsync.phonemes import Speech
from avatarsync.video import load_image

from .clips import FPS
from .landmarks import Landmarker, track_face, track_faces
from .motion import Closures, StillFlicker, changed_outside, closures, flicker_with_still_lips

# As many open vowels as closures, so that the 90th percentile of the opening is that of an open mouth.
SENTENCE = "My father bought a farm. Bob parked a big blue car! Mum and Pam are happy at home."
# A portrait whose lips are further apart than this, in eye distances, shows its teeth.
TOOTHY_GAP = 0.05


@dataclass
class PortraitResult:
    """`toothy`: whether the portrait itself shows teeth; `opening`: the 90th percentile of the inner-lip gap."""

    name: str
    toothy: bool
    opening: float
    closures: Closures
    closures_smooth: Closures  # by the landmarks that are smoothed in time
    flicker_still: StillFlicker
    changed_outside: int


def held_out_portraits(folders: list[Path], every: int) -> list[Path]:
    """Every n-th picture of all folders together, sorted by name, from the first."""
    files = [path for folder in folders for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES]
    return sorted(files, key=lambda path: path.stem)[::every]


def measure_portrait(path: Path, talk: AvatarSyncPipeline, speech: Speech, landmarker: Landmarker) -> PortraitResult:
    """Let the portrait say `speech` and measure its closures.

    Raises:
        AvatarSyncError: it cannot be read or animated, or no face is seen in the video.
    """
    image = load_image(path)
    own = track_face(landmarker, image[None], FPS, smooth=False)
    frames = talk(image, speech=speech, fps=FPS, seed=0).frames
    track = track_faces(landmarker, frames, FPS)
    return PortraitResult(
        path.stem,
        bool(inner_lip_gap(own)[0] > TOOTHY_GAP),
        float(np.percentile(inner_lip_gap(track.exact), 90)),
        closures(track.exact, speech.track, FPS),
        closures(track.smooth, speech.track, FPS),
        flicker_with_still_lips(frames, track.exact),
        changed_outside(frames, image, own[0]),
    )
