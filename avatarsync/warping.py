"""From moved landmarks to pixels: mesh rasterisation, backward flow, and warping.

Flow is *backward*: `flow[y, x]` is what to add to the pixel `(x, y)` to find its source, in pixels of the flow's own
grid. Zero flow therefore leaves a picture as it is.
"""

import torch
import torch.nn.functional as F

from . import face_mesh

# A triangle whose corners all move by less than this many pixels counts as standing still.
STILL = 0.02
LEVEL = 1e-9  # pixels: an edge that rises by less bounds no row
EDGE_TOLERANCE = 1e-4  # square pixels: a pixel centre on the edge between two triangles belongs to both


def rasterize_triangles(
    corners: torch.Tensor, owner: torch.Tensor, batch: int, height: int, width: int
) -> torch.Tensor:
    """Which triangle covers each pixel centre.

    Args:
        corners: `(M, 3, 2)` corners in pixels, positively oriented; others are back faces and are left out.
        owner: `(M,)` index of the picture (0 … batch-1) that each triangle belongs to.

    Returns:
        `(batch, height, width)` index into `corners`, -1 where none; where several overlap, the last one.
    """
    covered = torch.full((batch * height * width,), -1, dtype=torch.long, device=corners.device)
    edge_a, edge_b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    facing = edge_a[:, 0] * edge_b[:, 1] - edge_a[:, 1] * edge_b[:, 0] > 1e-6
    top, bottom = corners[..., 1].amin(1).ceil().clamp_min(0), corners[..., 1].amax(1).floor().clamp_max(height - 1)
    # A triangle's rows, and in each row the span of pixels between its edges: nothing outside of it is looked at.
    label, row = _spread((bottom - top + 1).clamp_min(0).long() * facing)
    low, high = torch.zeros_like(row, dtype=corners.dtype), torch.full_like(row, width - 1, dtype=corners.dtype)
    for i in range(3):
        start, edge = corners[:, i], corners[:, (i + 1) % 3] - corners[:, i]
        across, down = edge.unbind(-1)
        # Inside is where across · (y - start y) - down · (x - start x) ≥ 0: right of an edge that rises, left of one
        # that falls.
        slope = across / down
        reached = start[:, 0] + slope * (top - start[:, 1]) + EDGE_TOLERANCE / down
        for ends, beyond, bound in ((down < -LEVEL, -torch.inf, low), (down > LEVEL, torch.inf, high)):
            here = torch.where(ends, slope, 0.0).index_select(0, label) * row
            here += torch.where(ends, reached, beyond).index_select(0, label)
            (torch.maximum if bound is low else torch.minimum)(bound, here, out=bound)
    low = low.ceil_().long()
    line = (owner * height + top.long()).index_select(0, label) + row
    span, column = _spread((high.floor_().long() - low + 1).clamp_min_(0))
    place = (line * width + low).index_select(0, span).add_(column)
    covered.scatter_reduce_(0, place, label.index_select(0, span), "amax")
    return covered.view(batch, height, width)


def _spread(counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of item i as many as `counts[i]`: their i, and their number among those of one i, both `(counts.sum(),)`."""
    item = torch.repeat_interleave(counts)
    number = torch.arange(len(item), device=counts.device)
    return item, number.sub_((counts.cumsum(0) - counts).index_select(0, item))


def mesh_flow(
    reference: torch.Tensor, target: torch.Tensor, size: int | tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Backward flow that moves a face from `reference` to `target` landmarks, both `(B, 468, 2)` in pixels.

    Piecewise affine over the face mesh. Eyeballs keep their place while lids slide over them. Differentiable in the
    landmarks (not in which triangle covers a pixel).

    Returns:
        flow `(B, 2, H, W)` in pixels, zero wherever nothing moves, and the opened mouth's interior `(B, 1, H, W)`,
        1 inside the target's inner lips.
    """
    height, width = (size, size) if isinstance(size, int) else size
    batch = reference.shape[0]
    triangles, kinds = (table.to(reference.device) for table in (face_mesh.triangles(), face_mesh.triangle_kinds()))
    source = face_mesh.add_fade_rings(reference)  # (B, V, 2)
    moved = face_mesh.move_vertices(source, target - reference)
    source, corners = source[:, triangles], moved[:, triangles]  # (B, F, 3, 2)
    moves = ((corners - source).detach().abs().amax((2, 3)) > STILL) | (kinds == face_mesh.MOUTH_INTERIOR)
    owner, triangle = torch.nonzero(moves, as_tuple=True)
    corners, source = corners[owner, triangle], source[owner, triangle]  # (M, 3, 2)
    covering = rasterize_triangles(corners.detach(), owner, batch, height, width)

    # The affine map target → displacement of each triangle: solve [x y 1] · A = source - target at its corners.
    edges = corners[:, 1:] - corners[:, :1]  # (M, 2, 2)
    area = edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]
    area = torch.where(area.abs() < 1e-4, torch.full_like(area, 1e-4), area)
    offsets = source - corners
    slopes = offsets[:, 1:] - offsets[:, :1]  # (M, 2, 2)
    along_x = (slopes[:, 0] * edges[:, 1, 1:] - slopes[:, 1] * edges[:, 0, 1:]) / area[:, None]
    along_y = (slopes[:, 1] * edges[:, 0, :1] - slopes[:, 0] * edges[:, 1, :1]) / area[:, None]
    base = offsets[:, 0] - along_x * corners[:, 0, :1] - along_y * corners[:, 0, 1:]
    still = (kinds[triangle] == face_mesh.EYE_INTERIOR)[:, None, None]
    affine = torch.stack([along_x, along_y, base], 2).masked_fill(still, 0.0)  # (M, 2, 3)

    flow = torch.zeros(batch, 2, height, width, dtype=reference.dtype, device=reference.device)
    mouth = torch.zeros(batch, 1, height, width, dtype=reference.dtype, device=reference.device)
    if len(corners) == 0:
        return flow, mouth
    # Each pixel looks its triangle up; the first row is for those that have none.
    interior = (kinds[triangle] == face_mesh.MOUTH_INTERIOR).to(affine)
    table = F.pad(torch.cat([affine.flatten(1), interior[:, None]], 1), (0, 1, 1, 0))  # (M + 1, 8)
    rows, columns = _reach(corners[..., 1], height), _reach(corners[..., 0], width)
    here = F.embedding(covering[:, rows, columns] + 1, table)  # (B, h, w, 8)
    x = torch.arange(columns.start, columns.stop, device=here.device, dtype=here.dtype)
    y = torch.arange(rows.start, rows.stop, device=here.device, dtype=here.dtype)[:, None]
    for axis in range(2):
        along_x, along_y, base = here[..., 3 * axis : 3 * axis + 3].unbind(-1)
        flow[:, axis, rows, columns] = along_x * x + along_y * y + base
    mouth[:, 0, rows, columns] = here[..., 6].detach()
    return flow, mouth


def _reach(coordinates: torch.Tensor, side: int) -> slice:
    """The pixels, of `side`, between the least and the greatest of some coordinates."""
    low, high = (int(bound) for bound in coordinates.detach().nan_to_num().aminmax())
    return slice(min(max(low, 0), side), min(max(high + 1, 0), side))


def warp(image: torch.Tensor, flow: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
    """Sample `image` `(B, C, H, W)` at each pixel plus `flow` `(B, 2, H, W)`; edge pixels continue outside."""
    height, width = image.shape[-2:]
    x = torch.arange(width, device=image.device, dtype=flow.dtype)
    y = torch.arange(height, device=image.device, dtype=flow.dtype)
    grid_x = (2 * (x + flow[:, 0]) + 1) / width - 1  # (B, H, W)
    grid_y = (2 * (y[:, None] + flow[:, 1]) + 1) / height - 1
    grid = torch.stack([grid_x, grid_y], -1).to(image.dtype)
    return F.grid_sample(image, grid, mode=mode, padding_mode="border", align_corners=False)


def shrink(cells: torch.Tensor, times: int) -> torch.Tensor:
    """Means of `times` by `times` cells of `(B, C, H, W)`: `(B, C, H / times, W / times)`."""
    if times == 1:
        return cells
    # Strided sums: average pooling takes five times as long on a CPU.
    parts = [cells[..., row::times, column::times] for row in range(times) for column in range(times)]
    return sum(parts[1:], parts[0]) / times**2


def soften(mask: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of `(B, 1, H, W)` with standard deviation `sigma` in pixels."""
    reach = max(1, int(3 * sigma + 0.5))
    steps = torch.arange(-reach, reach + 1, dtype=mask.dtype, device=mask.device)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel = (kernel / kernel.sum()).tolist()
    # Shifted sums: on one channel, PyTorch's convolution takes fifteen times as long on a CPU.
    for axis, padding in ((3, (reach, reach, 0, 0)), (2, (0, 0, reach, reach))):
        padded, side = F.pad(mask, padding, mode="replicate"), mask.shape[axis]
        mask = padded.narrow(axis, 0, side) * kernel[0]
        for offset, weight in enumerate(kernel[1:], 1):
            mask = mask.add(padded.narrow(axis, offset, side), alpha=weight)
    return mask


def look_up(
    fields: torch.Tensor, lookup: torch.Tensor, mode: str = "bilinear", padding: str = "zeros"
) -> torch.Tensor:
    """Fields `(B, C, R, R)` over the crop at places `(B, h, w, 2)` in it; the crop is [-1, 1]."""
    return F.grid_sample(fields.float(), lookup, mode=mode, padding_mode=padding, align_corners=False)
