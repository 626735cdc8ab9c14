"""Eyelids that come down over the eyes, drawn at the portrait's own resolution.

A lid covers the eye and does not squeeze it: its edge, with the lashes, comes down as it is, and behind it skin
unrolls. Of that skin a portrait with open eyes shows next to nothing: what lies right above the edge is stretched, and
gets the colours of what lies above and below the eye. Nothing else moves, so that neither brows nor glasses are
dragged along: rims of glasses that run close above the eye are found and stay in front of the lid.
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
# What is stretched is an arch: at the corners of the eye it is this share as high as above its middle.
LOWEST_STRETCHED = 0.2
# A lid's skin is like what lies at these distances above its edge and below the eye, beyond its lashes, smoothly along
# the eye; what differs by more grey levels from the skin about the eye is none. It is like that above by the first
# share at its edge, by the second at its upper end, where it goes over into what is there; but for these shares at
# either end of it. It is round: its middle is so much lighter, its sides are so much darker.
SKIN_REACH, SKIN_SAMPLES, SKIN_SMOOTHNESS, MOST_UNLIKE = 0.16, 9, 0.16, 35.0
ABOVE_SHARES, SKIN_FADES, ROUND_LIGHT, SIDE_SHADE = (0.5, 1.0), (0.15, 0.5), 0.06, 0.06
# Beyond so much below and above the eye there are no lashes; what is no skin above, as the rim of glasses, stays in
# front of the lid.
LASHES_BELOW, RIMS_ABOVE = 0.14, 0.15
# It has the grain of the skin down to so far below the eye, which is what is finer than the second. Creases and lashes
# are as fine, but stand out: grain is nowhere stronger than this share of the places have it, nor than so many levels.
GRAIN_REACH, GRAIN_SIZE, GRAIN_QUANTILE, MOST_GRAIN = 0.3, 0.03, 0.2, 8.0
COLUMNS = 49  # at which curves and colours are kept
CURVE_DEGREE, CORNER_WEIGHT = 4, 3.0  # of the polynomial that a lid is
# Lids move from so far outside the outer corner, where lashes reach to, up to the inner one.
OUTSIDE = 0.12
# Within so much of the outer of these ends, and half as much of the inner one, new skin, and how far shut lids go
# beyond their landmarks, fade out: at the inner corner the white of the eye goes on to its very end.
CORNER = 0.3
# The upper rim of glasses is looked for in a part of the portrait that goes so far beyond the corners of the eye, and
# above and below them, in cells of that size. It is an arc, so high at its middle, so inclined and so bent, which is
# so far above both corners, and too far above the eye's edge to be its lashes. Creases and shades end somewhere: a rim
# is dark in each of the four parts into which these places cut it, but for a share where it shines. There it is darker
# than what lies at one of two distances above it and below it by so many grey levels; what is darker by more than the
# second number is no better.
RIM_ACROSS, RIM_DOWN, RIM_CELL = (-0.4, 1.2), (-0.7, 0.12), 1 / 64
RIM_HEIGHTS, RIM_SLOPES, RIM_BENDS = (
    np.arange(-0.5, -0.04, 0.02),
    np.arange(-0.32, 0.33, 0.04),
    np.arange(0, 0.33, 0.04),
)
ABOVE_CORNERS, ABOVE_EDGE, RIM_CUTS, RIM_SHINE = 0.03, 0.08, (-0.08, 0.5, 1.05), 0.25
RIM_SURROUNDINGS, RIM_DARKNESS, MOST_DARKNESS = (0.06, 0.1), 9.0, 25.0
# Of the darkness that it usually has this much is rim, up to so far from the arc, and whatever is as near as the last.
RIM_SHARES, RIM_WIDTH, RIM_CORE = (0.05, 0.3), 0.12, 0.025
RIM_SHADE = 0.8  # of the light that the skin below the eye has there is on the skin behind the rim
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
        taper = smooth_step(np.minimum(across + OUTSIDE, 2 * (1 - across)) / CORNER)
        from_middle = (2 * across - 1 + OUTSIDE) / (1 + OUTSIDE)  # -1 to 1
        arch = np.sqrt((1 - from_middle**2).clip(0))
        reach = STRETCHED * (LOWEST_STRETCHED + (1 - LOWEST_STRETCHED) * arch)
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
        self.corner = (left, top)
        steps = np.linspace(0, SKIN_REACH, SKIN_SAMPLES)
        skin_below = self._skin(across, (edge + drop + LASHES_BELOW)[:, None] + steps)
        self.rim = self._rim(image, across, edge)
        if self.rim is not None:
            self._fill_in_rim(edge - LASHES, _smoothed(skin_below, across, SKIN_SMOOTHNESS))
        self.grain = self._grain()
        skin = [skin_below, self._skin(across, (edge - lashes - EDGE)[:, None] - steps)]
        # Brows and make-up are no skin.
        usual = np.median(np.concatenate(skin, 1), axis=1, keepdims=True)
        side_light = 1 - SIDE_SHADE * from_middle**2
        for index, colours in enumerate(skin):
            alike = usual + (colours - usual).clip(-MOST_UNLIKE, MOST_UNLIKE)
            skin[index] = side_light * _smoothed(alike, across, SKIN_SMOOTHNESS)
        table = np.concatenate([np.stack([edge, drop, lashes, taper, reach]), *skin])  # (11, COLUMNS)
        self.table = torch.from_numpy(table).to(device, torch.float32)

    def to_picture(self, across, down):
        """Pixels `(…, 2)` of places in lengths of the eye."""
        return self.origin + np.stack([across, down], -1) @ self.axes.T

    def from_picture(self, places: torch.Tensor) -> list[torch.Tensor]:
        """How far along the eye and how far down, in its lengths, pixels `(…, 2)` are."""
        x, y = (places - places.new_tensor(self.origin)).unbind(-1)
        return [float(a) * x + float(b) * y for a, b in np.linalg.inv(self.axes)]

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

    def _skin(self, across: np.ndarray, down: np.ndarray) -> np.ndarray:
        """Colours `(3, N)` of the skin along the eye: medians over heights `(N, M)`."""
        places = np.broadcast_arrays(across[:, None], down)
        colours = self._fetch(*(torch.from_numpy(axis[None]).to(self.part) for axis in places), self.part)
        return np.median(colours[0].cpu().numpy(), axis=2)

    def _grain(self) -> torch.Tensor:
        """The grain `(1, 3, h, w)` of the portrait's part."""
        size = GRAIN_SIZE * self.length
        fine = self.part - soften(self.part.movedim(1, 0), size).movedim(0, 1)
        strength = soften(fine.square().mean(1, keepdim=True), size).sqrt()
        usual = strength.flatten().kthvalue(1 + int(GRAIN_QUANTILE * strength.numel())).values.clamp(max=MOST_GRAIN)
        # Weakened and not cut off: a crease that is cut off is a band with sharp sides.
        return fine * (usual / strength.clamp(min=1e-3)).clamp(max=1)

    def _rim(self, image: np.ndarray, across: np.ndarray, edge: np.ndarray) -> torch.Tensor | None:
        """How much of what is in the cells about the eye is the upper rim of glasses, `(1, 1, H, W)`.

        Args:
            image: the portrait.
            across: `(N,)`, where along the eye the edge of its lid is known.
            edge: `(N,)`, its height there.

        Returns:
            None where there is no such rim.
        """
        x, y = (np.arange(low, high, RIM_CELL) for low, high in (RIM_ACROSS, RIM_DOWN))
        places = self.to_picture(*np.meshgrid(x, y)).round().astype(int)  # (H, W, 2)
        columns, rows = (places[..., axis].clip(0, image.shape[1 - axis] - 1) for axis in range(2))
        darkness = _darkness(image[rows, columns].mean(2))
        edge = np.interp(x, across, edge)
        arc = _dark_arc(darkness, x, y, edge)
        if arc is None:
            return None
        distance = np.abs(y[:, None] - arc)
        usual = (darkness * (distance < RIM_CELL)).max(0).clip(RIM_DARKNESS)
        # Along it: a rim has no notches.
        shares = _smoothed(darkness, x, RIM_WIDTH / 2) / _smoothed(usual, x, RIM_WIDTH)
        dark = smooth_step((shares - RIM_SHARES[0]) / (RIM_SHARES[1] - RIM_SHARES[0]))
        rim = np.maximum(dark, smooth_step(2 - distance / RIM_CORE)) * smooth_step(2 - 2 * distance / RIM_WIDTH)
        rim *= smooth_step(2 * (edge - y[:, None]) / ABOVE_EDGE - 1)
        return torch.from_numpy(rim).to(self.part)[None, None]

    def _fill_in_rim(self, lashes: np.ndarray, colours: np.ndarray) -> None:
        """Lids that come down leave skin behind and no second rim: put it into the portrait's part.

        Args:
            lashes: `(COLUMNS,)`, the height at which they end; what they are near to comes down with them as it is.
            colours: `(3, COLUMNS)`, those of the skin below the eye.
        """
        places = np.stack(np.meshgrid(*(np.arange(side) for side in self.part.shape[:1:-1])), -1) + self.corner
        x, y = self.from_picture(torch.from_numpy(places)[None].to(self.part))
        table = torch.from_numpy(np.concatenate([lashes[None], RIM_SHADE * colours])).to(self.part)
        lashes, *colours = self._at(table, x)
        share = self._rim_at(x, y) * smooth_step((lashes - y) / EDGE)
        self.part = torch.lerp(self.part, torch.stack(colours, 1), share[:, None])

    def _rim_at(self, across: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
        """How much of what is at places `(B, h, w)` in lengths of the eye is the rim."""
        grid = []
        for places, (start, _), cells in zip(
            (across, down), (RIM_ACROSS, RIM_DOWN), self.rim.shape[:1:-1], strict=True
        ):
            grid.append((2 * (places - start) / RIM_CELL + 1) / cells - 1)
        rim = self.rim.expand(len(across), -1, -1, -1)
        return F.grid_sample(rim, torch.stack(grid, -1), "bilinear", "zeros", align_corners=False)[:, 0]

    def _at(self, table: torch.Tensor, across: torch.Tensor) -> torch.Tensor:
        """Values `(N, B, h, w)` of a table `(N, COLUMNS)` at places `(B, h, w)` along the eye."""
        column = ((across + OUTSIDE) * ((COLUMNS - 1) / (1 + OUTSIDE))).clamp(0, COLUMNS - 1.001)
        left = column.long()
        return torch.lerp(table[:, left], table[:, left + 1], column - left)

    def draw(self, pixels: torch.Tensor, places: torch.Tensor, closing: torch.Tensor) -> None:
        """Draw the lid into pixels.

        Args:
            pixels: `(B, 3, h, w)`, 0 to 255, changed in place.
            places: `(B, h, w, 2)`, where in the portrait each lies, in its pixels.
            closing: `(B,)`, 0 for as the portrait has it, 1 for shut.
        """
        closing = closing[:, None, None]
        x, y = self.from_picture(places)
        table = self._at(self.table, x)  # (11, B, h, w)
        edge, drop, lashes, taper, reach = table[:5]
        # A lid that is half way down has nothing of its way beyond the other one behind it yet.
        floor, drop = edge + drop, closing * (drop - (1 - closing**2) * self.beyond * taper)
        # At once: what lies between the landmarks and where lashes begin may be the eye.
        lashes = (6 * closing).clamp(max=1) * lashes
        above = edge + drop - y  # of the lid's edge
        # Skin above the edge's own height is stretched over what the edge leaves, less and less upwards.
        stretch = 1 + (drop + lashes) / reach
        share = ((above - EDGE) / (reach * stretch)).clamp(0, 1)
        source = above.clamp(max=EDGE) + reach * share**stretch
        lid = self._fetch(x, edge - lashes - source, self.part).clamp_(0, 255)
        middle = smooth_step(share / SKIN_FADES[0]) * smooth_step((1 - share) / SKIN_FADES[1])
        like_above = ABOVE_SHARES[0] + (ABOVE_SHARES[1] - ABOVE_SHARES[0]) * share
        skin = torch.lerp(table[5:8], table[8:], like_above).movedim(0, 1)  # (B, 3, h, w)
        # To and fro: higher up than that, the grain comes back.
        below = GRAIN_REACH - (GRAIN_REACH - (above - EDGE).clamp(0, 2 * GRAIN_REACH)).abs()
        below = floor + 2 * LINE_WIDTH + below
        skin = (skin + self._fetch(x, below, self.grain)) * (1 + ROUND_LIGHT * 4 * share * (1 - share))[:, None]
        lid = torch.lerp(lid, skin, (middle * taper * smooth_step(drop / (2 * EDGE)))[:, None])
        unlike = smooth_step(((pixels - skin).abs().mean(1) - MOST_UNLIKE) / MOST_UNLIKE)
        before = unlike * smooth_step((edge - RIMS_ABOVE - y) / EDGE)
        if self.rim is not None:
            before = torch.maximum(before, self._rim_at(x, y))
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


def _smoothed(values: np.ndarray, places: np.ndarray, size: float) -> np.ndarray:
    """Values `(…, N)` at places `(N,)`, blurred by a Gaussian of that standard deviation."""
    kernel = np.exp(-0.5 * ((places[:, None] - places) / size) ** 2)
    return values @ (kernel / kernel.sum(0))


def _darkness(grey: np.ndarray) -> np.ndarray:
    """By how many levels cells `(H, W)` are darker than what is above and what is below them, at least 0."""
    padded = np.pad(grey, ((1, 1), (0, 0)), "edge")
    grey = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
    darkness = np.zeros_like(grey)
    for distance in RIM_SURROUNDINGS:
        cells = round(distance / RIM_CELL)
        padded = np.pad(grey, ((cells, cells), (0, 0)), "edge")
        darkness = np.maximum(darkness, np.minimum(padded[: -2 * cells], padded[2 * cells :]) - grey)
    return darkness


def _dark_arc(darkness: np.ndarray, x: np.ndarray, y: np.ndarray, edge: np.ndarray) -> np.ndarray | None:
    """Heights `(W,)` of the upper rim of glasses above an eye; None where there is none.

    Args:
        darkness: `(H, W)`, as `_darkness` returns it.
        x, y: `(W,)` and `(H,)`, its places in lengths of the eye.
        edge: `(W,)`, heights of the upper lid's edge.
    """
    turns = np.linspace(-1, 1, len(x))
    shapes = np.stack(np.meshgrid(RIM_HEIGHTS, RIM_SLOPES, RIM_BENDS), -1).reshape(-1, 3)
    arcs = shapes @ np.stack([np.ones_like(turns), turns, turns**2])  # (N, W)
    corners, middle = [np.abs(x - corner).argmin() for corner in (0, 1)], (x > 0.2) & (x < 0.8)
    apart = (arcs[:, corners] < -ABOVE_CORNERS).all(1) & (np.median((edge - arcs)[:, middle], 1) > ABOVE_EDGE)
    arcs = arcs[apart & (arcs.min(1) > y[0]) & (arcs.max(1) < y[-1])]
    # Arcs need not meet a thin rim exactly.
    padded = np.pad(darkness, ((1, 1), (0, 0)), "edge")
    darkness = np.maximum(darkness, np.maximum(padded[:-2], padded[2:])).astype(np.float32)
    along = darkness[((arcs - y[0]) / RIM_CELL).round().astype(int), np.arange(len(x))]  # (N, W)
    parts = np.split(along, np.searchsorted(x, RIM_CUTS), axis=1)
    least = [int(RIM_SHINE * part.shape[1]) for part in parts]
    dark = np.min([np.partition(part, nth, axis=1)[:, nth] for part, nth in zip(parts, least, strict=True)], axis=0)
    # Of arcs within a thick rim, that in its middle.
    best = (dark.clip(max=MOST_DARKNESS) + 0.1 * along.mean(1)).argmax()
    return arcs[best] if dark[best] > RIM_DARKNESS else None
