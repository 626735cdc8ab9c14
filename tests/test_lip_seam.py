import numpy as np
import pytest
import torch

from avatarsync.lip_seam import keep_lips_apart


def seam(size=16):
    """Flow `(1, 2, size, size)` of two lips that meet: the upper comes from 4 cells above, the lower from below."""
    flow = torch.zeros(1, 2, size, size)
    flow[:, 1, : size // 2], flow[:, 1, size // 2 :] = -4.0, 4.0
    return flow


def inner_lips(left=0.0, right=0.0, gap=0.0):
    """Places `(1, 20, 2)` of inner lips across all the cells, from a height on the left to one on the right."""
    along = torch.cat([torch.linspace(-1, 1, 11), torch.linspace(1, -1, 11)[1:-1]])
    height = left + (right - left) * (along + 1) / 2
    height[1:10] += gap / 2  # the lower one
    height[11:] -= gap / 2
    return torch.stack([along, height], -1)[None]


def places(height, size=16):
    """Lookup `(1, height, height, 2)` of a picture that shows all the cells."""
    steps = (torch.arange(height) + 0.5) * 2 / height - 1
    ys, xs = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([xs, ys], -1)[None]


def test_lips_that_meet_take_the_flow_of_their_own_side():
    cells, lookup = seam(), places(80)
    flow = torch.nn.functional.grid_sample(cells, lookup, padding_mode="border", align_corners=False)
    assert (flow[:, 1].abs() < 3.9).any()  # interpolation draws on what lies between
    keep_lips_apart(flow, cells, lookup, inner_lips())
    inside = flow[0, 1, :, 4:-4]  # the outermost pixels lie beyond the cells' centres
    assert torch.allclose(inside.abs(), torch.tensor(4.0), atol=1e-4)
    assert (inside[:40] < 0).all() and (inside[40:] > 0).all()


def test_a_pixel_on_the_border_of_two_lips_goes_over_from_one_to_the_other():
    cells, lookup = seam(), places(80)  # a cell is five pixels
    row, column, seen = 40, 40, []
    for step in range(-15, 16):
        moved = lookup + torch.tensor([0.0, 0.1 * step * 2 / 80])  # by a tenth of a pixel each
        flow = torch.nn.functional.grid_sample(cells, moved, padding_mode="border", align_corners=False)
        shared = keep_lips_apart(flow, cells, moved, inner_lips(), cell=5.0)
        assert (shared.share > 0).all() and (shared.share <= 0.5).all()
        here = (shared.place[1] == row) & (shared.place[2] == column)
        own = flow[0, 1, row, column].item()
        # What a picture whose brightness is the flow itself would show.
        seen.append(own + (shared.share * shared.change[:, 1])[here].sum().item())
    seen = np.array(seen)
    assert seen[0] == pytest.approx(-4, abs=1e-3) and seen[-1] == pytest.approx(4, abs=1e-3)
    assert np.diff(seen).min() > -1e-3 and np.diff(seen).max() < 1.5 * 0.1 * 8
    kept = shared.of_rows(30, 40)
    assert len(kept.share) == ((shared.place[1] >= 30) & (shared.place[1] < 40)).sum() == len(kept.change)


@pytest.mark.parametrize("gap", [0.0, 0.1])
def test_the_border_of_lips_that_slope_is_no_stair(gap):
    lips = inner_lips(-0.4, 0.2, gap)
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    line = ((columns + 0.5) / 16 * 0.6 - 0.4 + 1) * 8 - 0.5  # in cells
    cells = torch.stack([torch.zeros(16, 16), torch.where(rows < line, -4.0, 4.0)])[None]
    lookup = places(160)  # a cell is ten pixels
    flow = torch.nn.functional.grid_sample(cells, lookup, padding_mode="border", align_corners=False)
    keep_lips_apart(flow, cells, lookup, lips, cell=10.0)
    border = (flow[0, 1] < 0).sum(0).numpy()[10:-10]  # the row where each column's lower lip begins
    expected = (np.linspace(-0.4, 0.2, 160) + 1)[10:-10] * 80
    if gap:  # lips that are apart: as cells have it
        assert np.abs(border - expected).max() > 2
    else:
        assert np.abs(border - expected).max() < 1 and np.diff(border).max() <= 1


def test_slopes_are_no_seams():
    cells, lookup = torch.linspace(-4, 4, 16)[None, None, :, None].expand(1, 2, 16, 16).clone(), places(80)
    flow = torch.nn.functional.grid_sample(cells, lookup, padding_mode="border", align_corners=False)
    before = flow.clone()
    keep_lips_apart(flow, cells, lookup, inner_lips())
    assert torch.equal(flow, before)


def test_only_the_seam_changes():
    cells, lookup = seam(), places(80)
    cells *= (1.5 - torch.arange(16) / 8).clamp(0, 1)  # to the right the lips move less and less, at last not at all
    flow = torch.nn.functional.grid_sample(cells, lookup, padding_mode="border", align_corners=False)
    before = flow.clone()
    keep_lips_apart(flow, cells, lookup, inner_lips())
    assert torch.equal(flow[..., 60:], before[..., 60:])
    assert torch.equal(flow[..., :20, :], before[..., :20, :])
