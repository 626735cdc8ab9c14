import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from avatarsync import AvatarSyncPipeline
from avatarsync.lip_edges import darken
from avatarsync.picture_tone import PictureTone

SEPIA = np.array([1.2, 1.0, 0.8], np.float32)


def picture(tint=None):
    """A face in colours, or in one tint."""
    face = data.astronaut()[40:240, 120:320].astype(np.float32)
    if tint is not None:
        face = (face.mean(-1, keepdims=True) * tint).clip(0, 255).round()
    return torch.from_numpy(np.ascontiguousarray(face.transpose(2, 0, 1)))


@pytest.mark.parametrize(("tint", "colour"), [(None, 1), (np.ones(3, np.float32), 0), (SEPIA, 0)])
def test_a_picture_of_one_tint_has_no_colours(tint, colour):
    assert PictureTone.of(picture(tint)).colour == colour


def test_colours_take_a_pictures_tint_and_keep_their_light():
    red = torch.tensor([150.0, 60.0, 30.0])[None, :, None, None]
    assert torch.equal(PictureTone.of(picture()).toned(red), red)
    toned = PictureTone.of(picture(SEPIA)).toned(red)
    torch.testing.assert_close(toned[0, :, 0, 0], 80 * torch.tensor(SEPIA), rtol=0.02, atol=0)


def test_the_line_between_lips_is_as_dark_and_grey_in_a_grey_picture():
    grey, line = torch.full((1, 3, 2, 2), 100.0), torch.ones(1, 1, 2, 2)
    red, dark = (darken(grey, line, 0.0, coloured) for coloured in (1.0, 0.0))
    assert red[0, 0, 0, 0] > red[0, 1, 0, 0] and torch.allclose(dark, red.mean(1, keepdim=True).expand_as(dark))


@pytest.mark.parametrize("side", [110, 260])  # painted, drawn
def test_a_black_and_white_portrait_speaks_in_black_and_white(side):
    talk = AvatarSyncPipeline.from_pretrained()
    face = Image.fromarray(data.astronaut()[20:260, 100:340]).convert("L").resize((2 * side, 2 * side))
    moved = False
    for frame in talk.stream(face, text="Ah.", motion="still", blink=False):
        assert np.ptp(frame.astype(int), axis=-1).max() <= 2
        moved |= (frame != np.asarray(face)[..., None]).any()
    assert moved
