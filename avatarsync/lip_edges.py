"""The lips' edges: where flesh begins on an open reference, and the line between lips that a portrait shows open.

Landmarks of an open mouth are off by a pixel or two, and what lies between them and the flesh is carried along: a
smile that closes would keep a row of teeth. So the inner lips of an open reference are taken to lie a little inside
the flesh, and the more the mouth closes the deeper: closed lips are drawn from the outer part of the lips alone. What
such a portrait cannot lend is the dark line between closed lips: it is drawn.
"""

import torch
import torch.nn.functional as F

from .face_mesh import INNER_LIPS, LIP_RINGS, LOWER_LIP_POSITIONS, OUTER_LIPS, UPPER_LIP_POSITIONS
from .warping import soften

# How far the inner lips of an open mouth are taken to lie inside the lips, of the crop's side; at most so much of the
# way to the next ring of landmarks; and the gap from which a mouth counts as open.
LIP_INSET, MAX_INSET_SHARE, OPEN_GAP = 0.012, 0.7, 0.008
# The share of the lips' height that closed lips do without, and the share of the reference's gap at which that begins.
HIDDEN_SHARE, CLOSING_SHARE = 0.55, 0.7
# The line between closed lips: its half width, of the crop's side, and what it leaves of red, green and blue.
LINE_WIDTH, LINE_COLOUR = 0.007, (0.55, 0.42, 0.42)
LINE_REACH = 4.0  # half widths from its middle beyond which it is nothing

RIM = 0.006  # of an open mouth, which is lip as often as tooth; of the crop's side

LOWER, UPPER = list(LOWER_LIP_POSITIONS), list(UPPER_LIP_POSITIONS)


def lip_gaps(landmarks: torch.Tensor) -> torch.Tensor:
    """Height `(B, 9)` of the inner-lip gap at nine places across the mouth."""
    lower, upper = [INNER_LIPS[i] for i in LOWER], [INNER_LIPS[i] for i in UPPER]
    return landmarks[:, lower, 1] - landmarks[:, upper, 1]


def mouth_width(landmarks: torch.Tensor) -> torch.Tensor:
    """Distance `(B,)` between the corners of the outer lips."""
    return (landmarks[..., OUTER_LIPS[10], :] - landmarks[..., OUTER_LIPS[0], :]).norm(dim=-1).clamp_min(1e-3)


def well_inside(mouth: torch.Tensor, size: int) -> torch.Tensor:
    """Mouths `(B, 1, H, W)`, 1 inside, of crops of `size` pixels, without their rims."""
    return (2 * soften(mouth, RIM * size) - 1).clamp_min(0)


def openness(gaps: torch.Tensor) -> torch.Tensor:
    """0 for closed lips, 1 for open ones `(B, 9)`."""
    return ((gaps - OPEN_GAP) / OPEN_GAP).clamp(0, 1)


def inset_open_lips(landmarks: torch.Tensor) -> torch.Tensor:
    """Landmarks `(B, 468, 2)` whose inner lips, where they are open, lie a little inside the flesh of the lips."""
    inner, flesh = list(INNER_LIPS), list(LIP_RINGS[-2])
    share = openness(lip_gaps(landmarks))
    inset = landmarks.clone()
    for positions, away in ((LOWER, 1.0), (UPPER, -1.0)):
        points = [inner[i] for i in positions]
        thickness = (landmarks[:, [flesh[i] for i in positions], 1] - landmarks[:, points, 1]) * away
        step = torch.minimum(thickness.clamp_min(0) * MAX_INSET_SHARE, torch.full_like(thickness, LIP_INSET))
        inset[:, points, 1] += away * step * share
    return inset


def closing_share(gaps: torch.Tensor, target_gaps: torch.Tensor) -> torch.Tensor:
    """How far a mouth that the reference shows open is closed at nine places, 0 for as it is, 1 for shut: `(B, 9)` of
    the reference's and the target's `lip_gaps`, `(B, 9)` each."""
    closing = 1 - target_gaps / (CLOSING_SHARE * gaps).clamp_min(1e-4)
    closing = closing.clamp(0, 1) * openness(gaps)  # (B, 9)
    return F.avg_pool1d(closing[:, None], 3, 1, 1, count_include_pad=False)[:, 0]


def hide_teeth(reference: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Where to take the lips of `target` from: `reference`, squeezed towards its outer lips the more the mouth closes.

    Args:
        reference, target: landmarks `(B, 468, 2)` in fractions of the crop's side.
    """
    closing = closing_share(lip_gaps(reference), lip_gaps(target))
    source = reference.clone()
    for positions in (LOWER, UPPER):
        outer = reference[:, [OUTER_LIPS[i] for i in positions], 1]
        height = outer - reference[:, [INNER_LIPS[i] for i in positions], 1]
        safe = torch.where(height.abs() < 1e-4, torch.full_like(height, 1e-4), height)
        for ring in LIP_RINGS[1:]:
            points = [ring[i] for i in positions]
            inwards = ((outer - reference[:, points, 1]) / safe).clamp(0, 1)  # 0 at the outer lips, 1 at the inner
            source[:, points, 1] += HIDDEN_SHARE * closing * inwards * height
    return source


def lip_line(reference: torch.Tensor, target: torch.Tensor, size: int, first: float = 0.0) -> torch.Tensor:
    """Strength `(B, 1, size, size)`, 0 to 1, of the line between lips that the reference shows open and `target` shut.

    Args:
        reference, target: landmarks `(B, 468, 2)` in fractions of the crop's side.
        first: where, in cells from the first one's centre, they count from.
    """
    line = target.new_zeros(len(target), 1, size, size)
    strength = F.pad(closing_share(lip_gaps(reference), lip_gaps(target)), (1, 1))  # the line ends in the corners
    if not strength.any():
        return line
    inner = target[:, list(INNER_LIPS)]
    middle = (inner[:, LOWER] + inner[:, UPPER]) / 2  # (B, 9, 2), from the right corner to the left one
    points = torch.cat([inner[:, :1], middle, inner[:, 10:11]], 1).contiguous()  # (B, 11, 2)
    points += (first + 0.5) / size  # from the edge of the first cell
    x = points[..., 0].contiguous()
    columns = _cells_within(x, 0.0, size)
    rows = _cells_within(points[..., 1], LINE_REACH * LINE_WIDTH, size)
    cells = (torch.arange(size, device=target.device, dtype=target.dtype) + 0.5) / size
    across, down = cells[columns].expand(len(x), -1), cells[rows]
    distance = ((down[:, None] - between(x, points[..., 1], across)[:, None]) / LINE_WIDTH).abs()  # (B, h, w)
    strength = between(x, strength, across)[:, None] * torch.exp(-(distance**2))
    # Nothing at all beyond its reach, so that a frame is the same whatever lines are drawn beside it.
    line[:, 0, rows, columns] = torch.where(distance < LINE_REACH, strength, 0.0)
    return line


def between(places: torch.Tensor, values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Values `(B, N)` at rising places `(B, N)`, at others `(B, M)` on the straight lines between them."""
    end = torch.searchsorted(places, where.contiguous()).clamp(1, places.shape[1] - 1)  # (B, M)
    start = places.gather(1, end - 1)
    share = ((where - start) / (places.gather(1, end) - start).clamp_min(1e-4)).clamp(0, 1)
    return values.gather(1, end - 1) * (1 - share) + values.gather(1, end) * share


def _cells_within(coordinates: torch.Tensor, reach: float, size: int) -> slice:
    """The cells, of `size`, that lie between the least and the greatest of some coordinates, or less than `reach`
    beyond; coordinates are fractions of the side."""
    low, high = (float(bound) * size for bound in coordinates.detach().nan_to_num().aminmax())
    beyond = reach * size
    return slice(min(max(int(low - beyond), 0), size), min(max(int(high + beyond) + 1, 0), size))


def darken(pictures: torch.Tensor, line: torch.Tensor, black: float, coloured: float = 1.0) -> torch.Tensor:
    """Pictures `(B, 3, H, W)`, whose black is `black`, with a line `(B, 1, H, W)` drawn into them, which is red as far
    as they are `coloured`, 0 to 1."""
    colour = pictures.new_tensor(LINE_COLOUR)[:, None, None]
    colour = torch.lerp(colour.mean().expand_as(colour), colour, coloured)
    return black + (pictures - black) * (1 - line * (1 - colour))
