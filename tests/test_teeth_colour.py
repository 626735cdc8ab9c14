import pytest
import torch

from avatarsync.face_mesh import neutral_landmarks
from avatarsync.teeth_colour import (
    OWN_TOLERANCE,
    SEEN_PIXELS,
    SKIN_POWER,
    SKIN_TOLERANCE,
    greenest_teeth,
    limit_green,
    limit_yellow,
    lip_colour,
    shaded,
    skin_colour,
)

SIZE = 64
SKIN, TEETH = torch.tensor([200.0, 150.0, 130.0]), torch.tensor([180.0, 176.0, 150.0])


@pytest.fixture
def landmarks():
    return neutral_landmarks()[None] * SIZE


def face(skin=SKIN, teeth=None, side=8):
    """A face of one colour `(1, 3, H, H)` with a mouth whose upper half is teeth, and where the mouth is."""
    image = skin.view(1, 3, 1, 1).expand(1, 3, SIZE, SIZE).clone()
    mouth = torch.zeros(1, 1, SIZE, SIZE)
    if teeth is not None:
        mouth[..., 40 : 40 + side, 28 : 28 + side] = 1
        image[..., 40 : 40 + side, 28 : 28 + side] = torch.tensor([60.0, 20.0, 20.0]).view(3, 1, 1)
        image[..., 40 : 40 + side // 2, 28 : 28 + side] = teeth.view(3, 1, 1)
    return image, mouth


def test_lips_have_a_colour_of_their_own(landmarks):
    image, _ = face()
    lips, (top, bottom) = torch.tensor([170.0, 90.0, 100.0]), landmarks[0, [14, 17], 1].round().int().tolist()
    image[..., top : bottom + 1, :] = lips.view(3, 1, 1)
    torch.testing.assert_close(lip_colour(image, landmarks), lips[None])
    torch.testing.assert_close(skin_colour(image, landmarks), SKIN[None])


def test_skin_tells_of_teeth_that_are_hidden(landmarks):
    image, mouth = face()
    torch.testing.assert_close(skin_colour(image, landmarks), SKIN[None])
    assert greenest_teeth(image, landmarks, mouth).item() == pytest.approx(SKIN_TOLERANCE * 0.75**SKIN_POWER)
    grey, _ = face(torch.full((3,), 120.0))
    assert greenest_teeth(grey, landmarks, mouth).item() == pytest.approx(SKIN_TOLERANCE)


def test_teeth_that_are_seen_tell_more(landmarks):
    image, mouth = face(teeth=TEETH)
    assert greenest_teeth(image, landmarks, mouth).item() == pytest.approx(OWN_TOLERANCE * 176 / 180)
    few, slit = face(teeth=TEETH, side=4)
    assert 0 < slit.sum() / 2 <= SEEN_PIXELS
    assert greenest_teeth(few, landmarks, slit).item() == pytest.approx(SKIN_TOLERANCE * 0.75**SKIN_POWER)


def test_a_mouth_without_teeth_does_not_redden_them(landmarks):
    image, mouth = face(teeth=torch.tensor([150.0, 60.0, 60.0]))
    assert greenest_teeth(image, landmarks, mouth).item() == pytest.approx(0.75**SKIN_POWER)


def test_green_is_limited_and_nothing_else_changes():
    torch.manual_seed(0)
    paint, most = torch.rand(2, 3, 8, 8), torch.tensor([0.9, 1.1])
    limited = limit_green(paint, torch.zeros_like(paint), most)
    red, green, blue = limited.unbind(1)
    assert (green <= most[:, None, None] * red + 1e-6).all()
    assert torch.equal(blue, paint[:, 2])
    torch.testing.assert_close(red + green, paint[:, 0] + paint[:, 1])
    unharmed = paint[:, 1] <= most[:, None, None] * paint[:, 0]
    assert unharmed.any() and (~unharmed).any()
    assert torch.equal(limited.movedim(1, -1)[unharmed], paint.movedim(1, -1)[unharmed])


def test_paint_may_be_as_green_as_what_it_covers():
    below = torch.tensor([100.0, 130.0, 100.0]).view(1, 3, 1, 1)
    most = torch.tensor([0.9])
    torch.testing.assert_close(limit_green(0.5 * below, below, most), 0.5 * below)
    greener = limit_green(below * torch.tensor([1.0, 1.5, 1.0]).view(1, 3, 1, 1), below, most)
    assert (greener[:, 1] / greener[:, 0]).item() == pytest.approx(1.3)


def test_what_little_light_is_left_is_red():
    colours = torch.full((1, 3, 1, 2), 200.0)
    red, green, blue = shaded(colours, torch.tensor([1.0, 0.4]).view(1, 1, 1, 2))[0, :, 0].unbind(0)
    assert red[0] == green[0] == blue[0] == 200
    assert 200 > red[1] > 1.2 * green[1] > blue[1] > 0
    assert (red[1] + green[1] + blue[1]).item() / 600 == pytest.approx(0.4, abs=0.02)


def test_teeth_are_no_yellower_than_teeth_and_flesh_may_be():
    teeth = torch.tensor([220.0, 205.0, 185.0]).view(1, 3, 1, 1)
    others = [[110.0, 102.5, 92.5], [150.0, 60.0, 55.0], [200.0, 190.0, 190.0], [40.0, 38.0, 15.0]]
    paint = torch.tensor([[200.0, 186.0, 120.0], *others])
    limited = limit_yellow(paint.T.view(1, 3, 1, 5), teeth)[0, :, 0].T
    assert limited[0, 2].item() == pytest.approx(0.97 * 200 * 185 / 220, rel=0.02), "a yellow tooth"
    torch.testing.assert_close(limited[:, :2], paint[:, :2])
    torch.testing.assert_close(limited[1:], paint[1:])
