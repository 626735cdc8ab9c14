"""What is drawn inside of a mouth: where teeth are, whose they are, and in what light."""

import pytest
import torch

from avatarsync import face_mesh
from avatarsync.expression_transfer import FORETOLD_CHIN_SHARE
from avatarsync.face_mesh import INNER_LIPS, LIP_RINGS, LOWER_LIP_POSITIONS, UPPER_LIP_POSITIONS
from avatarsync.mouth_interior import (
    CHIN,
    EDGE_BELOW_LIPS,
    EDGE_FADE,
    JAW_SHARE,
    OUTER_EYE_DISTANCE,
    ROUNDED_HIDDEN,
    MouthInterior,
)
from avatarsync.warping import mesh_flow

SIZE = 256
SKIN = torch.tensor([200.0, 160.0, 140.0])


def face(opening=0.0, scale=1.0):
    """The neutral face with its lower lip lowered by `opening` of the side, and its chin as far as foretold ones then
    go: `(1, 468, 2)` in pixels."""
    points = face_mesh.neutral_landmarks()[None].clone()
    points[:, [ring[i] for ring in LIP_RINGS for i in LOWER_LIP_POSITIONS], 1] += opening
    points[:, CHIN, 1] += FORETOLD_CHIN_SHARE * opening
    return points * SIZE * scale


def interior(skin=SKIN, at_rest=0.0, teeth=None, scale=1.0):
    """Of a face of plain skin, whose mouth shows `teeth` of a colour between lips that are open by `at_rest`."""
    points = face(at_rest, scale)
    side = round(SIZE * scale)
    picture = skin[:, None, None].expand(1, 3, side, side).clone()
    _, mouth = mesh_flow(points, points, side)
    if teeth is not None:
        picture = torch.where(mouth > 0, teeth[:, None, None], picture)
    return MouthInterior(picture, points, side)


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
    return ((points[263] - points[33]).norm() / OUTER_EYE_DISTANCE).item()


def edges(light):
    """Where teeth begin or end: indices of the steepest places of a column that falls by half, or rises."""
    return torch.nonzero((light[1:] > light.mean()) != (light[:-1] > light.mean())).flatten()


def test_upper_teeth_stay_with_the_skull_and_lower_ones_go_with_the_jaw():
    drawn, found = interior(), []
    points = face()[0]
    line = (points[13, 1] + points[14, 1]) / 2
    for drop in (0.05, 0.07):  # lips lower than the jaw alone takes them
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
    assert abs(lower - below - JAW_SHARE * 0.02 * SIZE) < 0.5


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


def test_gaps_are_dark_at_the_edge_and_faint_where_teeth_touch():
    """Otherwise a strip of teeth above a lip, which hides their edges, looks stitched."""
    drawn, points = interior(), lips_moved(face(0.06), upper=-5 * millimetre())
    x = points[0, 13, 0] + torch.arange(-6, 6, 0.05) * millimetre()

    def light_in_the_gap(above_edge):
        height = (drawn.edge.flatten() - above_edge * millimetre()).expand_as(x)
        light = drawn.draw(torch.stack([x, height], -1)[None, None], points, 0.25 * millimetre())[0, :, 0].mean(0)
        return light[len(x) // 2] / light.max()

    assert light_in_the_gap(1.5) < 0.75
    assert 0.8 < light_in_the_gap(4.0) < 0.95
    assert 0.8 < light_in_the_gap(6.0) < 0.95


def lips_moved(points, upper=0.0, lower=0.0):
    """Lips moved down by so many pixels."""
    points = points.clone()
    for positions, distance in ((UPPER_LIP_POSITIONS, upper), (LOWER_LIP_POSITIONS, lower)):
        points[:, [ring[i] for ring in LIP_RINGS for i in positions], 1] += distance
    return points


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


def open_mouth(inside):
    """Of a face whose mouth is 0.06 of the side open, and shows `inside` `(3, H, W)`."""
    points = face(0.06)
    _, mouth = mesh_flow(points, points, SIZE)
    return MouthInterior(torch.where(mouth > 0, inside, SKIN[:, None, None]), points, SIZE)


def in_columns(tooth):
    """Teeth `(3, H, W)` in columns so many mm beside the middle for which `tooth` holds, and the dark."""
    across = (torch.arange(SIZE) - face()[0, 13, 0]) / millimetre()
    light = torch.where(tooth(across), 1.0, 0.1)
    return light * torch.tensor([220.0, 200.0, 180.0])[:, None, None].expand(3, SIZE, SIZE)


def test_what_is_between_lips_is_kept_wholly_where_most_of_it_is_teeth_and_not_at_all_elsewhere():
    """Half transparent, teeth look double, and the dark between a few of them like black fillings."""
    few, most = (open_mouth(in_columns(lambda x, share=share: x % 5 < 5 * share)) for share in (0.35, 0.85))
    assert few.own.max() == 0
    assert most.own.max() > 0.99
    dark = most.own.sum(1)[0, int(face()[0, 13, 1]) + 5]
    assert (dark[118:138] > 0.99).all(), "the dark among them, too"


def test_drawn_teeth_end_where_those_of_a_smile_do():
    narrow, wide, points = open_mouth(in_columns(lambda x: x.abs() < 11)), interior(), face(0.1)
    assert [end.item() for end in narrow.row_ends] == pytest.approx([11, 11], abs=1.5)
    assert min(end.item() for end in wide.row_ends) > 40, "nothing is known of teeth that are hidden"
    x = points[0, 13, 0] + torch.tensor([5.0, 15.0, -15.0]) * millimetre()
    height = narrow.edge.flatten() - 4 * millimetre()
    light = narrow.draw(torch.stack([x, height.expand_as(x)], -1)[None, None], points, 0.25)[0, :, 0].mean(0)
    assert (light[1:] < 0.4 * light[0]).all()


def test_own_teeth_reach_up_to_a_lip_that_rises():
    smile, points = interior(at_rest=0.06, teeth=torch.tensor([220.0, 200.0, 180.0])), face(0.06)
    heights = torch.arange(points[0, 13, 1].item() - 4 * millimetre(), smile.edge.item(), 0.1)
    x = (points[0, 13, 0] + 2 * millimetre()).expand_as(heights)
    places = torch.stack([x, heights], -1)[None, :, None]
    raised = lips_moved(points, upper=-3 * millimetre())
    (_, (still, share, _)), (_, (where, stretched, _)) = (smile.kept(places, lips) for lips in (points, raised))
    assert torch.equal(still, places)
    depth = (heights - points[0, 13, 1]) / millimetre()
    assert share[0, 0, depth < -1].max() == 0
    assert stretched[0, 0, depth < -3.5].max() < 0.1
    assert stretched[0, 0, (depth > -1) & (depth < 5)].min() > 0.8
    # Evenly, and their edge stays where it was.
    y = where[0, :, 0, 1]
    assert (y.diff() > 0.04).all()
    below = heights > smile.edge.item() - 1 * millimetre()
    torch.testing.assert_close(y[below], heights[below], atol=0.01, rtol=0)
    _, (lowered, _, _) = smile.kept(places, lips_moved(points, upper=3 * millimetre()))
    assert torch.equal(lowered, places), "a lip that comes down hides them"


def test_colours_stay_between_black_and_white():
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    places = torch.stack([x, y], -1)[None].float()
    for skin in (SKIN, torch.zeros(3), torch.full((3,), 255.0)):
        drawn = interior(skin).draw(places, face(0.1), 1.0)
        assert torch.isfinite(drawn).all() and drawn.min() >= 0 and drawn.max() <= 255


def turned(points, angle, side=SIZE):
    """Points `(…, 2)` turned about the middle of a picture."""
    angle = torch.tensor(angle)
    cos, sin = angle.cos(), angle.sin()
    return (points - side / 2) @ torch.stack([torch.stack([cos, sin]), torch.stack([-sin, cos])]) + side / 2


@pytest.mark.parametrize("angle", [0.5, -1.2, 3.1])
def test_a_tilted_face_has_the_same_mouth(angle):
    """Crops need not be level (`face_centric`)."""
    points, spoken = face(), face(0.06)
    picture = SKIN[:, None, None].expand(1, 3, SIZE, SIZE)
    x, y = torch.meshgrid(torch.arange(-20.0, 21), torch.arange(0.0, 14), indexing="xy")
    places = torch.stack([x, y], -1)[None] + points[0, 13]
    level = MouthInterior(picture, points, SIZE).draw(places, spoken, 1.0)
    tilted = MouthInterior(picture, turned(points, angle), SIZE)
    torch.testing.assert_close(tilted.draw(turned(places, angle), turned(spoken, angle), 1.0), level, atol=0.5, rtol=0)


def test_every_face_of_a_batch_has_its_own_mouth():
    smile = interior(at_rest=0.06, teeth=torch.tensor([220.0, 200.0, 180.0]))
    points = torch.cat([face(), face(0.06)])
    picture = torch.cat([SKIN[:, None, None].expand(1, 3, SIZE, SIZE)] * 2)
    _, mouth = mesh_flow(points, points, SIZE)
    picture = torch.where(mouth > 0, torch.tensor([220.0, 200.0, 180.0])[:, None, None], picture)
    picture[0] = SKIN[:, None, None]
    both = MouthInterior(picture, points, SIZE)
    torch.testing.assert_close(both.own[1:], smile.own)
    y, x = torch.meshgrid(torch.arange(180.0, 230), torch.arange(90.0, 170), indexing="ij")
    places = torch.stack([x, y], -1)[None]
    spoken = torch.cat([face(0.08), face(0.1)])
    drawn = both.draw(places.expand(2, -1, -1, -1), spoken, 1.0)
    torch.testing.assert_close(drawn[:1], interior().draw(places, spoken[:1], 1.0))
    torch.testing.assert_close(drawn[1:], smile.draw(places, spoken[1:], 1.0))


@pytest.mark.parametrize("flesh", [(40, 20, 20), (130, 70, 70), (175, 105, 100)])
def test_lips_and_tongues_are_no_teeth(flesh):
    """Landmarks are off by a pixel or two: some of the lips lies between them."""
    mouth = interior(at_rest=0.06, teeth=torch.tensor(flesh).float())
    assert mouth.own.max() == 0
    torch.testing.assert_close(mouth.teeth, interior().teeth)


def test_a_mouth_that_hangs_open_is_dark_below_its_upper_teeth():
    mouth = interior(at_rest=0.09, teeth=torch.tensor([40.0, 20.0, 20.0]))
    points = face(0.09)
    heights = torch.arange(points[0, 13, 1].item() + 1, points[0, 14, 1].item() - 1, 0.25)
    x = points[0, 13, 0] + 4 * millimetre()
    light = mouth.draw(torch.stack([x.expand_as(heights), heights], -1)[None, :, None], points, 0.25)[0, :, :, 0].mean(
        0
    )
    depth = (heights - heights[0]) / millimetre()
    assert light[depth < 3].max() > 130
    assert light[(depth > 6) & (depth < 11)].max() < 70


def test_both_rows_of_a_laugh_are_told_apart_and_the_lower_one_goes_with_the_jaw():
    points = face(0.08)
    _, mouth = mesh_flow(points, points, SIZE)
    top = points[0, 13, 1]
    depth = (torch.arange(SIZE) - top)[:, None].expand(SIZE, SIZE) / millimetre()
    teeth = (depth < 7) | (depth > 10)
    inside = torch.where(teeth, torch.tensor([210.0, 190.0, 165.0])[:, None, None], torch.tensor(30.0))
    picture = torch.where(mouth[0] > 0, inside, SKIN[:, None, None])[None]
    laugh = MouthInterior(picture, points, SIZE)
    assert abs((laugh.edge.item() - top) / millimetre() - 6.4) < 1.2
    lowered = face(0.12)
    places = torch.stack(torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="xy"), -1)[None].float()
    (lower, lower_share, _), (upper, upper_share, light) = laugh.kept(places, lowered)
    assert light.max() <= 1 and light[0, 0, int(top) + 6, 128] > 0.99
    pressed = points.clone()
    pressed[:, [ring[i] for ring in LIP_RINGS for i in UPPER_LIP_POSITIONS], 1] += 5 * millimetre()
    _, (_, _, shaded) = laugh.kept(places, pressed)
    assert shaded[0, 0, int(top) + 7, 128] < 0.7, "lips that come down shade the teeth behind them"
    fallen = JAW_SHARE * 0.04 * SIZE
    torch.testing.assert_close(places - lower, torch.tensor([0.0, fallen]).expand_as(places), atol=0.05, rtol=0)
    assert torch.equal(upper, places)
    column = int(points[0, 13, 0])
    rows = [torch.nonzero(share[0, 0, :, column] > 0.5).flatten() for share in (upper_share, lower_share)]
    assert rows[0].min() < top + 3 and abs(rows[0].max() - top - 8 * millimetre()) < 2 * millimetre()
    assert rows[1].max() > points[0, 14, 1] - 4 + fallen - 1 and rows[1].min() > rows[0].max()


@pytest.mark.parametrize("skin", [(10, 90, 170), (0, 120, 0), (2, 60, 160)])
def test_the_dark_stays_dark_in_coloured_light(skin):
    skin = torch.tensor(skin).float()
    mouth = interior(skin)
    assert mouth.dark.max() < 0.4 * skin.mean() and mouth.tongue.max() < skin.mean()


def narrowed(points, share):
    """Lips that are narrower by a share."""
    points = points.clone()
    lips = [i for ring in LIP_RINGS for i in ring]
    middle = points[:, 13, 0]
    points[:, lips, 0] = middle + (1 - share) * (points[:, lips, 0] - middle)
    return points


def test_painted_teeth_go_out_of_sight_from_their_edge_upwards():
    """Those of smiles: darker and darker as a whole, they would be grey half way."""
    mouth = interior()
    below = torch.arange(-20.0, 6.0, 0.1)  # mm
    heights = mouth.edge.item() + below * mouth.mm.item()
    x = mouth.middle.item() + torch.zeros_like(heights)
    cos, sin = mouth.cos.item(), mouth.sin.item()  # the neutral face's eyes are not quite level
    places = torch.stack([cos * x - sin * heights, sin * x + cos * heights], -1)[None, :, None]
    before = -float("inf")
    for share in (0.0, 0.13, 0.16, 0.25):
        points = narrowed(face(0.03), share)
        dark, rounded = mouth.out_of_sight(places, points).flatten(), mouth.rounded(points).item()
        assert rounded > before
        before, raised = rounded, -ROUNDED_HIDDEN * rounded
        assert dark[below < raised].max() < 1e-3, "teeth that are seen keep their light"
        hidden = (below > raised + EDGE_FADE) & (below < -EDGE_FADE)
        assert hidden.any() == (rounded > 0.4) and (dark[hidden] > 0.99).all()
        torch.testing.assert_close(dark[below > 1], torch.full_like(dark[below > 1], rounded))
    assert rounded > 0.95


def test_rounded_lips_hide_teeth_unless_they_are_wide_open():
    def down_the_mouth(drawn, opening, share):
        points = narrowed(face(opening), share)
        upper, lower = (points[0, lip, 1].item() for lip in (13, 14))
        heights = torch.arange(upper + 1, lower - 1, 0.1)
        x = (points[0, 13, 0] + 4 * millimetre()).expand_as(heights)
        places = torch.stack([x, heights], -1)[None, :, None]
        return drawn.draw(places, points, 0.1)[0, :, :, 0].mean(0), drawn.kept(places, points)

    hidden, smile = interior(), interior(at_rest=0.06, teeth=torch.tensor([230.0, 220.0, 205.0]))
    for drawn in (hidden, smile):
        usual, _ = down_the_mouth(drawn, 0.03, 0.0)
        assert down_the_mouth(drawn, 0.03, 0.03)[0].max().item() == pytest.approx(usual.max().item(), rel=0.02)
        rounded, bright = down_the_mouth(drawn, 0.03, 0.25)[0], 0.6 * usual.max()
        assert (rounded > bright).sum() < 0.5 * (usual > bright).sum()
        assert rounded[len(rounded) // 2 :].max() < 0.4 * usual.max()
        assert down_the_mouth(drawn, 0.15, 0.25)[0].max() > 0.9 * usual.max()
    # Below the upper lip there is less of them, and as much less of a smile's own, in the same light.
    ends = [edges(down_the_mouth(hidden, 0.05, share)[0])[0].item() / 10 for share in (0.0, 0.13)]
    assert ends[1] < ends[0] - 1.2 * millimetre()
    (usual, _, light), (where, _, unchanged) = (down_the_mouth(smile, 0.03, share)[1][1] for share in (0.0, 0.25))
    hidden_by = (where - usual)[..., 1]
    torch.testing.assert_close(hidden_by, torch.full_like(hidden_by, ROUNDED_HIDDEN * millimetre()), rtol=0.02, atol=0)
    assert unchanged.max() == light.max()


@pytest.mark.parametrize("articulation", [0.5, 2.0])
def test_lips_are_as_rounded_however_far_they_are_told_to_go(articulation):
    picture, points = SKIN[:, None, None].expand(1, 3, SIZE, SIZE).clone(), face()
    usual, told = (MouthInterior(picture, points, SIZE, articulation=far) for far in (1.0, articulation))
    for opening, share in ((0.02, 0.11), (0.05, 0.09), (0.03, 0.25)):
        as_usual = usual.rounded(narrowed(face(opening), share))
        assert as_usual > 0.02
        far = told.rounded(narrowed(face(articulation * opening), articulation * share))
        assert far.item() == pytest.approx(as_usual.item(), abs=0.03)


def test_what_was_seen_of_people_counts_as_rounded_sooner_and_smiles_later():
    picture, points = SKIN[:, None, None].expand(1, 3, SIZE, SIZE).clone(), face()
    foretold, seen = (MouthInterior(picture, points, SIZE, foretold=how) for how in (True, False))
    opened = face(0.03)
    slightly = narrowed(opened, 0.08)
    assert seen.rounded(slightly) > foretold.rounded(slightly) + 0.2
    smiling = MouthInterior(picture, narrowed(points, -0.3), SIZE)
    assert smiling.rounded(narrowed(opened, 1 - 1.3 * 0.88)) == 0 < foretold.rounded(narrowed(opened, 0.12))
    assert smiling.rounded(narrowed(opened, 0.12)) > 0.9
    assert foretold.rounded(narrowed(points, 0.12)) == 0, "shut"


def test_a_raised_tongue_is_seen_below_the_upper_teeth():
    drawn, points = interior(), face(0.12)
    upper, lower = (points[0, lip, 1].item() for lip in (13, 14))
    heights = torch.arange(upper + 1, lower - 1, 0.1)
    x = (points[0, 13, 0] + 2 * millimetre()).expand_as(heights)
    places = torch.stack([x, heights], -1)[None, :, None]

    def redness(*tongue_heights):
        colour = drawn.draw(places, points, 0.1, *tongue_heights)[0, :, :, 0]
        return colour[0] - colour[1]

    low, raised = redness(torch.tensor([0.0])), redness(torch.tensor([0.8]))
    assert torch.equal(low, redness())
    below_teeth = (heights > upper + 6 * millimetre()) & (heights < upper + 8 * millimetre())
    assert raised[below_teeth].mean() > 1.3 * low[below_teeth].mean()
    assert torch.equal(low[:20], raised[:20]), "the upper teeth stay before it"


def test_between_the_teeth_the_tip_covers_them_from_the_lower_lip_up():
    drawn, points = interior(at_rest=0.06, teeth=torch.tensor([230.0, 220.0, 205.0])), face(0.02)
    upper, lower = (points[0, lip, 1].item() for lip in (13, 14))
    heights = torch.arange(upper + 1, lower - 0.5, 0.1)
    x = (points[0, 13, 0] + 2 * millimetre()).expand_as(heights)
    places = torch.stack([x, heights], -1)[None, :, None]

    def redness(height):
        colour = drawn.draw(places, points, 0.1, torch.tensor([height]))[0, :, :, 0]
        return colour[0] / colour[1]

    teeth, tip = redness(0.8), redness(1.0)
    assert (tip[-8:] > 1.4 * teeth[-8:]).all(), "on the lower lip"
    kept = [drawn.kept(places, points, torch.tensor([height]))[1][1][0, 0, :, 0] for height in (0.8, 1.0)]
    assert (kept[1][-8:] < 0.1 * kept[0][-8:]).all() and kept[0][-8:].min() > 0.5
    beyond = drawn.draw(places + torch.tensor([14 * millimetre(), 0.0]), points, 0.1, torch.tensor([1.0]))
    torch.testing.assert_close(
        beyond, drawn.draw(places + torch.tensor([14 * millimetre(), 0.0]), points, 0.1), atol=40, rtol=0
    )


def test_the_tip_has_the_colour_of_the_lips_and_lies_in_the_shade_of_the_teeth():
    points, spoken = face(), face(0.02)
    picture = SKIN[:, None, None].repeat(1, SIZE, SIZE)[None]
    top, bottom = int(points[0, 14, 1]), int(points[0, 17, 1]) + 1
    lips = torch.tensor([190.0, 120.0, 150.0])
    picture[..., top:bottom, :] = lips[:, None, None]
    drawn, usual = MouthInterior(picture, points, SIZE), interior()
    assert drawn.tip[0, 2] > 1.08 * drawn.tip[0, 1] and usual.tip[0, 2] < usual.tip[0, 1]
    assert usual.tip[0, 0] < 0.9 * SKIN[0]
    heights = torch.arange(spoken[0, 14, 1].item() - 2.5 * millimetre(), spoken[0, 14, 1].item(), 0.1)
    x = points[0, 13, 0].expand_as(heights)
    places = torch.stack([x, heights], -1)[None, :, None]
    light = drawn.draw(places, spoken, 0.1, torch.tensor([1.0]))[0, :, :, 0]
    assert light[0, 0] < 0.85 * light[0].max() and light[0, -1] > 0.85 * light[0].max()
