"""What is drawn inside of a mouth: where teeth are, whose they are, and in what light."""

import pytest
import torch

from avatarsync import face_mesh
from avatarsync.face_mesh import INNER_LIPS, LIP_RINGS, LOWER_LIP_POSITIONS
from avatarsync.mouth_interior import CHIN, EDGE_BELOW_LIPS, EYE_DISTANCE, MouthInterior
from avatarsync.warping import mesh_flow

SIZE = 256
SKIN = torch.tensor([200.0, 160.0, 140.0])


def face(opening=0.0, scale=1.0):
    """The neutral face with its lower lip and chin lowered by `opening` of the side: `(1, 468, 2)` in pixels."""
    points = face_mesh.neutral_landmarks()[None].clone()
    points[:, [ring[i] for ring in LIP_RINGS for i in LOWER_LIP_POSITIONS] + [CHIN], 1] += opening
    return points * SIZE * scale


def interior(skin=SKIN, at_rest=0.0, teeth=None, scale=1.0):
    """Of a face of plain skin, whose mouth shows `teeth` of a colour between lips that are open by `at_rest`."""
    points = face(at_rest, scale)
    side = round(SIZE * scale)
    picture = skin[:, None, None].expand(1, 3, side, side).clone()
    _, mouth = mesh_flow(points, points, side)
    if teeth is not None:
        picture = torch.where(mouth > 0, teeth[:, None, None], picture)
    return MouthInterior(picture, points, mouth, side)


def column(drawn, opening, across=4.0, pixel=0.1):
    """Brightness down the mouth, so many mm beside its middle, at every tenth of a pixel, and their heights."""
    points = face(opening)
    upper, lower = (points[0, lip, 1].item() for lip in (13, 14))
    heights = torch.arange(upper + 1, lower - 1, 0.1)
    x = points[0, 13, 0] + across * millimetre()
    places = torch.stack([x.expand_as(heights), heights], -1)[None, :, None]
    return drawn.draw(places, points, pixel)[0, :, :, 0].mean(0), heights


def millimetre():
    points = face()[0]
    return ((points[263] - points[33]).norm() / EYE_DISTANCE).item()


def edges(light):
    """Where teeth begin or end: indices of the steepest places of a column that falls by half, or rises."""
    return torch.nonzero((light[1:] > light.mean()) != (light[:-1] > light.mean())).flatten()


def test_upper_teeth_stay_with_the_skull_and_lower_ones_go_with_the_jaw():
    drawn, found = interior(), []
    points = face()[0]
    line = (points[13, 1] + points[14, 1]) / 2
    for drop in (0.03, 0.05):  # lips lower than the jaw alone takes them
        lips = face(drop + 0.02)
        lips[:, CHIN] = face(drop)[:, CHIN]
        upper, lower = lips[0, 13, 1], lips[0, 14, 1]
        heights = torch.arange(upper + 1, lower - 1, 0.1)
        x = points[13, 0] + 3 * millimetre()
        light = drawn.draw(torch.stack([x.expand_as(heights), heights], -1)[None, :, None], lips, 0.1)
        light = light[0, :, :, 0].mean(0)
        first, second = edges(light)[[0, -1]]
        assert light[first + 20] < 0.5 * light[first - 20] and light[second + 20] > 2 * light[second - 20]
        found.append((heights[first], heights[second]))
    (edge, below), (same, lower) = found
    assert abs(edge - line - EDGE_BELOW_LIPS * millimetre()) < 0.6 * millimetre()
    assert abs(edge - same) < 0.3
    assert abs(lower - below - 0.02 * SIZE) < 0.5


def test_it_is_the_same_mouth_at_any_resolution():
    points = face(0.06)[0]
    (left, top), (right, bottom) = points[list(INNER_LIPS)].aminmax(dim=0)
    y, x = torch.meshgrid(torch.linspace(top, bottom, 30), torch.linspace(left, right, 60), indexing="ij")
    places = torch.stack([x, y], -1)[None]
    small, large = interior(), interior(scale=3.0)
    one, other = small.draw(places, face(0.06), 1.0), large.draw(3 * places, face(0.06, 3.0), 3.0)
    torch.testing.assert_close(one, other, atol=0.5, rtol=0)


def test_gaps_are_fainter_where_pixels_are_wider_than_they_are():
    drawn, points = interior(), face(0.06)
    x = points[0, 13, 0] + torch.arange(-6, 6, 0.05) * millimetre()
    height = (points[0, 13, 1] + millimetre()).expand_as(x)
    places = torch.stack([x, height], -1)[None, None]
    fine, coarse = (drawn.draw(places, points, pixel)[0, 0, 0] for pixel in (0.1, 2 * millimetre()))
    middle = len(x) // 2
    assert fine[middle] < 0.75 * fine.max() and fine[middle] < coarse[middle] < 0.95 * coarse.max()
    assert abs(coarse.mean() / fine.mean() - 1) < 0.06


def test_the_upper_lip_shades_what_is_behind_it():
    light, heights = column(interior(), 0.1)
    depth = (heights - heights[0]) / millimetre()
    assert light[0] < 0.85 * light[(depth > 1.5) & (depth < 2)].mean()


@pytest.mark.parametrize("skin", [(230, 190, 170), (120, 85, 65), (70, 45, 35)])
def test_teeth_follow_the_light_but_not_the_complexion(skin):
    skin = torch.tensor(skin).float()
    teeth = interior(skin).teeth.flatten()
    assert (
        teeth.mean() > 0.9 * skin.mean()
        and 0.85 < teeth.mean() / interior().teeth.mean() / (skin.mean() / SKIN.mean()) ** 0.43 < 1.15
    )
    assert (teeth.max() - teeth.min()) / teeth.mean() < (skin.max() - skin.min()) / skin.mean()


def test_a_smile_lends_its_teeth_and_a_sliver_of_them_does_not():
    yellow = torch.tensor([220.0, 200.0, 120.0])
    hidden, sliver, smile = interior(), interior(at_rest=0.015, teeth=yellow), interior(at_rest=0.06, teeth=yellow)
    assert hidden.own.max() == sliver.own.max() == 0 and smile.own.max() > 0.99
    torch.testing.assert_close(smile.teeth.flatten(), yellow, atol=3, rtol=0)
    # Drawn teeth end behind what the smile shows.
    lower = face(0.06)[0, 14, 1]
    assert lower - 3 * millimetre() < smile.edge.item() < lower
    # An open mouth that shows none: darkness is nobody's teeth.
    dark = interior(at_rest=0.06, teeth=torch.tensor([40.0, 20.0, 20.0]))
    assert dark.own.max() == 0
    torch.testing.assert_close(dark.teeth, hidden.teeth)


def test_colours_stay_between_black_and_white():
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    places = torch.stack([x, y], -1)[None].float()
    for skin in (SKIN, torch.zeros(3), torch.full((3,), 255.0)):
        drawn = interior(skin).draw(places, face(0.1), 1.0)
        assert torch.isfinite(drawn).all() and drawn.min() >= 0 and drawn.max() <= 255
