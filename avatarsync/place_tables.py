"""Places of a picture's pixels, which heads carry along, known at some pixels and linear between them.

Where a pixel is fetched from changes slowly from one to the next: a mesh of cells gives no more than a place for each
cell, and large pictures have several pixels to a cell. There it is worked out for one pixel of each cell alone, a
node; working it out everywhere took a picture of 2048 pixels as long as fetching them.

Tensors hold x and y apart, `(…, 2, h, w)`, as they are computed fastest; `places` are as grid_sample takes them.
"""

import numpy as np
import torch


class PlaceTable:
    """Places of the pixels of a part of a picture, and what each direction of the head's pose adds to them.

    Args:
        still: `(h', w', 2)`, those of its nodes: every `step`-th pixel from the first on, and as many beyond the last
            as `num_nodes` says.
        head: `(4, h', w', 2)`, to be added times a pose's parts; None where heads hold still.
    """

    def __init__(self, still: np.ndarray, head: np.ndarray | None, step: int, device: torch.device):
        def planar(table: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(table).to(device, torch.float32).movedim(-1, -3).contiguous()

        self.step = step
        self.still = planar(still)  # (2, h', w')
        self.head = None if head is None else planar(head)  # (4, 2, h', w')

    def at_nodes(self, rows: slice, columns: slice, head_poses: torch.Tensor | None, batch: int) -> torch.Tensor:
        """Places of some nodes `(B, 2, h, w)` for each pose of the head `(B, 4)`; its own to be written to.

        Term by term and not as a matrix product, whose rounding depends on how many frames are drawn together.
        """
        places = self.still[None, :, rows, columns]
        if head_poses is None:
            return places.repeat(batch, 1, 1, 1)
        for pose, direction in zip(head_poses.unbind(1), self.head[:, :, rows, columns], strict=True):
            places = torch.addcmul(places, pose.view(-1, 1, 1, 1), direction)
        return places

    def places(self, rows: slice, columns: slice, head_poses: torch.Tensor | None, batch: int) -> torch.Tensor:
        """Places of some pixels `(B, h, w, 2)` for each pose of the head `(B, 4)`."""
        about = nodes_about(rows, self.step), nodes_about(columns, self.step)
        return between(self.at_nodes(*about, head_poses, batch), self.step, rows, columns).movedim(1, -1)


def num_nodes(pixels: int, step: int) -> int:
    """How many nodes a side of so many pixels needs."""
    return nodes_about(slice(0, pixels), step).stop


def nodes_about(pixels: slice, step: int) -> slice:
    """The nodes between which some pixels lie, at least one; more than one where not every pixel is a node."""
    return pixels if step == 1 else slice(pixels.start // step, (pixels.stop - 1) // step + 2)


def between(nodes: torch.Tensor, step: int, rows: slice, columns: slice) -> torch.Tensor:
    """What is known at the nodes about some pixels, `(B, C, h', w')`, at each of these: `(B, C, h, w)`."""
    if step == 1:
        return nodes
    batch, channels, height, width = nodes.shape
    across = nodes.new_empty(batch, channels, height, (width - 1) * step)
    start, change = nodes[..., :-1], nodes.diff(dim=-1)
    for offset in range(step):
        torch.add(start, change, alpha=offset / step, out=across[..., offset::step])
    across = across[..., columns.start % step :][..., : columns.stop - columns.start]
    down = nodes.new_empty(batch, channels, height - 1, step, across.shape[-1])
    start, change = across[:, :, :-1], across.diff(dim=2)
    for offset in range(step):
        torch.add(start, change, alpha=offset / step, out=down[:, :, :, offset])
    return down.flatten(2, 3)[:, :, rows.start % step :][:, :, : rows.stop - rows.start]
