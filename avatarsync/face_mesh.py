"""The face mesh: which landmark is what, the neutral face, and the triangles that carry the picture.

Landmarks are MediaPipe's first 468. To them come two rings of points around the face oval, in which motion fades to
nothing, so that a dropping jaw neither tears nor drags the background. Positions are fractions of the crop's side.
The neutral face and the triangulation were computed from the training data (`training/build_face_mesh.py`).
"""

from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file

MESH_FILE = Path(__file__).parent / "tables" / "face_mesh.safetensors"

# Four rings of lip landmarks from the outside in, each from the right corner along the lower lip to the left corner
# and back along the upper lip. Points of equal position in the rings lie on one line across the lip.
LIP_RINGS = (
    (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185),
    (76, 77, 90, 180, 85, 16, 315, 404, 320, 307, 306, 408, 304, 303, 302, 11, 72, 73, 74, 184),
    (62, 96, 89, 179, 86, 15, 316, 403, 319, 325, 292, 407, 272, 271, 268, 12, 38, 41, 42, 183),
    (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191),
)
OUTER_LIPS, INNER_LIPS = LIP_RINGS[0], LIP_RINGS[-1]
LIP_POINTS = [index for ring in LIP_RINGS for index in ring]  # 80, ring after ring
# Positions in a ring: right corner 0, lower lip 1…9, left corner 10, upper lip 11…19 (left to right: mirrored).
LOWER_LIP_POSITIONS = tuple(range(1, 10))
UPPER_LIP_POSITIONS = tuple(range(19, 10, -1))

# Eyelid landmarks of each eye, from the outer to the inner corner or back; upper and lower in the same order.
RIGHT_UPPER_LID, RIGHT_LOWER_LID = (246, 161, 160, 159, 158, 157, 173), (7, 163, 144, 145, 153, 154, 155)
LEFT_UPPER_LID, LEFT_LOWER_LID = (466, 388, 387, 386, 385, 384, 398), (249, 390, 373, 374, 380, 381, 382)
RIGHT_EYE_CONTOUR = (33, *RIGHT_LOWER_LID, 133, *reversed(RIGHT_UPPER_LID))
LEFT_EYE_CONTOUR = (263, *LEFT_LOWER_LID, 362, *reversed(LEFT_UPPER_LID))

FACE_OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
# Rings around the oval: size relative to it, and the share of the oval's motion that is left there. With these it gets
# less as evenly as it can, and a dropping chin does not fold the neck.
FADE_RINGS = ((1.12, 0.57), (1.28, 0.0))

SKIN, MOUTH_INTERIOR, EYE_INTERIOR = 0, 1, 2


@cache
def _tables() -> dict[str, torch.Tensor]:
    return load_file(MESH_FILE)


def neutral_landmarks() -> torch.Tensor:
    """The neutral face `(468, 2)`, as fractions of a pose-driven crop's side: lips closed, eyes open."""
    return _tables()["neutral_landmarks"].clone()


def triangles() -> torch.Tensor:
    """`(F, 3)` vertex indices into the 468 landmarks followed by the fade rings."""
    return _tables()["triangles"].long()


def triangle_kinds() -> torch.Tensor:
    """`(F,)`: SKIN, MOUTH_INTERIOR or EYE_INTERIOR."""
    return _tables()["triangle_kinds"].long()


def add_fade_rings(landmarks: torch.Tensor) -> torch.Tensor:
    """Mesh vertices `(..., 468 + 72, 2)` of a resting face `(..., 468, 2)`: the rings lie about the oval's centre."""
    oval = landmarks[..., FACE_OVAL, :]
    centre = oval.mean(-2, keepdim=True)
    return torch.cat([landmarks, *(centre + size * (oval - centre) for size, _ in FADE_RINGS)], dim=-2)


def move_vertices(vertices: torch.Tensor, displacement: torch.Tensor) -> torch.Tensor:
    """Vertices `(..., V, 2)` after the landmarks move by `displacement` `(..., 468, 2)`; the rings follow in part."""
    oval = displacement[..., FACE_OVAL, :]
    return vertices + torch.cat([displacement, *(share * oval for _, share in FADE_RINGS)], dim=-2)
