"""Faces in the frames that recognition networks were trained on: affine maps from landmarks, sampled differentiably.

Points are `(x, y)` in pixels with pixel centres at integers. A *sampling matrix* `(B, 2, 3)` maps pixels of the
aligned face to pixels of the crop.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F

# More samples per pixel than this serve no crop of sensible size.
MAXIMUM_SAMPLES = 8

# Landmarks whose mean is each point of the networks' templates.
LEFT_EYE, RIGHT_EYE = (33, 133), (362, 263)  # corners; left and right as one sees them
NOSE_TIP, MOUTH_LEFT, MOUTH_RIGHT = (1,), (61,), (291,)


class CanonicalFrame(ABC):
    """Where a network wants the face."""

    side: int  # of the aligned face, in pixels

    @abstractmethod
    def sampling_matrix(self, landmarks: torch.Tensor) -> torch.Tensor:
        """`(B, 2, 3)` for landmarks `(B, 468, 2)` in pixels of the crop."""

    def align(self, crops: torch.Tensor, landmarks: torch.Tensor) -> torch.Tensor:
        """Aligned faces `(B, C, side, side)` of crops `(B, C, H, W)`; black (-1) outside the crop.

        Gradients reach the crops, not the landmarks: a face is not to look more alike by posing as another one's.
        """
        return sample_affine(crops, self.sampling_matrix(landmarks.detach()), self.side)


@dataclass(frozen=True)
class TemplateFrame(CanonicalFrame):
    """The similarity that fits points of the face to a template by least squares."""

    side: int
    template: tuple[tuple[float, float], ...]
    landmark_groups: tuple[tuple[int, ...], ...]
    # Which way least squares are taken: errors measured on the crop (dlib) or on the template (insightface).
    fit_on_template: bool

    def sampling_matrix(self, landmarks: torch.Tensor) -> torch.Tensor:
        points = torch.stack([landmarks[:, list(group)].mean(1) for group in self.landmark_groups], 1)  # (B, n, 2)
        template = points.new_tensor(self.template).expand_as(points)
        if self.fit_on_template:
            return invert_similarity(fit_similarity(points, template))
        return fit_similarity(template, points)


@dataclass(frozen=True)
class BoxFrame(CanonicalFrame):
    """The bounding box of all landmarks, stretched to a square, as face detectors' boxes are."""

    side: int

    def sampling_matrix(self, landmarks: torch.Tensor) -> torch.Tensor:
        low, high = landmarks.amin(1), landmarks.amax(1)  # (B, 2)
        scale = (high - low).clamp_min(1e-3) / self.side
        # The corners of the outer pixels, not their centres, lie on the box.
        return torch.cat([torch.diag_embed(scale), (low + 0.5 * scale - 0.5)[..., None]], -1)


def fit_similarity(points: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Rotation, scale and shift `(B, 2, 3)` that take points `(B, n, 2)` to targets with the least squared error."""
    point_mean, target_mean = points.mean(1), targets.mean(1)
    x, y = (points - point_mean[:, None]).unbind(-1)
    u, v = (targets - target_mean[:, None]).unbind(-1)
    norm = (x.square() + y.square()).sum(1).clamp_min(1e-6)
    a, b = (x * u + y * v).sum(1) / norm, (x * v - y * u).sum(1) / norm
    linear = torch.stack([a, -b, b, a], -1).view(-1, 2, 2)
    return torch.cat([linear, target_mean[..., None] - linear @ point_mean[..., None]], -1)


def invert_similarity(matrix: torch.Tensor) -> torch.Tensor:
    """The inverse of similarities `(B, 2, 3)`."""
    linear = matrix[:, :, :2]
    norm = linear[:, :, 0].square().sum(1).clamp_min(1e-12)[:, None, None]
    inverse = linear.transpose(1, 2) / norm
    return torch.cat([inverse, -inverse @ matrix[:, :, 2:]], -1)


def sample_affine(pictures: torch.Tensor, matrix: torch.Tensor, side: int) -> torch.Tensor:
    """`(B, C, side, side)` of pictures `(B, C, H, W)` in [-1, 1] by sampling matrices `(B, 2, 3)`; bilinear.

    Pictures larger than the result are sampled several times per pixel, so that fine detail averages out instead of
    aliasing. The number depends on the sizes alone, so that no picture changes with its neighbours in the batch.
    """
    height, width = pictures.shape[-2:]
    samples = min(max(1, round(max(height, width) / side)), MAXIMUM_SAMPLES)
    count = side * samples
    steps = (torch.arange(count, device=pictures.device, dtype=matrix.dtype) + 0.5) / samples - 0.5
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], -1).view(1, -1, 3) @ matrix.transpose(1, 2)  # (B, count², 2)
    grid = (2 * points + 1) / points.new_tensor([width, height]) - 1
    grid = grid.view(-1, count, count, 2).to(pictures.dtype)
    # Zero outside the picture is grey in [-1, 1]: hence the shift to black.
    sampled = F.grid_sample(pictures + 1, grid, mode="bilinear", padding_mode="zeros", align_corners=False) - 1
    return F.avg_pool2d(sampled, samples) if samples > 1 else sampled


def _dlib_template() -> tuple[tuple[float, float], ...]:
    """dlib's five points (corners of both eyes, base of the nose) in a chip of 150 pixels with padding 0.25."""
    padding, side = 0.25, 150
    points = (
        (0.8595674595992, 0.2134981538014),
        (0.6460604764104, 0.2289674387677),
        (0.1205750620789, 0.2137274526848),
        (0.3340850613712, 0.2290642403242),
        (0.4901123135679, 0.6277975316475),
    )
    # dlib counts these from the corner of the chip, not from the centre of its first pixel: hence the half.
    return tuple(tuple((value + padding) / (1 + 2 * padding) * side - 0.5 for value in point) for point in points)


DLIB_FRAME = TemplateFrame(150, _dlib_template(), ((263,), (362,), (33,), (133,), (2,)), fit_on_template=False)
ARCFACE_FRAME = TemplateFrame(
    112,
    ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)),
    (LEFT_EYE, RIGHT_EYE, NOSE_TIP, MOUTH_LEFT, MOUTH_RIGHT),
    fit_on_template=True,
)
FACENET_FRAME = BoxFrame(160)
VGG_FACE_FRAME = BoxFrame(224)
