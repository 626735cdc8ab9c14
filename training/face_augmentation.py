"""What happens to training pictures of `FaceAlignerModel`: geometry, things in front of the face, cameras, encoders.

Pictures are float tensors `(…, 3, H, W)` in 0…255, until `photograph` brings them to the network's -1…1.
"""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import skimage.data
import torch
import torch.nn.functional as F
from PIL import Image

from avatarsync.image_processing_face import invert_matrix, transform_points

# Pictures without faces; astronaut has one, chelsea, coffee and motorcycle are kept for the evaluation.
FACELESS = ("brick", "cell", "chessboard_GRAY", "chessboard_RGB", "clock_motion", "coins", "color", "grass", "gravel",
            "horse", "hubble_deep_field", "ihc", "moon", "page", "phantom", "retina", "rocket", "text")  # fmt: skip
HELD_OUT_FACELESS = ("chelsea", "coffee", "motorcycle_left")
MIN_BAND = 12  # pixels


def faceless_picture(name: str) -> np.ndarray:
    """`(H, W, 3) uint8` of scikit-image's example picture `name`."""
    folder = Path(skimage.data.__file__).parent
    path = next(folder / f"{name}{ending}" for ending in (".png", ".jpg") if (folder / f"{name}{ending}").exists())
    return np.array(Image.open(path).convert("RGB"))


def warp_picture(picture: np.ndarray, matrix: np.ndarray, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`(H, W, 3) uint8` under `matrix` `(2, 3)`, picture → square of `size`.

    Edge pixels continue outside. A picture that shrinks to half or less is averaged down first.

    Returns:
        The square `(3, size, size)`, and where in it the picture is `(size, size)`.
    """
    inverse = invert_matrix(matrix).astype(np.float64)
    # Only the part of the picture that the square shows takes part.
    corners = transform_points(np.array([[0, 0], [size, 0], [0, size], [size, size]], np.float64), inverse)
    extent = np.array([picture.shape[1], picture.shape[0]])
    shrink = int(max(1, np.floor(1 / np.sqrt(abs(np.linalg.det(matrix[:, :2]))))))
    low = np.clip(np.floor(corners.min(0)).astype(int) - shrink, 0, extent - 1)
    high = np.clip(np.ceil(corners.max(0)).astype(int) + shrink + 1, low + 1, extent)
    part = torch.from_numpy(picture[low[1] : high[1], low[0] : high[0]]).permute(2, 0, 1)[None].float()
    shrink = min(shrink, *part.shape[-2:])
    if shrink > 1:
        part = F.avg_pool2d(part, shrink)
    inverse[:, 2] = (inverse[:, 2] - low + 0.5) / shrink - 0.5
    inverse[:, :2] /= shrink
    # grid_sample counts from -1 to 1 between the outer edges of the outer pixels.
    scale = 2 / np.array([part.shape[-1], part.shape[-2]])
    linear, offset = inverse[:, :2] * scale[:, None], (inverse[:, 2] + 0.5) * scale - 1
    line = torch.arange(size, dtype=torch.float32)
    grid = line[None, :, None] * torch.from_numpy(linear[:, 0]).float()
    grid = grid + line[:, None, None] * torch.from_numpy(linear[:, 1]).float() + torch.from_numpy(offset).float()
    square = F.grid_sample(part, grid[None], padding_mode="border", align_corners=False)[0]
    return square, (grid.abs() < 1).all(-1)


def similarity(angle: float, scale: float, mirrored: bool) -> np.ndarray:
    """The matrix `(2, 2)` that mirrors (left to right), then turns and scales."""
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    sign = -1.0 if mirrored else 1.0
    return np.array([[cos * sign, -sin], [sin * sign, cos]])


def beside_the_face(picture: np.ndarray, landmarks: np.ndarray, random: np.random.Generator) -> np.ndarray | None:
    """A band of a picture `(H, W, 3)` above or beside its face, or None where there is no room."""
    low, high = landmarks.min(0), landmarks.max(0)
    margin = 0.1 * (high - low)
    low, high = (low - margin).astype(int), (high + margin).astype(int)
    height, width = picture.shape[:2]
    bands = [picture[: max(low[1], 0)], picture[:, : max(low[0], 0)], picture[:, min(high[0], width) :]]
    bands = [band for band in bands if min(band.shape[:2]) >= MIN_BAND]
    return bands[random.integers(len(bands))] if bands else None


class Backgrounds:
    """Pictures without a face: examples, noise, and what stands beside the faces of the training pictures.

    Args:
        draw_picture: draws a training picture `(H, W, 3) uint8` and its landmarks `(468, 2)`.
    """

    def __init__(self, draw_picture: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]):
        self.draw_picture = draw_picture
        self.faceless = [faceless_picture(name) for name in FACELESS]

    def draw(self, random: np.random.Generator, size: int) -> torch.Tensor:
        """`(3, size, size)`."""
        kind = random.random()
        if kind < 0.15:
            coarse = torch.from_numpy(random.uniform(0, 255, (1, 3, *random.integers(1, 24, 2))).astype(np.float32))
            return F.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False)[0]
        picture = None if kind < 0.55 else beside_the_face(*self.draw_picture(random), random)
        if picture is None:
            picture = self.faceless[random.integers(len(self.faceless))]
            side = int(min(picture.shape[:2]) * random.uniform(0.3, 1.0))
            left, top = (random.integers(0, extent - side + 1) for extent in (picture.shape[1], picture.shape[0]))
            picture = picture[top : top + side, left : left + side]
        pixels = torch.from_numpy(np.ascontiguousarray(np.rot90(picture, random.integers(4)))).permute(2, 0, 1)[None]
        return F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)[0].float()

    def occlude(self, pixels: torch.Tensor, random: np.random.Generator, share: float, largest: float) -> None:
        """Lay patches of background, sides up to `largest`·S, on a `share` of `pixels` `(B, 3, S, S)`, in place."""
        size = pixels.shape[-1]
        for index in np.flatnonzero(random.random(len(pixels)) < share):
            height, width = (random.uniform(0.06, largest, 2) * size).astype(int)
            top, left = random.integers(0, size - height), random.integers(0, size - width)
            patch = self.draw(random, max(height, width))[:, :height, :width]
            pixels[index, :, top : top + height, left : left + width] = patch


def scrambled(face: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
    """`(3, S, S)` cut into 4×4 blocks in random order: skin and features, yet no face."""
    side = face.shape[-1] // 4
    blocks = face.view(3, 4, side, 4, side).permute(1, 3, 0, 2, 4).reshape(16, 3, side, side)
    blocks = blocks[torch.from_numpy(random.permutation(16))]
    return blocks.view(4, 4, 3, side, side).permute(2, 0, 3, 1, 4).reshape(3, 4 * side, 4 * side)


def photograph(pixels: torch.Tensor, random: np.random.Generator, generator: torch.Generator) -> torch.Tensor:
    """Light, colour, blur, noise and compression: `(B, 3, S, S)` in 0…255 → in -1…1."""
    batch, size = len(pixels), pixels.shape[-1]

    def per_picture(low, high, share, neutral=1.0):
        values = np.where(random.random(batch) < share, random.uniform(low, high, batch), neutral)
        return torch.from_numpy(values.astype(np.float32)).view(-1, 1, 1, 1)

    for index in np.flatnonzero(random.random(batch) < 0.3):
        small = int(size * random.uniform(0.25, 0.8))
        reduced = F.interpolate(pixels[index : index + 1], size=(small, small), mode="bilinear", antialias=True)
        pixels[index] = F.interpolate(reduced, size=(size, size), mode="bicubic", align_corners=False)[0]
    pixels = pixels.clamp_(0, 255)
    grey = pixels.mean(1, keepdim=True)
    pixels = grey + (pixels - grey) * per_picture(0, 1.6, 0.5)
    pixels = pixels * torch.from_numpy(random.normal(1, 0.06, (batch, 3, 1, 1)).astype(np.float32))
    level = pixels.mean((1, 2, 3), keepdim=True)
    pixels = level + (pixels - level) * per_picture(0.45, 1.4, 0.7)
    pixels = pixels * per_picture(0.4, 1.5, 0.6)
    ramp = torch.linspace(-1, 1, size).view(1, 1, 1, -1) * per_picture(-0.5, 0.5, 0.4, 0.0)
    ramp = ramp + torch.linspace(-1, 1, size).view(1, 1, -1, 1) * per_picture(-0.4, 0.4, 0.4, 0.0)
    pixels = (pixels * (1 + ramp)).clamp(0, 255)
    gamma = per_picture(0.6, 1.6, 0.4)
    for index in np.flatnonzero(gamma.flatten() != 1):
        pixels[index] = 255 * (pixels[index] / 255).pow(gamma[index])
    noise = per_picture(1, 14, 0.35, 0.0)
    for index in np.flatnonzero(noise.flatten()):
        pixels[index] += torch.randn(pixels.shape[1:], generator=generator) * noise[index]
    pixels = pixels.clamp_(0, 255)
    for index in np.flatnonzero(random.random(batch) < 0.15):
        pixels[index] = jpeg(pixels[index], int(random.uniform(15, 75)))
    return pixels / 127.5 - 1


def jpeg(pixels: torch.Tensor, quality: int) -> torch.Tensor:
    """`(3, S, S)` in 0…255 through JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).byte().numpy()).save(buffer, "jpeg", quality=quality)
    return torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1).float()
