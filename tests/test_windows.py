"""Windows of pictures: what is cut, what is pasted, and that a GPU's way gives the same."""

import torch

from avatarsync.windows import cut, gather, paste, scatter

CORNERS = torch.tensor([[0, 0], [3, 1], [12, 8], [7, 8]])


def pictures(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(4, 3, *shape, generator=torch.Generator().manual_seed(seed))


def test_windows_lie_where_their_corners_say():
    image = pictures(0, 16, 20)
    torch.testing.assert_close(cut(image, CORNERS, 8)[1], image[1, :, 1:9, 3:11])
    pasted = paste(torch.zeros(4, 3, 8, 8), image, CORNERS)
    assert (pasted[2, :, 8:16, 12:20] == 0).all()
    assert (pasted == 0).sum() == 4 * 3 * 8 * 8, "nothing else changed"


def test_indices_and_slices_agree_also_in_their_gradients():
    results = []
    for take, put in ((cut, paste), (gather, scatter)):
        image, windows = pictures(0, 16, 20).requires_grad_(), pictures(1, 8, 8).requires_grad_()
        taken, made = take(image, CORNERS, 8), put(windows, image, CORNERS)
        (taken.square().sum() + (made * pictures(2, 16, 20)).sum()).backward()
        results.append((taken, made, image.grad, windows.grad))
    for slices, indices in zip(*results, strict=True):
        torch.testing.assert_close(indices, slices)
