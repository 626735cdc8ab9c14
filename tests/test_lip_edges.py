"""Teeth stay behind when an open mouth closes."""

import pytest
import torch

from avatarsync import face_mesh
from avatarsync.face_mesh import INNER_LIPS, LIP_RINGS, OUTER_LIPS
from avatarsync.lip_edges import HIDDEN_SHARE, LOWER, UPPER, darken, hide_teeth, inset_open_lips, lip_gaps, lip_line


@pytest.fixture
def closed():
    """The neutral face with a gap of nothing."""
    face = face_mesh.neutral_landmarks()[None]
    lower, upper = [INNER_LIPS[i] for i in LOWER], [INNER_LIPS[i] for i in UPPER]
    middle = (face[:, lower, 1] + face[:, upper, 1]) / 2
    face[:, lower, 1] = face[:, upper, 1] = middle
    return face


@pytest.fixture
def opened(closed):
    face = closed.clone()
    for ring in LIP_RINGS:
        face[:, [ring[i] for i in LOWER], 1] += 0.03
        face[:, [ring[i] for i in UPPER], 1] -= 0.03
    return face


def heights(face):
    return [
        (face[:, [OUTER_LIPS[i] for i in side], 1] - face[:, [INNER_LIPS[i] for i in side], 1]).abs()
        for side in (LOWER, UPPER)
    ]


def test_closed_references_stay_as_they_are(closed, opened):
    assert torch.equal(inset_open_lips(closed), closed)
    torch.testing.assert_close(hide_teeth(closed, opened), closed)


def test_open_lips_are_inset_but_not_through(opened):
    inset = inset_open_lips(opened)
    assert (lip_gaps(inset) > lip_gaps(opened)).all()
    assert all((after > 0.2 * before).all() for after, before in zip(heights(inset), heights(opened), strict=True))


def test_an_open_target_takes_the_whole_lips(opened):
    torch.testing.assert_close(hide_teeth(opened, opened), opened)


def test_a_closed_target_takes_the_outer_part_of_the_lips(opened, closed):
    source = hide_teeth(opened, closed)
    for after, before in zip(heights(source), heights(opened), strict=True):
        torch.testing.assert_close(after, (1 - HIDDEN_SHARE) * before, atol=1e-5, rtol=1e-4)
    outer = list(OUTER_LIPS)
    assert torch.equal(source[:, outer], opened[:, outer])
    # The rings keep their order.
    for side in (LOWER, UPPER):
        rows = torch.stack([source[0, [ring[i] for i in side], 1] for ring in LIP_RINGS])
        steps = rows.diff(dim=0)
        assert (steps >= -1e-6).all() or (steps <= 1e-6).all()


def test_what_is_hidden_grows_steadily_with_the_closing(opened, closed):
    hidden = [
        heights(hide_teeth(opened, opened * (1 - share) + closed * share))[0].mean().item()
        for share in (0.0, 0.4, 0.6, 0.8, 1.0)
    ]
    assert hidden == sorted(hidden, reverse=True) and hidden[1] > 1.2 * hidden[-1]


def test_the_line_between_lips_is_drawn_where_an_open_reference_closes(opened, closed):
    size = 128
    line = lip_line(opened, closed, size)[0, 0]
    inner = list(INNER_LIPS)
    middle = closed[0, inner[5]] * size
    column = line[:, int(middle[0])]
    assert column.max() > 0.8 and abs(int(column.argmax()) - middle[1].item()) < 1.5
    assert line[:, : int(closed[0, inner[0], 0] * size) - 1].max() < 1e-3  # nothing beyond the corners
    assert line[: int(middle[1]) - 12].max() < 1e-3
    assert not lip_line(closed, closed, size).any(), "a portrait's own line is enough"
    assert not lip_line(opened, opened, size).any()


def test_a_line_darkens_towards_black():
    pictures = torch.tensor([-1.0, 0.0, 1.0]).expand(1, 3, 1, 3)
    drawn = darken(pictures, torch.ones(1, 1, 1, 3), -1.0)
    assert (drawn[..., 0] == -1).all() and (drawn[..., 1:] < pictures[..., 1:]).all()
    assert torch.equal(darken(pictures, torch.zeros(1, 1, 1, 3), -1.0), pictures)
