"""From moved landmarks to pixels: mesh rasterisation, backward flow, and warping.

Flow is *backward*: `flow[y, x]` is what to add to the pixel `(x, y)` to find its source, in pixels of the flow's own
grid. Zero flow therefore leaves a picture as it is.
"""

import torch
import torch.nn.functional as F

from . import face_mesh

# A triangle whose corners all move by less than this many pixels counts as standing still.
STILL = 0.02


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
    low = corners.amin(1).ceil().long()
    extent = (corners.amax(1).floor().long() - low).amax(1) + 1
    edge_a, edge_b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    facing = (edge_a[:, 0] * edge_b[:, 1] - edge_a[:, 1] * edge_b[:, 0] > 1e-6) & (extent > 0)
    # Triangles of like size share one window of candidate pixels, so that nothing loops over triangles.
    side, previous = 4, 0
    while previous < max(height, width):
        chosen = torch.nonzero(facing & (extent > previous) & (extent <= side)).flatten()
        if len(chosen):
            steps = torch.arange(side, device=corners.device)
            x = low[chosen, 0, None, None] + steps  # (m, 1, side)
            y = low[chosen, 1, None, None] + steps[:, None]  # (m, side, 1)
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            for i in range(3):
                start, end = corners[chosen, i], corners[chosen, (i + 1) % 3]
                across, down = (end - start).unbind(-1)
                # Ax + By + C ≥ 0 on the inner side of the edge
                side_of_edge = across[:, None, None] * (y - start[:, 1, None, None])
                side_of_edge = side_of_edge - down[:, None, None] * (x - start[:, 0, None, None])
                inside &= side_of_edge >= -1e-4
            place = torch.nonzero(inside.flatten()).flatten()
            label = chosen[place // side**2]
            x = low[label, 0] + place % side
            y = low[label, 1] + place % side**2 // side
            covered.scatter_reduce_(0, (owner[label] * height + y) * width + x, label, "amax")
        previous, side = side, side * 3 // 2
    return covered.view(batch, height, width)


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
    affine = torch.stack([along_x, along_y, base], 1).masked_fill(still, 0.0)  # (M, 3, 2)

    inside = covering >= 0
    flow = torch.zeros(batch, height, width, 2, dtype=reference.dtype, device=reference.device)
    chosen, (_, y, x) = covering[inside], torch.nonzero(inside, as_tuple=True)
    here = affine[chosen]  # (P, 3, 2)
    values = here[:, 0] * x[:, None] + here[:, 1] * y[:, None] + here[:, 2]
    flow = flow.index_put((inside,), values.to(flow.dtype))
    mouth = torch.zeros(batch, 1, height, width, dtype=reference.dtype, device=reference.device)
    mouth[:, 0][inside] = (kinds[triangle] == face_mesh.MOUTH_INTERIOR)[chosen].to(mouth.dtype)
    return flow.permute(0, 3, 1, 2), mouth


def warp(image: torch.Tensor, flow: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
    """Sample `image` `(B, C, H, W)` at each pixel plus `flow` `(B, 2, H, W)`; edge pixels continue outside."""
    height, width = image.shape[-2:]
    x = torch.arange(width, device=image.device, dtype=flow.dtype)
    y = torch.arange(height, device=image.device, dtype=flow.dtype)
    grid_x = (2 * (x + flow[:, 0]) + 1) / width - 1  # (B, H, W)
    grid_y = (2 * (y[:, None] + flow[:, 1]) + 1) / height - 1
    grid = torch.stack([grid_x, grid_y], -1).to(image.dtype)
    return F.grid_sample(image, grid, mode=mode, padding_mode="border", align_corners=False)


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
