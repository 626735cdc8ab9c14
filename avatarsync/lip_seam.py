"""The seam between two lips that meet: each pixel is taken from its own lip, and one on the border from both.

The upper lip comes from above the reference's teeth and the lower one from below. Halfway between their two flows lie
the teeth, which would shine through closed lips; and pixels that belonged to one lip or the other by a hair's breadth
would sparkle whenever lips move.
"""

from dataclasses import dataclass

import torch

# Steps of the flow from one cell to the next, in cells, up to which it is a slope, and from which it is a seam.
SLOPE_JUMP, SEAM_JUMP = 1.0, 2.0


@dataclass
class Seam:
    """N pixels that two lips share.

    Attributes:
        place: frame, row and column, `(N,)` each.
        change: `(N, 2)`, the flow of the other lip less that of the pixel's own.
        share: `(N,)` of the pixel that shows the other lip, at most a half.
    """

    place: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    change: torch.Tensor
    share: torch.Tensor

    def of_rows(self, first: int, stop: int) -> "Seam":
        """The pixels of some rows."""
        chosen = (self.place[1] >= first) & (self.place[1] < stop)
        return Seam(tuple(index[chosen] for index in self.place), self.change[chosen], self.share[chosen])


def seams(cells: torch.Tensor) -> torch.Tensor:
    """Where the flow `(B, 2, R, R)` leaps from a row of cells to the next: `(B, 1, R - 1, R)` bool."""
    return cells[:, 1:].diff(dim=2).abs() > SLOPE_JUMP


def keep_lips_apart(flow: torch.Tensor, cells: torch.Tensor, lookup: torch.Tensor, cell: float = 1.0) -> Seam | None:
    """Undo, in place, what interpolation made of the flow where two lips meet.

    Each pixel takes the flow of its own side. The border between the sides is where the interpolated flow passes the
    middle, so that it is as smooth as the lips; pixels that it crosses are shared.

    Args:
        flow: `(B, 2, h, w)` interpolated.
        cells: `(B, 2, R, R)`, what it was interpolated from.
        lookup: `(B, h, w, 2)` places of the pixels among the cells, as grid_sample takes them.
        cell: side of a cell in pixels.
    """
    size = cells.shape[-1]
    rows, columns = marked_extent(seams(cells))
    if rows is None:
        return None
    place = (lookup + 1) * size / 2 - 0.5  # (B, h, w, 2) in cells
    near = (place[..., 1] > rows.start) & (place[..., 1] < rows.stop)
    near &= (place[..., 0] > columns.start - 1) & (place[..., 0] < columns.stop)
    rows, columns = marked_extent(near[:, None])
    if rows is None:
        return None
    place = place[:, rows, columns].clamp(0, size - 1.001)
    corner = place.floor().long()
    right, below = (place - corner).unbind(-1)  # (B, h', w') each
    weights = torch.stack([(1 - right) * (1 - below), right * (1 - below), (1 - right) * below, right * below], 1)
    index = corner[..., 1] * size + corner[..., 0]
    index = torch.stack([index, index + 1, index + size, index + size + 1], 1)  # (B, 4, h', w')
    four = cells.flatten(2).gather(2, index.flatten(1)[:, None].expand(-1, 2, -1))
    four = four.unflatten(2, index.shape[1:])  # (B, 2, 4, h', w')
    down = four[:, 1]
    jump = (down[:, 2:] - down[:, :2]).abs().amax(1)  # (B, h', w')
    strength = ((jump - SLOPE_JUMP) / (SEAM_JUMP - SLOPE_JUMP)).clamp(0, 1)
    low, high = down.aminmax(dim=1)
    upwards = down > ((low + high) / 2)[:, None]  # (B, 4, h', w')
    position = ((weights * down).sum(1) - low) / (high - low).clamp_min(1e-6)  # 0 to 1, the border at a half

    def flow_of(side: torch.Tensor) -> torch.Tensor:
        chosen = weights * side
        return (chosen[:, None] * four).sum(2) / chosen.sum(1, keepdim=True).clamp_min(1e-6)  # (B, 2, h', w')

    own = upwards == (position > 0.5)[:, None]
    own_flow, other_flow = flow_of(own), flow_of(~own)
    part = flow[:, :, rows, columns]
    flow[:, :, rows, columns] = torch.where(strength[:, None] > 0, part.lerp(own_flow, strength[:, None]), part)
    # From one lip to the other within a pixel, wherever in a cell its middle lies.
    share = strength * (0.5 - (position - 0.5).abs() * max(1.0, cell))
    frame, row, column = torch.nonzero(share > 0, as_tuple=True)
    change = (other_flow - own_flow)[frame, :, row, column]
    return Seam((frame, row + rows.start, column + columns.start), change, share[frame, row, column])


def marked_extent(mask: torch.Tensor) -> tuple[slice | None, slice | None]:
    """Rows and columns that a mask `(B, 1, H, W)` touches in any picture; None, None where it is empty."""
    # Forty times as fast as `any` over three axes.
    touched = mask.flatten(0, 1).byte().amax(0)
    rows, columns = (torch.nonzero(touched.amax(axis)).flatten() for axis in (1, 0))
    if len(rows) == 0:
        return None, None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
