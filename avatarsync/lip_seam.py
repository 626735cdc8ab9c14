"""The seam between two lips that meet: each pixel is taken from its own lip, and one on the border from both.

The upper lip comes from above the reference's teeth and the lower one from below. Halfway between their two flows lie
the teeth, which would shine through closed lips; and pixels that belonged to one lip or the other by a hair's breadth
would sparkle whenever lips move. Where the border runs is told by the landmarks: cells know it to a cell's side alone,
and in large pictures borders that follow them are stairs, which crawl along lips with every motion of the head.
"""

from dataclasses import dataclass

import torch

from .lip_edges import LOWER, UPPER, between

# Steps of the flow from one cell to the next, in cells, up to which it is a slope, and from which it is a seam.
SLOPE_JUMP, SEAM_JUMP = 1.0, 2.0
# Landmarks tell the border between lips that are no farther apart than the first, up to the second from it, in cells:
# beyond that, no square of four cells has it inside.
SHUT, REACH = 0.3, 1.5
LINE_DENSITY = 4  # places to a cell at which the border is worked out


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


def keep_lips_apart(
    flow: torch.Tensor, cells: torch.Tensor, lookup: torch.Tensor, inner_lips: torch.Tensor, cell: float = 1.0
) -> Seam | None:
    """Undo, in place, what interpolation made of the flow where two lips meet.

    Each pixel takes the flow of its own side. The border between the sides is the line on which the inner lips lie;
    where they are apart, it is where the interpolated flow passes the middle. Pixels that it crosses are shared.

    Args:
        flow: `(B, 2, h, w)` interpolated.
        cells: `(B, 2, R', R)`, what it was interpolated from; rows beyond the R-th lie below the crop.
        lookup: `(B, h, w, 2)` places of the pixels among the cells, as grid_sample takes them for R rows.
        inner_lips: `(B, 20, 2)`, places of their landmarks in the same measure.
        cell: side of a cell in pixels.
    """
    size = cells.shape[-1]
    leap = cells[:, 1].diff(dim=1).abs()  # (B, R' - 1, R)
    # Of the square between four cells' centres.
    strength = (torch.maximum(leap[..., :-1], leap[..., 1:]) - SLOPE_JUMP) / (SEAM_JUMP - SLOPE_JUMP)
    rows, columns = marked_extent(strength[:, None] > 0)
    if rows is None:
        return None
    place = (lookup + 1) * (size / 2) - 0.5  # (B, h, w, 2) in cells
    x, y = place.unbind(-1)
    near = (y >= rows.start) & (y < rows.stop) & (x >= columns.start) & (x < columns.stop)
    frame, row, column = torch.nonzero(near, as_tuple=True)
    x, y = x[frame, row, column], y[frame, row, column]
    left, top = x.long(), y.long()
    strong = strength[frame, top, left]
    chosen = torch.nonzero(strong > 0).flatten()
    if len(chosen) == 0:
        return None
    frame, row, column, left, top, x, y = (of[chosen] for of in (frame, row, column, left, top, x, y))
    strong = strong[chosen].clamp(max=1)  # (N,)
    right, below = x - left, y - top
    weights = ((1 - right) * (1 - below), right * (1 - below), (1 - right) * below, right * below)
    four = [cells[frame, :, top + down, left + across] for down in (0, 1) for across in (0, 1)]  # (N, 2) each
    heights = torch.stack([flow_there[:, 1] for flow_there in four])  # (4, N)
    low, high = heights.amin(0), heights.amax(0)
    mixed = sum(weight * height for weight, height in zip(weights, heights, strict=True))
    position = (mixed - low) / (high - low).clamp_min(1e-6)  # 0 to 1, the border at a half
    line, gap = (of[frame, (x * LINE_DENSITY).long()] for of in _border(inner_lips, size))
    known = (gap < SHUT) & ((y - line).abs() < REACH)
    position = torch.where(known, (y - line + 0.5).clamp(0, 1), position)
    from_below = heights > (low + high) / 2

    def flow_of(side: torch.Tensor) -> torch.Tensor:
        shares = [torch.where(of, weight, 0.0) for of, weight in zip(side, weights, strict=True)]
        # Of squares that the border only touches, whatever there is.
        mean = sum(share[:, None] * there for share, there in zip(shares, four, strict=True))
        return mean / sum(shares).clamp_min(1e-6)[:, None]  # (N, 2)

    own = from_below == (position > 0.5)
    own_flow, other_flow = flow_of(own), flow_of(~own)
    flow[frame, :, row, column] = torch.lerp(flow[frame, :, row, column], own_flow, strong[:, None])
    # From one lip to the other within a pixel, wherever in a cell its middle lies.
    share = strong * (0.5 - (position - 0.5).abs() * max(1.0, cell))
    shared = torch.nonzero(share > 0).flatten()
    place = frame[shared], row[shared], column[shared]
    return Seam(place, (other_flow - own_flow)[shared], share[shared])


def _border(inner_lips: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Height of the line between inner lips `(B, 20, 2)` and how far they are apart, in cells of `size` a side:
    `(B, size · LINE_DENSITY)` each, for places from the first cell's centre on."""
    inner = (inner_lips + 1) * (size / 2) - 0.5
    corners = inner[:, :1], inner[:, 10:11]
    lower, upper = (torch.cat([corners[0], inner[:, side], corners[1]], 1) for side in (LOWER, UPPER))  # (B, 11, 2)
    steps = torch.arange(size * LINE_DENSITY, device=inner.device, dtype=inner.dtype) / LINE_DENSITY
    steps = steps.expand(len(inner), -1)
    lower, upper = (between(*(of.contiguous() for of in lip.unbind(-1)), steps) for lip in (lower, upper))
    return (lower + upper) / 2, lower - upper


def marked_extent(mask: torch.Tensor) -> tuple[slice | None, slice | None]:
    """Rows and columns that a mask `(B, 1, H, W)` touches in any picture; None, None where it is empty."""
    # Forty times as fast as `any` over three axes.
    touched = mask.flatten(0, 1).byte().amax(0)
    rows, columns = (torch.nonzero(touched.amax(axis)).flatten() for axis in (1, 0))
    if len(rows) == 0:
        return None, None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
