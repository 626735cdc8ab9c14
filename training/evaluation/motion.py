"""What is measured of any generated video, with or without a real one beside it."""

from dataclasses import dataclass

import numpy as np

from avatarsync.face_mesh import FACE_OVAL, INNER_LIPS, LEFT_EYE_CONTOUR, OUTER_LIPS, RIGHT_EYE_CONTOUR
from avatarsync.head_region import HEAD_FADE, HeadRegion
from avatarsync.image_processing_face import eye_distance, pose_driven_matrix, smooth_matrices, transform_points
from avatarsync.metrics import (
    Region,
    bilabial_centres,
    contour_region,
    inner_lip_gap,
    openings_at,
    region_mask,
    second_differences,
    silence_centres,
)
from avatarsync.phonemes import PhonemeTrack

# Widening of boxes, in shares of their own widths.
MOUTH_MARGIN, EYE_MARGIN = 0.25, 0.35
HEAD_MARGIN = 1.15  # of the ellipse about the head in which the renderer may move anything
# Lips are still about a frame if they move on the head by less than this, in eye distances, within three frames.
STILL_LIPS = 0.006
# What must not move: a jaw may drop behind lips that still touch.
MOUTH_POINTS = (*OUTER_LIPS, *INNER_LIPS, 152)


@dataclass
class Closures:
    """Openings as shares of the clip's 90th percentile: on each /m b p/ `(N,)` and in each silence `(M,)`."""

    bilabials: np.ndarray
    silences: np.ndarray


def closures(landmarks: np.ndarray, track: PhonemeTrack, fps: float) -> Closures:
    """Of a video with landmarks `(T, 468, 2)` in which `track` is spoken."""
    gap = inner_lip_gap(landmarks)
    return Closures(openings_at(gap, bilabial_centres(track), fps), openings_at(gap, silence_centres(track), fps))


def mouth_region(landmarks: np.ndarray, height: int, width: int) -> Region | None:
    """The mouth with a quarter of its width on all sides; of several frames, the mouth in all of them."""
    return contour_region(landmarks, OUTER_LIPS, MOUTH_MARGIN, height, width)


def cut(frame: np.ndarray, region: Region) -> np.ndarray:
    top, bottom, left, right = region
    return frame[top:bottom, left:right]


def changed_outside(frames: np.ndarray, image: np.ndarray, landmarks: np.ndarray) -> int:
    """How many pixels of all `frames` `(T, H, W, 3)` differ from `image` beyond the head that may move."""
    height, width = image.shape[:2]
    places = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)  # (H, W, 2)
    outside = HeadRegion.of_landmarks(landmarks[:, :2]).distance(places) > HEAD_MARGIN * HEAD_FADE
    pixels = image[outside]
    return sum(int((frame[outside] != pixels).any(-1).sum()) for frame in frames)


@dataclass
class StillFlicker:
    """Second differences inside the face, without the eyes, about frames in which the mouth stands still: all of lips
    and chin `(N,)`, or the inner-lip gap alone `(M,)`, behind which lips and jaw may move."""

    still_mouth: np.ndarray
    still_gap: np.ndarray


def head_matrices(landmarks: np.ndarray, size: int) -> np.ndarray:
    """Matrices `(T, 2, 3)` that bring the heads of a video, landmarks `(T, 468, 2)`, to one place, turn and size."""
    return smooth_matrices(np.stack([pose_driven_matrix(points, size) for points in landmarks]))


def flicker_with_still_lips(frames: np.ndarray, landmarks: np.ndarray) -> StillFlicker:
    """Of generated `frames` `(T, H, W, 3)` with landmarks `(T, 468, 2)`; blinks do not count. Lips that move with the
    head alone are still; what that does to the picture counts."""
    height, width = frames.shape[1:3]
    inside = region_mask(contour_region(landmarks, FACE_OVAL, 0, height, width), height, width)
    for eye in (LEFT_EYE_CONTOUR, RIGHT_EYE_CONTOUR):
        inside &= ~region_mask(contour_region(landmarks, eye, EYE_MARGIN, height, width), height, width)
    flicker = second_differences(frames, inside)
    held = transform_points(landmarks, head_matrices(landmarks, 1))
    points = held[:, list(MOUTH_POINTS)] / eye_distance(held)[:, None, None]
    gap = inner_lip_gap(landmarks)[:, None, None]
    return StillFlicker(flicker[_movement(points) < STILL_LIPS], flicker[_movement(gap) < STILL_LIPS])


def _movement(points: np.ndarray) -> np.ndarray:
    """How far the farthest moving of points `(T, P, 2 or 1)` comes within frames t-1 … t+1, `(T - 2,)`."""
    extent = np.ptp(np.stack([points[:-2], points[1:-1], points[2:]]), axis=0)
    return np.linalg.norm(extent, axis=-1).max(-1)


def flicker_outside_mouth(frames: np.ndarray, landmarks: np.ndarray) -> float:
    """Mean second difference of everything but the mouth's box of all frames."""
    height, width = frames.shape[1:3]
    return float(
        second_differences(frames, ~region_mask(mouth_region(landmarks, height, width), height, width)).mean()
    )
