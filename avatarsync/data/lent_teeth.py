"""Upper teeth for portraits that hide theirs, lent by portraits that smile.

Upper teeth belong to the skull: however the jaw moves, they stay where they are, and lips hide more or less of them.
A driver's are filmed at few pixels; a smile's are sharp, and in a photograph's light. They are laid before what the
driver has behind its lips, which lies farther back: lower teeth in the shade of the upper ones.

Shapes: B pictures of H × H pixels; landmarks `(B, 468, 2)` in pixels; `size` is the side of a face's crop in pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from ..face_mesh import INNER_LIPS
from ..lip_edges import RIM, well_inside
from ..teeth_colour import skin_colour
from ..warping import mesh_flow, soften, warp
from .dataset import Rows

# Of the crop's side: how far below the line between closed lips upper teeth end, and the gap up to which lips count as
# closed and hide them.
BELOW_LIP_LINE, CLOSED_GAP = 0.028, 0.012
# What of the red, green and blue light before the upper teeth reaches what lies behind them: flesh reddens it. And how
# much of that their shadow takes, so far below their edge.
LIGHT_BEHIND, SHADOW, SHADOW_REACH = (0.82, 0.78, 0.74), 0.3, 0.014
BRIGHT, MIDDLE_SHARE, EDGE_SHARE = 0.8, 0.18, 0.97  # what counts as tooth, in which columns, and how much lies above
# Who lends: a smile that is neither narrow nor a laugh, frontal, not enlarged, with teeth about as bright as skin,
# neither blue nor brown, and few dark places between them.
LENDER_GAPS, LENDER_TURN, LENDER_ENLARGEMENT = (0.035, 0.075), 0.05, 1.15
LENDER_LIGHT, LENDER_COLOUR, LENDER_DARK = (0.85, 1.3), (1.05, 1.4), 0.2
DARK = 0.55  # of skin


@dataclass
class UpperTeeth:
    """Teeth that are seen.

    Attributes:
        pictures: `(B, 3, H, H)` in [0, 255], in their own light.
        mask: `(B, 1, H, H)`, 1 where they are, 0 beyond the lips and below their edge.
        edge: `(B, 2)`, the middle of their lower edge in pixels.
        skin: `(B, 3)`, the colour of the skin about them.
    """

    pictures: torch.Tensor
    mask: torch.Tensor
    edge: torch.Tensor
    skin: torch.Tensor


def inside_of_lips(landmarks: torch.Tensor, size: int, side: int) -> torch.Tensor:
    """`(B, 1, side, side)`, 1 well inside of an open mouth, 0 at its rim."""
    _, mouth = mesh_flow(landmarks, landmarks, side)
    return well_inside(mouth, size)


def seen_teeth(pictures: torch.Tensor, landmarks: torch.Tensor, size: int) -> UpperTeeth:
    """The upper teeth of smiles `(B, 3, H, H)` in [0, 255]."""
    side = pictures.shape[-1]
    mask = inside_of_lips(landmarks, size, side)
    grey = pictures.mean(1, keepdim=True)
    level = (grey * mask).sum((2, 3), keepdim=True) / mask.sum((2, 3), keepdim=True).clamp_min(1e-3)
    corners = landmarks[:, [INNER_LIPS[0], INNER_LIPS[10]], 0]  # (B, 2)
    middle, width = corners.mean(1), (corners[:, 1] - corners[:, 0]).abs()
    places = torch.arange(side, device=pictures.device) + 0.5
    near = (places - middle[:, None]).abs() < MIDDLE_SHARE * width[:, None]  # (B, H)
    teeth = (mask * (grey > BRIGHT * level))[:, 0] * near[:, None]
    above = teeth.sum(2).cumsum(1)  # (B, H)
    edge = (above < EDGE_SHARE * above[:, -1:]).sum(1) + 1.0
    # What lies below is lip, or the dark between the rows.
    softness = RIM * size
    mask = mask * ((edge[:, None] - places) / softness + 0.5).clamp(0, 1)[:, None, :, None]
    return UpperTeeth(pictures, mask, torch.stack([middle, edge], 1), skin_colour(pictures, landmarks) + 1)


def lend(
    teeth: UpperTeeth, lit: torch.Tensor, landmarks: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Put teeth where portraits with these landmarks have theirs.

    Args:
        lit: `(B, 3, H, H)`, the pictures of the teeth in the portraits' light.

    Returns:
        The pictures moved there, and masks `(B, 1, H, H)`: 0 for portraits whose lips are open.
    """
    lips, corners = (landmarks[:, [INNER_LIPS[i] for i in pair]] for pair in ((5, 15), (0, 10)))  # (B, 2, 2)
    place = torch.stack([corners[..., 0].mean(1), lips[..., 1].mean(1) + BELOW_LIP_LINE * size], 1)
    flow = (teeth.edge - place)[:, :, None, None].expand(-1, -1, *lit.shape[2:]).contiguous()
    gap = (lips[:, 0, 1] - lips[:, 1, 1]).abs() / size
    hidden = (2 - gap / CLOSED_GAP).clamp(0, 1)[:, None, None, None]
    return warp(lit, flow, mode="bicubic"), warp(teeth.mask, flow).clamp(0, 1) * hidden


def shade(behind: torch.Tensor) -> torch.Tensor:
    """What lies behind upper teeth, `(B, 3, H, H)`, in the light that reaches it."""
    return behind * behind.new_tensor(LIGHT_BEHIND)[:, None, None]


def lay_before(behind: torch.Tensor, teeth: torch.Tensor, mask: torch.Tensor, size: int) -> torch.Tensor:
    """What lies behind teeth `(B, 3, H, H)`, with the teeth before it, masked by `(B, 1, H, H)`, and their shadow."""
    reach = round(SHADOW_REACH * size)
    shadow = soften(functional.pad(mask, (0, 0, reach, 0))[:, :, :-reach], RIM * size) if reach else mask
    return behind * (1 - SHADOW * shadow) * (1 - mask) + teeth * mask


def find_lenders(portraits: Rows) -> np.ndarray:
    """Rows of the portraits whose teeth others can be given; there may be none."""
    found = []
    for row in range(len(portraits)):
        points, matrix = portraits.landmarks(row)[0].copy(), portraits.matrices(row)[0]
        gap, turn = points[14, 1] - points[13, 1], abs(points[1, 0] - 0.5)
        enlargement = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
        if not LENDER_GAPS[0] < gap < LENDER_GAPS[1] or turn > LENDER_TURN or enlargement > LENDER_ENLARGEMENT:
            continue
        crop = torch.from_numpy(portraits.crop(row, 0)).permute(2, 0, 1)[None].float()
        if _shows_good_teeth(crop, torch.from_numpy(points)[None] * crop.shape[-1]):
            found.append(row)
    return np.array(found, int)


def _shows_good_teeth(crop: torch.Tensor, landmarks: torch.Tensor) -> bool:
    size = crop.shape[-1]
    mouth, grey = inside_of_lips(landmarks, size, size), crop.mean(1, keepdim=True)
    area = mouth.sum()
    if area < 1:
        return False
    skin, level = skin_colour(crop, landmarks).mean(), (grey * mouth).sum() / area
    bright = mouth * (grey > level)
    colour = (crop * bright).sum((2, 3))[0] / bright.sum().clamp_min(1e-3)
    dark = (mouth * (grey < DARK * skin)).sum() / area
    redness = (colour[0] / colour[2]).item()
    return bool(
        LENDER_LIGHT[0] < level / skin < LENDER_LIGHT[1]
        and LENDER_COLOUR[0] < redness < LENDER_COLOUR[1]
        and dark < LENDER_DARK
    )


__all__ = ["UpperTeeth", "find_lenders", "inside_of_lips", "lay_before", "lend", "seen_teeth", "shade"]
