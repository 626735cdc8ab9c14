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
MAX_BACKGROUND = 512


def faceless_picture(name: str, longest: int | None = None) -> np.ndarray:
    """`(H, W, 3) uint8` of scikit-image's example picture `name`, shrunk to `longest` pixels if it is larger."""
    folder = Path(skimage.data.__file__).parent
    path = next(folder / f"{name}{ending}" for ending in (".png", ".jpg") if (folder / f"{name}{ending}").exists())
    picture = Image.open(path).convert("RGB")
    if longest is not None:
        picture.thumbnail((longest, longest))
    return np.array(picture)


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
        self.faceless = [faceless_picture(name, MAX_BACKGROUND) for name in FACELESS]

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
    # One by one: a picture stays in the processor's cache while all of this happens to it.
    return torch.stack([photograph_one(picture, random, generator) for picture in pixels]).div_(127.5).sub_(1)


def photograph_one(picture: torch.Tensor, random: np.random.Generator, generator: torch.Generator) -> torch.Tensor:
    """The same for `(3, S, S)`, which stays in 0…255."""
    size = picture.shape[-1]

    def sometimes(share, low, high, otherwise):
        return random.uniform(low, high) if random.random() < share else otherwise

    if random.random() < 0.3:
        small = int(size * random.uniform(0.25, 0.8))
        picture = F.interpolate(picture[None], size=(small, small), mode="bilinear", antialias=True)
        picture = F.interpolate(picture, size=(size, size), mode="bicubic", align_corners=False)[0]
    picture = picture.clamp(0, 255)
    # Saturation, tint, contrast and brightness are one map of colours.
    saturation, contrast, brightness = (
        sometimes(0.5, 0, 1.6, 1),
        sometimes(0.7, 0.45, 1.4, 1),
        sometimes(0.6, 0.4, 1.5, 1),
    )
    colours = np.diag(random.normal(1, 0.06, 3)) @ (saturation * np.eye(3) + (1 - saturation) / 3)
    level = (colours @ picture.mean((1, 2)).double().numpy()).mean()
    colours, offset = torch.from_numpy(brightness * contrast * colours).float(), brightness * (1 - contrast) * level
    picture = (colours @ picture.flatten(1)).add_(offset).view(3, size, size)
    across, down = sometimes(0.4, -0.5, 0.5, 0), sometimes(0.4, -0.4, 0.4, 0)
    if across or down:
        line = torch.linspace(-1, 1, size)
        picture *= 1 + across * line + down * line[:, None]
    picture.clamp_(0, 255)
    if random.random() < 0.4:
        picture = picture.div_(255).pow_(random.uniform(0.6, 1.6)).mul_(255)
    if random.random() < 0.35:
        picture += torch.randn(picture.shape, generator=generator) * random.uniform(1, 14)
    picture.clamp_(0, 255)
    return jpeg(picture, int(random.uniform(15, 75))) if random.random() < 0.15 else picture


def jpeg(pixels: torch.Tensor, quality: int) -> torch.Tensor:
    """`(3, S, S)` in 0…255 through JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).byte().numpy()).save(buffer, "jpeg", quality=quality)
    return torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1).float()
