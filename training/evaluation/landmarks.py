"""Landmarks of every frame of a video, by MediaPipe or by the bundled face aligner.

The same landmarker with the same settings looks at generated and at real frames, at each frame for itself; measures
are of those landmarks. MediaPipe looks a second time in its video mode, and what curves and closures are there stands
beside them. It smooths landmarks in time by as much as a face is small and still: an opening is dragged on for ten
frames, and of a mouth's width, which varies by 3 %, so little detail is left that r falls by 0.01 from one lag to the
next, and where it is highest says little of timing; the table holds lags of both against the goal all the same.
"""

from dataclasses import dataclass

import numpy as np
from landmarkers import BundledLandmarker, MediaPipeLandmarker

from avatarsync.errors import FaceNotFoundError

MAX_LOST = 0.1  # of a video's frames; their landmarks are interpolated in time

Landmarker = BundledLandmarker | MediaPipeLandmarker


def describe_landmarker(landmarker: Landmarker) -> str:
    """What looks, for the protocol."""
    mediapipe = isinstance(landmarker, MediaPipeLandmarker)
    return "MediaPipe Face Landmarker" if mediapipe else "AvatarSync's bundled face aligner"


@dataclass
class FaceTrack:
    """Landmarks `(T, 468, 2)` of a video: smoothed in time, and of each frame on its own."""

    smooth: np.ndarray
    exact: np.ndarray


def track_faces(landmarker: Landmarker, frames: np.ndarray, fps: float) -> FaceTrack:
    """Look at `frames` `(T, H, W, 3)` in both ways; the face aligner knows no time and looks once.

    Raises:
        FaceNotFoundError: see `track_face`.
    """
    exact = track_face(landmarker, frames, fps, smooth=False)
    if isinstance(landmarker, BundledLandmarker):
        return FaceTrack(exact, exact)
    return FaceTrack(track_face(landmarker, frames, fps, smooth=True), exact)


def track_face(landmarker: Landmarker, frames: np.ndarray, fps: float, smooth: bool) -> np.ndarray:
    """Landmarks `(T, 468, 2)` of `frames` `(T, H, W, 3)`.

    Raises:
        FaceNotFoundError: a face in fewer than 90 % of the frames.
    """
    with landmarker.watch(video=smooth) as find:
        return fill_lost([find(frame, int(index * 1000 / fps)) for index, frame in enumerate(frames)])


def fill_lost(found: list[np.ndarray | None]) -> np.ndarray:
    """Landmarks `(T, 468, 2)`; those of frames without any lie on the line between their neighbours'.

    Raises:
        FaceNotFoundError: more than a tenth of the frames have none.
    """
    seen = np.array([index for index, points in enumerate(found) if points is not None])
    if len(found) - len(seen) > MAX_LOST * len(found):
        raise FaceNotFoundError(f"the landmarker sees a face in only {len(seen)} of {len(found)} frames")
    points = np.stack([found[index] for index in seen]).astype(np.float64)
    right = np.searchsorted(seen, np.arange(len(found))).clip(0, len(seen) - 1)
    left = np.where(seen[right] > np.arange(len(found)), right - 1, right).clip(0)
    span = np.maximum(seen[right] - seen[left], 1)
    share = ((np.arange(len(found)) - seen[left]) / span).clip(0, 1)[:, None, None]
    return points[left] * (1 - share) + points[right] * share
