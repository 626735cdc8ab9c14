"""Geometry of face crops: similarity transforms, crop strategies and resampling.

Everything works on plain arrays so that labelling, training and inference share one definition of "a crop".
Points are `(x, y)` in pixels; pixel centres sit at integer coordinates. A *crop matrix* is a `(2, 3)` similarity that
maps picture coordinates to crop coordinates. Landmarks follow MediaPipe's 468-point face mesh.

The two strategies of the paper (Appendix A.3): `pose_driven` aligns eyes and nose base to fixed places in the crop,
so the codes need not say where the head is; `face_centric` is an upright square around the face box.
"""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from avatarsync.errors import FaceTurnedError, InvalidArgumentError, InvalidImageError
from avatarsync.face_mesh import OUTER_LIPS

MIN_PICTURE_SIDE = 128
NUM_LANDMARKS = 468
RIGHT_EYE_CORNERS = (33, 133)  # the subject's right eye: on the left of the picture
LEFT_EYE_CORNERS = (362, 263)
NOSE_TIP, NOSE_BASE = 1, 2
# Width of the mouth in the crop about it, and the least width that counts, in eye distances.
MOUTH_SCALE, MIN_MOUTH_WIDTH = 0.6, 0.5
# Of the nose tip from the middle of the pose-driven crop, in crop sides; 0.16 is a head turned by about 40 degrees.
MAX_TURN = 0.2

CropStrategy = Literal["pose_driven", "face_centric"]
Box = tuple[float, float, float, float]  # x, y, width, height in pixels

# Where the eye midpoint lies in the crop, and the share of its width that the face's size measure takes.
EYE_MIDPOINT = (0.5, 0.38)
FACE_SCALE = 0.33
# The nose keeps the scale right when the head turns and the eyes draw together in the picture.
EYE_TO_NOSE_RATIO = 1.25
FACE_CENTRIC_MARGIN = 1.6


def check_image(image: np.ndarray) -> None:
    """Raises InvalidImageError unless `image` is `(H, W, 3) uint8` with sides of at least 128 pixels."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        given = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InvalidImageError(f"expected an RGB array (height, width, 3) of uint8, got {given}")
    if min(image.shape[:2]) < MIN_PICTURE_SIDE:
        raise InvalidImageError(
            f"the picture has {image.shape[1]}x{image.shape[0]} pixels: use one of at least "
            f"{MIN_PICTURE_SIDE}x{MIN_PICTURE_SIDE}"
        )


def eye_centres(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Midpoints of the right and the left eye's corners, each `(..., 2)`, of `landmarks` `(..., 468, 2+)`."""
    right = landmarks[..., RIGHT_EYE_CORNERS, :2].mean(-2)
    left = landmarks[..., LEFT_EYE_CORNERS, :2].mean(-2)
    return right, left


def eye_distance(landmarks: np.ndarray) -> np.ndarray:
    """Distance of the two eye centres in pixels, `(...)`."""
    right, left = eye_centres(landmarks)
    return np.linalg.norm(left - right, axis=-1)


def keypoint_matrix(right_eye: np.ndarray, left_eye: np.ndarray, nose_base: np.ndarray, size: int) -> np.ndarray:
    """Crop matrix `(2, 3)` that puts the eye centres, `(2,)` each, level at a fixed place and scale."""
    middle = (right_eye + left_eye) / 2
    across = left_eye - right_eye
    down = nose_base - middle
    scale = FACE_SCALE * size / max(np.hypot(*across), EYE_TO_NOSE_RATIO * np.hypot(*down))
    angle = np.arctan2(across[1], across[0])
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    linear = np.array([[cos, sin], [-sin, cos]])
    offset = np.array(EYE_MIDPOINT) * size - linear @ middle
    return np.concatenate([linear, offset[:, None]], axis=1).astype(np.float32)


def pose_driven_matrix(landmarks: np.ndarray, size: int) -> np.ndarray:
    """Crop matrix `(2, 3)` that puts the eyes level at a fixed place and scale; `landmarks` `(468, 2+)` in pixels."""
    right, left = eye_centres(landmarks)
    return keypoint_matrix(right, left, landmarks[NOSE_BASE, :2], size)


def mouth_matrix(landmarks: np.ndarray, size: int) -> np.ndarray:
    """Crop matrix `(2, 3)` that puts the mouth level in the middle of `size` pixels; `landmarks` `(468, 2+)`."""
    right, left = landmarks[OUTER_LIPS[0], :2], landmarks[OUTER_LIPS[10], :2]
    across = left - right
    # A rounded mouth, or one seen from the side, keeps its surroundings in view.
    width = max(float(np.hypot(*across)), MIN_MOUTH_WIDTH * float(eye_distance(landmarks)), 1e-3)
    scale, angle = MOUTH_SCALE * size / width, np.arctan2(across[1], across[0])
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    linear = np.array([[cos, sin], [-sin, cos]])
    offset = (size - 1) / 2 - linear @ landmarks[list(OUTER_LIPS), :2].mean(0)
    return np.concatenate([linear, offset[:, None]], axis=1).astype(np.float32)


def turn_aside(landmarks: np.ndarray) -> float:
    """How far the head of `landmarks` `(468, 2+)` is turned: the nose tip's way from the middle of the pose-driven
    crop, in crop sides, positive to the picture's right."""
    return float(transform_points(landmarks[[NOSE_TIP], :2], pose_driven_matrix(landmarks, 1))[0, 0] - 0.5)


def check_frontal(landmarks: np.ndarray) -> None:
    """Raises FaceTurnedError for a face `(468, 2+)` that is turned aside too far to be animated."""
    if abs(turn_aside(landmarks)) > MAX_TURN:
        raise FaceTurnedError(
            "the face is turned too far aside to speak: use a picture that shows both corners of the mouth"
        )


def face_centric_matrix(box: Box, size: int) -> np.ndarray:
    """Crop matrix `(2, 3)` of an upright square, 1.6 times the face box `(x, y, width, height)`, about its centre."""
    x, y, width, height = box
    scale = size / (FACE_CENTRIC_MARGIN * max(width, height))
    centre = np.array([x + width / 2, y + height / 2])
    offset = size / 2 - scale * centre
    return np.array([[scale, 0, offset[0]], [0, scale, offset[1]]], np.float32)


def landmark_box(landmarks: np.ndarray) -> Box:
    """Bounding box `(x, y, width, height)` of landmarks `(468, 2+)`."""
    low, high = landmarks[:, :2].min(0), landmarks[:, :2].max(0)
    return float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])


def crop_matrix(landmarks: np.ndarray, size: int, strategy: CropStrategy = "pose_driven") -> np.ndarray:
    """Crop matrix `(2, 3)` of a face, `landmarks` `(468, 2+)` in pixels, by either strategy (Appendix A.3).

    Raises:
        InvalidArgumentError: for any other strategy.
    """
    if strategy == "pose_driven":
        return pose_driven_matrix(landmarks, size)
    if strategy == "face_centric":
        return face_centric_matrix(landmark_box(landmarks), size)
    raise InvalidArgumentError(f"unknown crop strategy {strategy!r}: use 'pose_driven' or 'face_centric'")


def smooth_matrices(matrices: np.ndarray, kernel: tuple[float, ...] = (1, 2, 3, 2, 1)) -> np.ndarray:
    """Crop matrices `(T, 2, 3)` of a video, averaged over neighbouring frames so that crops do not jitter."""
    weights = np.asarray(kernel, np.float32) / np.sum(kernel)
    reach = len(weights) // 2
    padded = np.pad(matrices, ((reach, reach), (0, 0), (0, 0)), mode="edge")
    return sum(w * padded[i : i + len(matrices)] for i, w in enumerate(weights)).astype(np.float32)


def transform_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points `(..., N, 2)` under matrices `(..., 2, 3)`."""
    return points[..., :2] @ np.swapaxes(matrix[..., :2], -1, -2) + matrix[..., None, :, 2]


def invert_matrix(matrix: np.ndarray) -> np.ndarray:
    """The `(2, 3)` matrix that undoes `matrix`."""
    linear = np.linalg.inv(matrix[:, :2].astype(np.float64))
    return np.concatenate([linear, -linear @ matrix[:, 2:].astype(np.float64)], axis=1).astype(np.float32)


def widen_matrix(matrix: np.ndarray, size: int, factor: float) -> np.ndarray:
    """Crop matrix `(2, 3)` that covers `factor` times the width about the same centre, in as many pixels."""
    widened = matrix / factor
    widened[:, 2] += (size - 1) / 2 * (1 - 1 / factor)
    return widened.astype(np.float32)


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`image` `(H, W, 3) uint8` at `size` (width, height): bilinear, low-passed where it shrinks."""
    source = torch.from_numpy(np.require(image, requirements="CW")).permute(2, 0, 1)[None]
    # On uint8 this is ten times as fast as PIL for pictures of 4K.
    resized = F.interpolate(source, size=size[::-1], mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def letterbox(image: np.ndarray, size: int, fill: int = 127) -> tuple[np.ndarray, np.ndarray]:
    """Fit `image` `(H, W, 3) uint8` into the middle of a square, aspect ratio kept, low-passed where it shrinks.

    Returns the square `(size, size, 3) uint8` and the matrix `(2, 3)` picture → square.
    """
    height, width = image.shape[:2]
    scale = size / max(height, width)
    fitted = (max(1, round(width * scale)), max(1, round(height * scale)))
    resized = resize(image, fitted)
    left, top = (size - fitted[0]) // 2, (size - fitted[1]) // 2
    square = np.full((size, size, 3), fill, np.uint8)
    square[top : top + fitted[1], left : left + fitted[0]] = resized
    scale_x, scale_y = fitted[0] / width, fitted[1] / height
    # Resizing counts from the pixels' corners, matrices from their centres: hence the half pixels.
    offset_x, offset_y = left + 0.5 * scale_x - 0.5, top + 0.5 * scale_y - 0.5
    return square, np.array([[scale_x, 0, offset_x], [0, scale_y, offset_y]], np.float32)


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes (x, y, width, height)."""
    across = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    down = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(0.0, across) * max(0.0, down)
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)


def face_view(image: np.ndarray, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """The part of `image` around `box`, shrunk where the face is huge, and the matrix `(2, 3)` picture → part.

    It keeps at least twice the pixels that the landmark head sees: the passes then resample a small array.
    """
    x, y, width, height = box
    factor = max(1, int(max(width, height) // 200))
    if factor == 1:
        return image, np.array([[1, 0, 0], [0, 1, 0]], np.float32)
    reach = 1.5 * max(width, height)
    middle_x, middle_y = x + width / 2, y + height / 2
    left, top = max(0, int(middle_x - reach)), max(0, int(middle_y - reach))
    right, bottom = int(middle_x + reach) + 1, int(middle_y + reach) + 1
    view = image[top:bottom, left:right]
    height, width = view.shape[0] // factor, view.shape[1] // factor
    view = resize(view[: height * factor, : width * factor], (width, height))
    offset = np.array([0.5 - left, 0.5 - top]) / factor - 0.5
    return view, np.array([[1 / factor, 0, offset[0]], [0, 1 / factor, offset[1]]], np.float32)


def tiles(height: int, width: int, side: int) -> list[tuple[int, int, int, int]]:
    """Squares (left, top, right, bottom) that cover a picture, each overlapping the next by at least half."""
    lefts, tops = (
        np.linspace(0, max(0, extent - side), 1 + int(np.ceil(2 * max(0, extent - side) / side))).astype(int)
        for extent in (width, height)
    )
    return [(int(x), int(y), min(int(x) + side, width), min(int(y) + side, height)) for y in tops for x in lefts]


def warp_image(image: np.ndarray, matrix: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Resample `image` `(H, W, C) uint8` into a crop `(height, width, C) uint8` under a similarity `(2, 3)`.

    Bicubic; a picture that shrinks is low-passed first, since a face in a 4K portrait would alias otherwise. Outside
    the picture its edge pixels continue.
    """
    height, width = (size, size) if isinstance(size, int) else size
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2].astype(np.float64)))))
    # Only the part of the picture under the crop takes part: a small face in a large photograph stays cheap.
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], np.float32)
    inside = transform_points(corners, invert_matrix(matrix))
    margin = int(np.ceil(3 / min(scale, 1.0)))
    low = np.floor(inside.min(0)).astype(int) - margin
    high = np.ceil(inside.max(0)).astype(int) + margin + 1
    low = np.clip(low, 0, [image.shape[1] - 1, image.shape[0] - 1])
    high = np.clip(high, low + 1, [image.shape[1], image.shape[0]])
    patch = np.array(image[low[1] : high[1], low[0] : high[0]])  # a copy: the picture may be read-only
    source = torch.from_numpy(patch).permute(2, 0, 1)[None].float()  # (1, C, h, w)
    offset = low.astype(np.float64)
    shrink = np.ones(2)
    if scale < 0.9:
        reduced = [max(2, round(source.shape[2] * scale)), max(2, round(source.shape[3] * scale))]
        shrink = np.array([reduced[1] / source.shape[3], reduced[0] / source.shape[2]])
        source = F.interpolate(source, size=reduced, mode="bilinear", antialias=True, align_corners=False)
    inverse = invert_matrix(matrix).astype(np.float64)
    ys, xs = np.mgrid[0:height, 0:width]
    grid = np.stack([xs, ys], -1).reshape(-1, 2) @ inverse[:, :2].T + inverse[:, 2] - offset
    grid = (grid + 0.5) * shrink - 0.5
    extent = np.array([source.shape[3], source.shape[2]])
    grid = (2 * grid + 1) / extent - 1
    sampled = F.grid_sample(
        source,
        torch.from_numpy(grid.reshape(1, height, width, 2).astype(np.float32)),
        mode="bicubic",
        padding_mode="border",
        align_corners=False,
    )
    return sampled[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()
