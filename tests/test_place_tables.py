import numpy as np
import pytest
import torch

from avatarsync.boxes import counted_from, cut, overlap
from avatarsync.place_tables import PlaceTable, between, nodes_about, num_nodes


def plane(height, width, step):
    """Places at the nodes of a picture, linear in its rows and columns, `(h', w', 2)`."""
    rows, columns = step * np.mgrid[: num_nodes(height, step), : num_nodes(width, step)]
    return np.stack([0.5 * columns - 0.25 * rows + 1, rows / 3.0], -1)


@pytest.mark.parametrize("step", [1, 2, 5])
@pytest.mark.parametrize(
    "rows, columns", [((0, 37), (0, 23)), ((7, 8), (22, 23)), ((10, 20), (5, 15)), ((36, 37), (0, 1))]
)
def test_what_is_linear_is_known_exactly_between_nodes(step, rows, columns):
    table = PlaceTable(plane(37, 23, step), None, step, torch.device("cpu"))
    places = table.places(slice(*rows), slice(*columns), None, 3)
    expected = torch.from_numpy(plane(37, 23, 1)[slice(*rows), slice(*columns)]).float()
    assert places.shape == (3, *expected.shape)
    torch.testing.assert_close(places, expected.expand(3, -1, -1, -1))


def test_between_two_nodes_lies_their_mean():
    nodes = torch.tensor([[0.0, 1.0], [2.0, 7.0]])[None, None]
    pixels = between(nodes, 2, slice(0, 2), slice(0, 2))
    assert pixels.tolist() == [[[[0.0, 0.5], [1.0, 2.5]]]]
    assert between(nodes, 2, slice(3, 4), slice(5, 6)).tolist() == [[[[2.5]]]]  # of those about these


def test_heads_carry_places_along_each_by_its_pose():
    still, head = plane(9, 9, 2), np.random.default_rng(0).normal(size=(4, *plane(9, 9, 2).shape))
    table, poses = PlaceTable(still, head, 2, torch.device("cpu")), torch.randn(3, 4)
    nodes = table.at_nodes(slice(1, 4), slice(0, 2), poses, 3)
    expected = still[1:4, :2] + np.einsum("bk,khwc->bhwc", poses.numpy(), head[:, 1:4, :2])
    np.testing.assert_allclose(nodes.movedim(1, -1).numpy(), expected, atol=1e-5)
    nodes += 1
    assert table.still[0, 0, 0] == still[0, 0, 0]  # its own to be written to


@pytest.mark.parametrize("step", [1, 3, 4])
def test_pixels_lie_between_the_nodes_about_them(step):
    for start in range(9):
        for stop in range(start + 1, 12):
            nodes = nodes_about(slice(start, stop), step)
            assert nodes.start * step <= start and (nodes.stop - 1) * step >= stop - 1


def test_boxes_share_rows_and_columns():
    one, other = (slice(2, 9), slice(0, 5)), (slice(4, 20), slice(-3, 2))
    assert overlap(one, other) == (slice(4, 9), slice(0, 2))
    assert overlap(one, (slice(9, 12), slice(0, 5))) is None and overlap(one, None) is None
    assert counted_from(one, (slice(4, 9), slice(0, 2))) == (slice(2, 7), slice(0, 2))
    fields = torch.arange(35.0).view(1, 1, 7, 5)
    cut(fields, one, (slice(8, 9), slice(3, 5))).zero_()
    assert (fields == 0).nonzero()[:, 2:].tolist() == [[0, 0], [6, 3], [6, 4]]
