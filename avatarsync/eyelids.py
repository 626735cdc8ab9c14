"""Eyelids that come down over the eyes, drawn at the portrait's own resolution.

A lid covers the eye and does not squeeze it: its edge, with the lashes, comes down as it is, and behind it skin
unrolls. Of that skin a portrait with open eyes shows next to nothing: what lies right above the edge is stretched, and
gets the colours of what lies above and below the eye. Nothing else moves, so that neither brows nor glasses are
dragged along.
"""

import numpy as np
import torch
import torch.nn.functional as F

from .face_mesh import (
    LEFT_EYE_CONTOUR,
    LEFT_LOWER_LID,
    LEFT_UPPER_LID,
    RIGHT_EYE_CONTOUR,
    RIGHT_LOWER_LID,
    RIGHT_UPPER_LID,
)
from .smooth_step import smooth_step
from .warping import soften

# Of either eye: its outer and inner corner and both lids; and on which hand, from the outer to the inner, below is.
EYES = (
    (RIGHT_EYE_CONTOUR[0], RIGHT_EYE_CONTOUR[8], RIGHT_UPPER_LID, RIGHT_LOWER_LID, 1),
    (LEFT_EYE_CONTOUR[0], LEFT_EYE_CONTOUR[8], LEFT_UPPER_LID, LEFT_LOWER_LID, -1),
)
# All lengths are of the eye, from corner to corner. Landmarks of lids err by a pixel or two: a lid that comes down
# begins so far above its landmarks, and is shut so far below the lower lid's, at most by a share of how far the eye is
# open; its edge keeps so much of its height, and of the skin above that so much is stretched.
LASHES, WATERLINE, WATERLINE_SHARE, EDGE, STRETCHED = 0.04, 0.05, 0.2, 0.07, 0.2
# The line in which shut lids meet: half its width, and the share of the light that it takes.
LINE_WIDTH, LINE_DEPTH = 0.03, 0.2
# A lid's skin is like what lies at these distances above its edge and below the eye, beyond its lashes, smoothly along
# the eye; what differs by more grey levels from the skin about the eye is none. It is like that above by the first
# share at its edge, by the second at its upper end, where it goes over into what is there; but for these shares at
# either end of it. Its round middle is so much lighter.
SKIN_REACH, SKIN_SAMPLES, SKIN_SMOOTHNESS, MOST_UNLIKE = 0.16, 9, 0.12, 35.0
ABOVE_SHARES, SKIN_FADES, ROUND_LIGHT = (0.4, 1.0), (0.15, 0.5), 0.06
# Beyond so much below and above the eye there are no lashes; what is no skin above, as the rim of glasses, stays in
# front of the lid.
LASHES_BELOW, RIMS_ABOVE = 0.14, 0.15
# It has the grain of the skin down to so far below the eye, which is what is finer than the second; of lashes and the
# rims of glasses so many grey levels at most.
GRAIN_REACH, GRAIN_SIZE, MOST_GRAIN = 0.3, 0.05, 8.0
COLUMNS = 49  # at which curves and colours are kept
CURVE_DEGREE, CORNER_WEIGHT = 4, 3.0  # of the polynomial that a lid is
# Lids move from so far outside the outer corner, where lashes reach to, up to the inner one.
OUTSIDE = 0.12
CORNER = 0.25  # within so much of the ends of that it fades out how far shut lids go beyond their landmarks
BICUBIC_REACH = 2  # pixels


class Eyelid:
    """The upper lid of one eye.

    Args:
        image: portrait `(H, W, 3) uint8`.
        landmarks: `(468, 2)` in pixels of it.
        eye: one of `EYES`.

    Attributes:
        extent: left, top, right and bottom of what it may change, in pixels.
    """

    def __init__(self, image: np.ndarray, landmarks: np.ndarray, eye: tuple, device: torch.device):
        outer, inner, upper, lower, hand = eye
        self.origin = landmarks[outer].astype(np.float64)
        along = landmarks[inner] - self.origin
        self.length = float(np.hypot(*along))
        # Columns: one length of the eye inwards, and one downwards, in pixels.
        self.axes = np.array([[along[0], -hand * along[1]], [along[1], hand * along[0]]], np.float64)
        across = np.linspace(-OUTSIDE, 1, COLUMNS)
        edge, floor = (self._curve(landmarks[list(lid)], across) for lid in (upper, lower))
        taper = smooth_step(np.minimum(across + OUTSIDE, 1 - across) / CORNER)
        opening = np.maximum(floor - edge, 0)
        self.beyond = min(WATERLINE, WATERLINE_SHARE * float(opening.max()))
        drop, lashes = opening + self.beyond * taper, LASHES * taper
        above, below = edge - lashes - EDGE - STRETCHED, edge + drop + 3 * LINE_WIDTH
        self.extent = self._extent(across, above, below)
        height, width = image.shape[:2]
        left, top, right, bottom = self._extent(across, above, below + GRAIN_REACH)
        left, top = np.clip((left, top), 0, (width - 1, height - 1))
        right, bottom = np.clip((right, bottom), (left + 1, top + 1), (width, height))
        part = np.ascontiguousarray(image[top:bottom, left:right])
        self.part = torch.from_numpy(part).to(device, torch.float32).movedim(2, 0)[None]  # (1, 3, h, w)
        smooth = soften(self.part.movedim(1, 0), GRAIN_SIZE * self.length).movedim(0, 1)
        self.grain = (self.part - smooth).clamp(-MOST_GRAIN, MOST_GRAIN)
        self.corner = (left, top)
        steps = np.linspace(0, SKIN_REACH, SKIN_SAMPLES)
        skin = [
            self._skin(image, across, start[:, None] + sign * steps)
            for start, sign in ((edge + drop + LASHES_BELOW, 1), (edge - lashes - EDGE, -1))
        ]
        # Rims of glasses, brows and make-up are no skin.
        usual = np.median(np.concatenate(skin, 1), axis=1, keepdims=True)
        skin = [usual + (colours - usual).clip(-MOST_UNLIKE, MOST_UNLIKE) for colours in skin]
        table = np.concatenate([np.stack([edge, drop, lashes, taper]), *skin])  # (10, COLUMNS)
        self.table = torch.from_numpy(table).to(device, torch.float32)

    def to_picture(self, across, down):
        """Pixels `(…, 2)` of places in lengths of the eye."""
        return self.origin + np.stack([across, down], -1) @ self.axes.T

    def _extent(self, across: np.ndarray, above: np.ndarray, below: np.ndarray) -> tuple[int, int, int, int]:
        """Left, top, right and bottom pixel of what lies between two curves along the eye."""
        corners = self.to_picture(np.tile(across, 2), np.concatenate([above, below]))
        low, high = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int) + 1
        return (*(low - BICUBIC_REACH), *(high + BICUBIC_REACH))

    def _curve(self, lid: np.ndarray, across: np.ndarray) -> np.ndarray:
        """Height of a lid with landmarks `(7, 2)` at places `(N,)` along the eye; nothing beyond its corners."""
        x, y = np.linalg.solve(self.axes, (lid - self.origin).T)
        weights = np.r_[CORNER_WEIGHT, np.ones(len(lid)), CORNER_WEIGHT]
        return np.polyval(np.polyfit(np.r_[0, x, 1], np.r_[0, y, 0], CURVE_DEGREE, w=weights), across) * (across > 0)

    def _skin(self, image: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
        """Colours `(3, N)` of the skin along the eye: medians over heights `(N, M)`, smoothed."""
        places = self.to_picture(np.broadcast_to(across[:, None], down.shape), down).round().astype(int)
        x, y = (places[..., axis].clip(0, image.shape[1 - axis] - 1) for axis in range(2))
        colours = np.median(image[y, x], axis=1).T  # (3, N)
        kernel = np.exp(-0.5 * ((across[:, None] - across) / SKIN_SMOOTHNESS) ** 2)
        return colours @ (kernel / kernel.sum(0))

    def draw(self, pixels: torch.Tensor, places: torch.Tensor, closing: torch.Tensor) -> None:
        """Draw the lid into pixels.

        Args:
            pixels: `(B, 3, h, w)`, 0 to 255, changed in place.
            places: `(B, h, w, 2)`, where in the portrait each lies, in its pixels.
            closing: `(B,)`, 0 for as the portrait has it, 1 for shut.
        """
        closing = closing[:, None, None]
        x, y = (places - places.new_tensor(self.origin)).unbind(-1)
        x, y = (float(a) * x + float(b) * y for a, b in np.linalg.inv(self.axes))
        column = ((x + OUTSIDE) * ((COLUMNS - 1) / (1 + OUTSIDE))).clamp(0, COLUMNS - 1.001)
        left = column.long()
        table = torch.lerp(self.table[:, left], self.table[:, left + 1], column - left)  # (10, B, h, w)
        edge, drop, lashes, taper = table[:4]
        # A lid that is half way down has nothing of its way beyond the other one behind it yet.
        floor, drop = edge + drop, closing * (drop - (1 - closing**2) * self.beyond * taper)
        # At once: what lies between the landmarks and where lashes begin may be the eye.
        lashes = (6 * closing).clamp(max=1) * lashes
        above = edge + drop - y  # of the lid's edge
        # Skin above the edge's own height is stretched over what the edge leaves, less and less upwards.
        stretch = 1 + (drop + lashes) / STRETCHED
        share = ((above - EDGE) / (STRETCHED * stretch)).clamp(0, 1)
        source = above.clamp(max=EDGE) + STRETCHED * share**stretch
        lid = self._fetch(x, edge - lashes - source, self.part).clamp_(0, 255)
        middle = smooth_step(share / SKIN_FADES[0]) * smooth_step((1 - share) / SKIN_FADES[1])
        like_above = ABOVE_SHARES[0] + (ABOVE_SHARES[1] - ABOVE_SHARES[0]) * share
        skin = torch.lerp(table[4:7], table[7:], like_above).movedim(0, 1)  # (B, 3, h, w)
        below = floor + 2 * LINE_WIDTH + (above - EDGE).clamp(0, GRAIN_REACH)
        skin = (skin + self._fetch(x, below, self.grain)) * (1 + ROUND_LIGHT * 4 * share * (1 - share))[:, None]
        lid = torch.lerp(lid, skin, (middle * smooth_step(drop / (2 * EDGE)))[:, None])
        unlike = smooth_step(((pixels - skin).abs().mean(1) - MOST_UNLIKE) / MOST_UNLIKE)
        before = unlike * smooth_step((edge - RIMS_ABOVE - y) / EDGE)
        covered = (above * self.length + 0.5).clamp(0, 1) * ((share < 1) & (x > -OUTSIDE) & (x < 1)) * (1 - before)
        line = LINE_DEPTH * closing**2 * taper * torch.exp(-((above / LINE_WIDTH) ** 2))
        pixels.copy_(torch.lerp(pixels, lid, covered[:, None]) * (1 - line[:, None]))

    def _fetch(self, across: torch.Tensor, down: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
        """The portrait's part or its grain `(B, 3, h, w)` at places `(B, h, w)` in lengths of the eye."""
        grid = []
        for (a, b), start, side in zip(self.axes, self.origin - self.corner, self.part.shape[:1:-1], strict=True):
            grid.append((2 * (float(start) + float(a) * across + float(b) * down) + 1) / side - 1)
        part = part.expand(len(across), -1, -1, -1)
        return F.grid_sample(part, torch.stack(grid, -1), "bicubic", "border", align_corners=False)
