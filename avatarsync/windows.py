"""Square windows of pictures: cut out, and put back where they were.

On a CPU slices are two to four times as fast as indices. A GPU would have to hand over every corner for them, and
start a kernel for each picture.
"""

import torch


def cut(image: torch.Tensor, corner: torch.Tensor, side: int) -> torch.Tensor:
    """Windows `(B, C, side, side)` of `(B, C, H, W)`; their upper left corners `(B, 2)` are whole pixels (x, y)."""
    if image.device.type != "cpu":
        return gather(image, corner, side)
    corners = zip(image, corner.tolist(), strict=True)
    return torch.stack([one[:, y : y + side, x : x + side] for one, (x, y) in corners])


def paste(windows: torch.Tensor, image: torch.Tensor, corner: torch.Tensor) -> torch.Tensor:
    """`image` `(B, C, H, W)` with `windows` `(B, C, s, s)` in the places they were cut from."""
    if image.device.type != "cpu":
        return scatter(windows, image, corner)
    side = windows.shape[-1]
    out = image.clone()
    for index, (x, y) in enumerate(corner.tolist()):
        out[index, :, y : y + side, x : x + side] = windows[index]
    return out


def gather(image: torch.Tensor, corner: torch.Tensor, side: int) -> torch.Tensor:
    """`cut` by indices."""
    places = _places(image, corner, side)
    return image.flatten(2).gather(2, places).unflatten(2, (side, side))


def scatter(windows: torch.Tensor, image: torch.Tensor, corner: torch.Tensor) -> torch.Tensor:
    """`paste` by indices."""
    places = _places(image, corner, windows.shape[-1])
    return image.flatten(2).scatter(2, places, windows.flatten(2).to(image.dtype)).view_as(image)


def _places(image: torch.Tensor, corner: torch.Tensor, side: int) -> torch.Tensor:
    """Numbers `(B, C, side²)` of the windows' pixels in flattened pictures."""
    x, y = corner[:, :, None].unbind(1)
    steps = torch.arange(side, device=corner.device)
    numbers = (y + steps)[:, :, None] * image.shape[-1] + (x + steps)[:, None]
    return numbers.flatten(1)[:, None].expand(-1, image.shape[1], -1)
