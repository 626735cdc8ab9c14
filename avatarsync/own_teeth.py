"""A portrait's own teeth at the picture's own resolution.

Where a smile shows its upper teeth, the painter copies them: they stay where they are while lips and jaw move. It
paints at the crop's resolution, and a large portrait knows more. What the portrait has beyond the crop is added to the
paint where this is a copy; where the inside of a mouth is drawn, the portrait itself is laid before it.
"""

import numpy as np
import torch
import torch.nn.functional as F

from .image_processing_face import invert_matrix, transform_points
from .lip_edges import well_inside
from .modeling_visual_tokenizer import Reference
from .teeth_colour import shaded
from .warping import soften

SEEN_CELLS = 12  # of the crop, from which on teeth count as seen
# How much paint may differ from the portrait, of 2, the range of pixels, over about a cell, to be a copy.
TOLERANCE, SMOOTHNESS = 0.12, 0.8
MARGIN = 2  # cells


class OwnTeeth:
    """What one portrait's open mouth shows that its crop does not.

    Args:
        image: portrait `(H, W, 3) uint8`.
        reference: of this portrait.
        matrix: `(2, 3)`, portrait → crop.
    """

    @classmethod
    def of_portrait(cls, image: np.ndarray, reference: Reference, matrix: np.ndarray) -> "OwnTeeth | None":
        """None for a portrait that hides its teeth."""
        inside = well_inside(reference.mouth.float(), reference.mouth.shape[-1])
        return cls(image, reference, matrix, inside) if inside.sum() > SEEN_CELLS else None

    def __init__(self, image: np.ndarray, reference: Reference, matrix: np.ndarray, inside: torch.Tensor):
        self.inside, self.copied = inside, reference.pixels.float()
        size, device = inside.shape[-1], inside.device
        rows, columns = (torch.nonzero(inside[0, 0].amax(axis)).flatten().cpu().numpy() for axis in (1, 0))
        x, y = (columns[[0, -1]] + (-MARGIN, MARGIN + 1), rows[[0, -1]] + (-MARGIN, MARGIN + 1))
        corners = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2).astype(np.float32)
        to_picture = invert_matrix(matrix)
        corners = transform_points(corners, to_picture)
        height, width = image.shape[:2]
        left, top = np.clip(np.floor(corners.min(0)).astype(int), 0, (width - 1, height - 1))
        right, bottom = np.clip(np.ceil(corners.max(0)).astype(int), (left + 1, top + 1), (width, height))
        part = torch.from_numpy(np.ascontiguousarray(image[top:bottom, left:right])).to(device).permute(2, 0, 1)[None]
        ys, xs = np.mgrid[top:bottom, left:right]
        places = transform_points(np.stack([xs, ys], -1).reshape(-1, 2).astype(np.float32), matrix)
        grid = torch.from_numpy(2 * (places.reshape(1, *xs.shape, 2) + 0.5) / size - 1).to(inside)
        known = F.grid_sample(self.copied, grid, mode="bicubic", padding_mode="border", align_corners=False)
        self.detail = part / 127.5 - 1 - known  # (1, 3, h, w)
        # Places in the crop, [-1, 1] → in the part, likewise.
        turn = to_picture[:, :2] * (size / 2)
        start = to_picture[:, :2] @ np.full(2, size / 2 - 0.5) + to_picture[:, 2]
        span = np.array([right - left, bottom - top])
        self.to_part = (2 * turn / span[:, None]).tolist()
        self.start = (2 * (start - (left, top) + 0.5) / span - 1).tolist()

    def copies(self, paint: torch.Tensor) -> torch.Tensor:
        """How much paint `(B, 3, S, S)` is a copy of the portrait's own teeth: `(B, 1, S, S)` from 0 to 1."""
        difference = (paint.float() - self.copied).abs().mean(1, keepdim=True)
        return self.inside * torch.exp(-((soften(difference, SMOOTHNESS) / TOLERANCE) ** 2))

    def at(self, places: torch.Tensor) -> torch.Tensor:
        """The detail `(B, 3, h, w)`, in the measure of paint, at places `(B, h, w, 2)`; the crop is [-1, 1]."""
        x, y = places.unbind(-1)
        grid = torch.stack([a * x + b * y + c for (a, b), c in zip(self.to_part, self.start, strict=True)], -1)
        detail = self.detail.expand(len(places), -1, -1, -1)
        return F.grid_sample(detail, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    def lay_before(self, drawn: torch.Tensor, layers: list[tuple[torch.Tensor, ...]]) -> torch.Tensor:
        """What is drawn `(B, 3, h, w)`, in the measure of paint, with layers of the portrait before it, from back to
        front, as `MouthInterior.kept` tells them."""
        for places, share, light in layers:
            places = (places + 0.5) * (2 / self.copied.shape[-1]) - 1
            crop = self.copied.expand(len(places), -1, -1, -1)
            known = F.grid_sample(crop, places, mode="bicubic", padding_mode="border", align_corners=False)
            drawn = torch.lerp(drawn, shaded(known + self.at(places) + 1, light) - 1, share)
        return drawn
