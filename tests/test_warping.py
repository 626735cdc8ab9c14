import pytest
import torch

from avatarsync import face_mesh
from avatarsync.expression_transfer import (
    BITTEN_GAP,
    CHIN,
    EARS,
    FLATTENED_SHARE,
    FORETOLD_CHIN_SHARE,
    FORETOLD_WIDTH_GAIN,
    OPENED_CHIN_SHARE,
    OPENED_GAP,
    PARTED_GAP,
    PRESSED_SHARE,
    PURSED_SHARE,
    RELEASED_SHARE,
    RESTING_WIDTH,
    SMILE_RELEASE,
    ExpressionTransfer,
    smile_release,
)
from avatarsync.lip_edges import lip_gaps
from avatarsync.mirrored_landmarks import MIRRORED
from avatarsync.warping import mesh_flow, rasterize_triangles, soften, warp

SIZE = 96


@pytest.fixture
def face():
    return face_mesh.neutral_landmarks()[None]


@pytest.fixture(scope="module")
def transfer():
    return ExpressionTransfer()


def opened(face, gap=0.05):
    """The neutral face with its lower lip and chin lowered by `gap`."""
    face = face.clone()
    lower = [ring[i] for ring in face_mesh.LIP_RINGS for i in face_mesh.LOWER_LIP_POSITIONS]
    face[:, lower, 1] += gap
    face[:, [152, 148, 377], 1] += gap
    return face


def inner_gap(landmarks):
    return landmarks[:, 14, 1] - landmarks[:, 13, 1]


def test_the_mesh_is_whole():
    triangles, kinds = face_mesh.triangles(), face_mesh.triangle_kinds()
    vertices = face_mesh.add_fade_rings(face_mesh.neutral_landmarks())
    assert sorted(triangles.unique().tolist()) == list(range(len(vertices)))
    # An n-gon takes n - 2 triangles: one mouth of 20 points, two eyes of 16.
    assert (kinds == face_mesh.MOUTH_INTERIOR).sum() == 18
    assert (kinds == face_mesh.EYE_INTERIOR).sum() == 28


def test_rasterisation_agrees_with_testing_every_pixel():
    torch.manual_seed(0)
    corners = torch.rand(40, 3, 2) * 30 + 1
    owner = torch.arange(40) % 3
    covering = rasterize_triangles(corners, owner, 3, 32, 32)
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    expected = torch.full((3, 32, 32), -1)
    for index, (a, b, c) in enumerate(corners):
        if (b - a)[0] * (c - a)[1] - (b - a)[1] * (c - a)[0] <= 0:
            continue
        inside = torch.ones(32, 32, dtype=torch.bool)
        for start, end in ((a, b), (b, c), (c, a)):
            inside &= (end - start)[0] * (y - start[1]) - (end - start)[1] * (x - start[0]) >= 0
        expected[owner[index]][inside] = index
    # Pixels exactly on an edge may fall to either side.
    assert (covering != expected).float().mean() < 0.002
    assert (covering >= 0).any()


def test_no_motion_means_no_flow(face):
    flow, _ = mesh_flow(face * SIZE, face * SIZE, SIZE)
    assert not flow.any()


def test_a_moved_face_is_found_where_it_came_from(face):
    flow, _ = mesh_flow(face * SIZE, face * SIZE + torch.tensor([2.0, -1.0]), SIZE)
    nose = (face[0, 1] * SIZE).round().long()
    assert torch.allclose(flow[0, :, nose[1], nose[0]], torch.tensor([-2.0, 1.0]), atol=1e-3)
    # The corners of the crop lie beyond the rings in which motion fades.
    assert not flow[0, :, 0, 0].any() and not flow[0, :, -1, -1].any()


def test_an_opening_mouth_has_an_interior_and_a_closed_one_none(face):
    _, closed = mesh_flow(face * SIZE, face * SIZE, SIZE)
    _, mouth = mesh_flow(face * SIZE, opened(face) * SIZE, SIZE)
    assert mouth.sum() > 20 > closed.sum()


def test_flow_is_differentiable_in_the_landmarks(face):
    target = (opened(face) * SIZE).requires_grad_()
    flow, _ = mesh_flow(face * SIZE, target, SIZE)
    flow.square().sum().backward()
    assert target.grad[0, 17].abs().sum() > 0 and torch.isfinite(target.grad).all()


def test_warping_by_nothing_changes_nothing():
    image = torch.rand(2, 3, 31, 45)
    assert torch.allclose(warp(image, torch.zeros(2, 2, 31, 45)), image, atol=1e-5)


def test_warping_by_whole_pixels_shifts():
    image = torch.rand(1, 1, 20, 20)
    flow = torch.zeros(1, 2, 20, 20)
    flow[:, 0] = 3
    assert torch.allclose(warp(image, flow)[..., :17], image[..., 3:], atol=1e-5)


def test_softening_keeps_the_mean_of_what_lies_inside():
    mask = torch.zeros(1, 1, 40, 40)
    mask[..., 15:25, 15:25] = 1
    soft = soften(mask, 1.5)
    assert soft.sum().item() == pytest.approx(100, rel=1e-3)
    assert 0 < soft[0, 0, 14, 20] < 1


def test_ones_own_expression_is_the_reference_itself(face, transfer):
    reference = opened(face)
    assert torch.allclose(transfer(reference, reference, reference), reference, atol=2e-3)


def test_an_expression_fits_a_face_of_other_proportions(face, transfer):
    reference = (face - 0.5) * 1.1 + 0.5
    target = transfer(reference, opened(face), face)
    assert inner_gap(target).item() == pytest.approx(inner_gap(opened(face)).item(), abs=0.005)
    # Lips keep the thickness that is their own.
    thickness = [(x[:, 17, 1] - x[:, 14, 1]).item() for x in (reference, target)]
    assert thickness[1] == pytest.approx(thickness[0], rel=0.05)


def test_the_neutral_expression_closes_an_open_mouth(face, transfer):
    reference = opened(face)
    target = transfer(reference, face, reference)
    assert inner_gap(target).item() == pytest.approx(inner_gap(face).item(), abs=1e-3)


def test_lips_never_cross(face, transfer):
    torch.manual_seed(0)
    expressions = face + 0.02 * torch.randn(16, 468, 2)
    target = transfer(face.expand(16, -1, -1), expressions, face.expand(16, -1, -1))
    inner = list(face_mesh.INNER_LIPS)
    upper = target[:, [inner[i] for i in face_mesh.UPPER_LIP_POSITIONS], 1]
    lower = target[:, [inner[i] for i in face_mesh.LOWER_LIP_POSITIONS], 1]
    own = torch.stack([face[0, [inner[i] for i in side], 1] for side in (face_mesh.LOWER_LIP_POSITIONS,
                                                                      face_mesh.UPPER_LIP_POSITIONS)])  # fmt: skip
    # By no more than the landmarks of the reference itself.
    assert (lower - upper >= (own[0] - own[1]).clamp(max=0) - 1e-6).all()


def test_a_smile_closes_and_stays_a_smile(face, transfer):
    """In the same expression as at rest, only the lips of an open reference come together."""
    reference = opened(face)
    outer = list(face_mesh.OUTER_LIPS)
    corners = [outer[0], outer[10]]
    reference[:, corners, 1] -= 0.03  # raised
    target = transfer(reference, face, face)
    assert inner_gap(target).item() == pytest.approx(0, abs=2e-3)
    torch.testing.assert_close(target[:, corners], reference[:, corners])
    still = [10, 33, 263]
    assert torch.equal(target[:, still], reference[:, still])


def test_lips_of_a_smile_that_shuts_are_pressed(face, transfer):
    def thickness(landmarks):
        return torch.stack([landmarks[0, 17, 1] - landmarks[0, 14, 1], landmarks[0, 13, 1] - landmarks[0, 0, 1]])

    reference = opened(face)
    shut, ajar = transfer(reference, face, reference), transfer(reference, opened(face, 0.045), reference)
    assert torch.allclose(thickness(shut), (1 - PRESSED_SHARE) * thickness(reference), rtol=0.02)
    assert torch.allclose(thickness(ajar), thickness(reference), rtol=0.02)


def test_the_sides_of_a_face_stay_when_the_jaw_drops(face, transfer):
    torch.manual_seed(0)
    lowered = face + 0.03 * (face[..., 1:] > 0.45)
    line = [132, 58, 172, 136, 150, 149, 176, 148]
    lowered[:, line] += 0.01 * torch.randn(8, 2)  # what codes say of the jaw's line is not steady
    moved = (transfer(face, lowered, face) - face)[0]
    assert moved[[*EARS, 93, 323]].abs().max() < 1e-3 and moved[152, 1].item() == pytest.approx(0.03, abs=1e-4)
    along_the_jaw = moved[[*line, 152], 1]
    assert (along_the_jaw.diff() > 0).all() and along_the_jaw[0] < 0.005
    assert moved[line, 0].abs().max() < 1e-3


def test_foretold_chins_go_some_of_their_way(face, transfer):
    lowered = opened(face)
    lowered[:, [18, 200, 199]] += torch.tensor([0.0, 0.05])
    below = [17, 18, 200, 199, CHIN]  # from the lip's edge down
    seen, foretold = ((transfer(face, lowered, face, foretold=known) - face)[0, below, 1] for known in (False, True))
    left = foretold / seen
    assert left[0].item() == pytest.approx(1, abs=0.01) and left[-1].item() == pytest.approx(
        FORETOLD_CHIN_SHARE, rel=1e-3
    )
    assert (left.diff() < 0).all()


def test_skin_beside_a_faces_contour_goes_with_it(face, transfer):
    pursed = face.clone()
    cheeks = [177, 215, 138, 192, 401, 435, 367, 416]
    inwards = 0.03 * (0.5 - face[:, cheeks, 0]).sign()
    pursed[:, cheeks] += torch.stack([inwards, torch.full_like(inwards, -0.02)], -1)
    seen, foretold = (
        (transfer(face, pursed, face, foretold=known) - face)[0, cheeks].abs() for known in (False, True)
    )
    assert seen[:, 0].min() > 0.005
    # The nearer, the less is left of what they do by themselves: 2, 3, 4 and 6 % of the crop from the contour.
    left = (foretold / seen)[:, 0].view(2, 4).mean(0)
    assert left[0] < 0.05 and (left.diff() > 0).all() and left[3] < 1
    # What the contour does, they do.
    lowered = face + 0.03 * (face[..., 1:] > 0.45)
    moved = (transfer(face, lowered, face, foretold=True) - face)[0]
    assert moved[140, 1].item() == pytest.approx(moved[[176, 149, 148], 1].mean().item(), rel=0.1)


def test_evened_faces_do_the_same_on_both_sides(face, transfer):
    torch.manual_seed(0)
    mirrored = torch.tensor(MIRRORED)
    assert torch.equal(mirrored[mirrored], torch.arange(468))
    expression = opened(face) + 0.01 * torch.randn(1, 468, 2)

    def as_in_a_mirror(expression):
        return face + (expression - face)[:, mirrored] * torch.tensor([-1.0, 1.0])

    target = transfer(face, expression, face, foretold=True)
    torch.testing.assert_close(target, transfer(face, as_in_a_mirror(expression), face, foretold=True))
    symmetric = (expression + as_in_a_mirror(expression)) / 2
    torch.testing.assert_close(target, transfer(face, symmetric, face, foretold=True))
    assert not torch.allclose(target, transfer(face, expression, face), atol=1e-3)


def narrowed(face, share):
    """A face whose mouth is narrower by `share` of its width."""
    face = face.clone()
    lips = [point for ring in face_mesh.LIP_RINGS for point in ring]
    middle = face[:, lips, 0].mean()
    face[:, lips, 0] = middle + (1 - share) * (face[:, lips, 0] - middle)
    return face


def mouth_width(landmarks):
    return (landmarks[0, 291, 0] - landmarks[0, 61, 0]).item()


def test_foretold_mouths_narrow_and_widen_farther(face, transfer):
    def inner_width(landmarks):
        return (landmarks[0, 308, 0] - landmarks[0, 78, 0]).item()

    own = inner_width(face)
    for share in (0.05, -0.03):
        seen, foretold = (transfer(face, narrowed(face, share), face, foretold=foretold) for foretold in (False, True))
        assert inner_width(seen) / own - 1 == pytest.approx(-share, rel=0.02)
        assert inner_width(foretold) / own - 1 == pytest.approx(-FORETOLD_WIDTH_GAIN * share, rel=0.02)
        # The outer corners keep to the inner ones.
        beside = [landmarks[0, 78, 0] - landmarks[0, 61, 0] for landmarks in (seen, foretold)]
        assert beside[1].item() == pytest.approx(beside[0].item(), abs=1e-4)


@pytest.mark.parametrize("articulation", [0.5, 1.5, 2.0])
def test_articulation_scales_what_is_foretold_and_shuts_what_shuts(face, transfer, articulation):
    usual = transfer(face, opened(face), face, foretold=True)
    told = transfer(face, opened(face), face, True, articulation)
    assert inner_gap(told).item() == pytest.approx(articulation * inner_gap(usual).item(), rel=0.02)
    drops = [(landmarks[0, 152, 1] - face[0, 152, 1]).item() for landmarks in (usual, told)]
    assert drops[1] == pytest.approx(articulation * drops[0], rel=0.02)
    for gap in (0.0, 0.005):  # what is foretold of /p/ is not quite shut
        assert inner_gap(transfer(face, opened(face, gap), face, True, articulation)).item() < 1e-3
    smile = opened(face, 0.03)
    assert inner_gap(transfer(smile, face, smile, True, articulation)).item() < 1e-3
    seen = transfer(face, opened(face), face, articulation=articulation)
    torch.testing.assert_close(seen, transfer(face, opened(face), face))


def test_a_smile_gives_way_to_rounded_lips(face, transfer, monkeypatch):
    def thickness(landmarks):
        return (landmarks[0, 17, 1] - landmarks[0, 14, 1]).item()

    smile = narrowed(face, -0.2)
    at_rest = transfer(smile, face, face, foretold=True)
    assert mouth_width(at_rest) == pytest.approx(mouth_width(smile), rel=1e-4)
    rounded = narrowed(face, 0.13)
    assert FORETOLD_WIDTH_GAIN * 0.13 > RELEASED_SHARE
    released = SMILE_RELEASE * (1 - RESTING_WIDTH / mouth_width(smile))
    given_way = transfer(smile, rounded, face, foretold=True)
    monkeypatch.setattr("avatarsync.expression_transfer.SMILE_RELEASE", 0.0)
    kept = transfer(smile, rounded, face, foretold=True)
    assert mouth_width(given_way) == pytest.approx((1 - released) * mouth_width(kept), rel=0.01)
    # The outer lips keep their thickness at the corners, the inner ones give way to the full.
    widths = [(drawn[0, 308, 0] - drawn[0, 78, 0]).item() for drawn in (given_way, kept)]
    assert widths[0] == pytest.approx((1 - released) * widths[1], rel=1e-3)
    assert thickness(given_way) == pytest.approx(thickness(kept) / (1 - released), rel=0.02)
    # Mouths of the usual width have nothing to give.
    monkeypatch.undo()
    assert smile_release(torch.tensor(RESTING_WIDTH), torch.tensor(0.2)).item() == 0


def test_rounded_lips_stay_a_little_open_and_shut_ones_shut(face, transfer):
    rounded = narrowed(face, 0.075)
    for gap, alike, when_rounded in ((0.013, 0.006, 0.013), (0.005, 0.0, 0.0), (0.03, 0.03, 0.03)):
        drawn = [inner_gap(transfer(face, opened(lips, gap), face, foretold=True)).item() for lips in (face, rounded)]
        own = inner_gap(face).item()
        assert drawn == pytest.approx([alike + own, when_rounded + own], abs=1e-3)


def test_rounded_lips_are_pursed(face, transfer):
    """The upper one is thicker, and they are open in their middle, which is as open as it was; not so where it was
    seen in a picture."""

    def shape(lips, foretold=True):
        drawn = transfer(face, opened(lips, 0.05), face, foretold=foretold)
        upper, lower = drawn[0, 13, 1] - drawn[0, 0, 1], drawn[0, 17, 1] - drawn[0, 14, 1]
        return lip_gaps(drawn)[0] - lip_gaps(face)[0], torch.stack([upper, lower])

    (alike, thin), (round_gaps, thick) = shape(face), shape(narrowed(face, 0.1))
    assert round_gaps[4].item() == pytest.approx(alike[4].item(), rel=0.02)
    for near, side in ((1, 0.6), (2, 0.85)):  # the second and third from each corner
        assert (round_gaps[[near, 8 - near]] < side * alike[[near, 8 - near]]).all()
    torch.testing.assert_close(thick / thin, torch.tensor([1.3, 1.0]), rtol=0.05, atol=0)
    seen = shape(face, False), shape(narrowed(face, 0.1), False)
    torch.testing.assert_close(seen[0][0], seen[1][0], atol=2e-3, rtol=0)


def asking(pursed, bitten, parted, opened=0.0):
    return torch.tensor([[pursed, bitten, parted, opened]])


def test_lips_do_what_phonemes_ask_for_where_they_are_foretold(face, transfer):
    for expression in (face, opened(face)):
        usual = transfer(face, expression, face, foretold=True)
        torch.testing.assert_close(transfer(face, expression, face, True, 1.0, asking(0.0, 0.0, 0.0)), usual)
        seen = transfer(face, expression, face)
        torch.testing.assert_close(transfer(face, expression, face, lips=asking(1.0, 1.0, 1.0, 1.0)), seen)


def test_pursed_lips_are_narrow_and_lose_their_smile(face, transfer):
    def asked_width(expression, pursed, articulation=1.0):
        drawn = transfer(face, expression, face, True, articulation, asking(pursed, 0.0, 0.0))
        return (drawn[0, 308, 0] - drawn[0, 78, 0]).item() / (face[0, 308, 0] - face[0, 78, 0]).item()

    assert asked_width(face, 1.0) == pytest.approx(1 - PURSED_SHARE, abs=0.01)
    assert asked_width(face, 0.5) == pytest.approx(1 - PURSED_SHARE / 2, abs=0.01)
    assert asked_width(face, 1.0, 0.5) == pytest.approx(1 - PURSED_SHARE / 2, abs=0.01)
    for articulation in (1.0, 2.0):
        wider = asked_width(narrowed(face, -0.1), 1.0, articulation)
        assert wider == pytest.approx(1 - articulation * PURSED_SHARE, abs=0.03), "however wide it is said to be"
    narrower = narrowed(face, 0.15)
    assert asked_width(narrower, 1.0) == pytest.approx(asked_width(narrower, 0.0), abs=1e-4), "codes do more"

    smile = face.clone()
    corners = [ring[i] for ring in face_mesh.LIP_RINGS for i in (0, 10)]
    smile[:, corners, 1] -= 0.03
    kept, lost = (transfer(smile, face, face, True, 1.0, asking(pursed, 0.0, 0.0)) for pursed in (0.0, 1.0))
    heights = [(drawn[0, [13, 14], 1].mean() - drawn[0, [78, 308], 1].mean()).item() for drawn in (kept, lost)]
    assert heights[1] == pytest.approx((1 - FLATTENED_SHARE) * heights[0], rel=0.05)


def test_parted_lips_are_apart_and_bitten_ones_show_the_upper_teeth(face, transfer):
    own = inner_gap(face).item()

    def drawn(gap, *asked, articulation=1.0):
        return transfer(face, opened(face, gap), face, True, articulation, asking(*asked))

    for articulation in (1.0, 0.5):
        parted = drawn(0.0, 0.0, 0.0, 1.0, articulation=articulation)
        assert inner_gap(parted).item() - own == pytest.approx(articulation * PARTED_GAP, abs=1e-3)
    wide = drawn(0.06, 0.0, 0.0, 1.0)
    torch.testing.assert_close(wide, drawn(0.06, 0.0, 0.0, 0.0))
    for gap in (0.0, 0.06):
        bitten = drawn(gap, 0.0, 1.0, 0.0)
        assert inner_gap(bitten).item() - own == pytest.approx(BITTEN_GAP, abs=1e-3)
    bitten = drawn(0.0, 0.0, 1.0, 0.0)
    raised, lowered = (away * (bitten[0, lip, 1] - face[0, lip, 1]).item() for lip, away in ((13, -1), (14, 1)))
    assert raised > 0.7 * BITTEN_GAP and lowered < 0.3 * BITTEN_GAP
    below = [(lips[0, 17, 1] - lips[0, 14, 1]).item() for lips in (bitten, face)]
    assert below[0] < 0.8 * below[1]


def test_opened_lips_take_the_chin_down(face, transfer):
    def drawn(gap, asked, articulation=1.0):
        moved = transfer(face, opened(face, gap), face, True, articulation, asking(0.0, 0.0, 0.0, asked))
        return inner_gap(moved).item() - inner_gap(face).item(), (moved - face)[0, CHIN, 1].item()

    for articulation in (1.0, 0.5):
        gap, chin = drawn(0.0, 1.0, articulation)
        assert gap == pytest.approx(articulation * OPENED_GAP, abs=1e-3)
        assert chin == pytest.approx(OPENED_CHIN_SHARE * gap, rel=0.15)  # and some of what lips pull along
    gap, chin = drawn(0.03, 0.8)
    assert gap == pytest.approx(0.8 * OPENED_GAP, abs=1e-3) and chin > drawn(0.03, 0.0)[1]
    assert drawn(0.07, 1.0) == pytest.approx(drawn(0.07, 0.0)), "codes do more"


def test_lips_that_touch_stay_where_they_are_in_the_expression_of_rest(face, transfer):
    reference = 0.9 * face + 0.03
    rest = face + 0.01 * torch.sin(torch.arange(936.0)).view(1, 468, 2)
    rest[:, list(face_mesh.INNER_LIPS)] = face[:, list(face_mesh.INNER_LIPS)]
    torch.testing.assert_close(transfer(reference, rest, rest, foretold=True), reference, atol=1e-5, rtol=0)


def test_eyes_close_by_their_own_size_and_not_at_all_where_nothing_is_known_of_them(face, transfer):
    upper, lower = list(face_mesh.RIGHT_UPPER_LID), list(face_mesh.RIGHT_LOWER_LID)

    def opening(landmarks):
        return (landmarks[:, lower, 1] - landmarks[:, upper, 1]).mean().item()

    half_shut = opened(face)
    half_shut[:, upper, 1] += (half_shut[:, lower, 1] - half_shut[:, upper, 1]) / 2
    small = face.clone()
    small[:, upper, 1] = (face[:, upper, 1] + face[:, lower, 1]) / 2
    for reference in (face, small):
        assert opening(transfer(reference, half_shut, face)) == pytest.approx(opening(reference) / 2, rel=1e-3)
        foretold = transfer(reference, half_shut, face, foretold=True)
        assert opening(foretold) == pytest.approx(opening(reference), abs=1e-5)


def test_the_forehead_stays(face, transfer):
    target = transfer(face, opened(face) + 0.01, face)
    assert torch.equal(target[:, 10], face[:, 10])
