"""The detail of a portrait's own teeth: added where the paint is a copy of them, and nowhere else."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from avatarsync import face_mesh
from avatarsync.image_processing_face import warp_image
from avatarsync.modeling_visual_tokenizer import Reference
from avatarsync.own_teeth import OwnTeeth

SIZE, TIMES = 64, 4
OFFSET = np.array([37.0, 21.0])


@pytest.fixture(scope="module")
def smile():
    """A picture four times as large as its crop, with fine stripes; the reference, its mouth open; portrait → crop."""
    height, width = SIZE * TIMES + 50, SIZE * TIMES + 70
    image = np.full((height, width, 3), 150, np.uint8)
    image[:, ::4] = 90
    matrix = np.array([[1, 0, 0], [0, 1, 0]], np.float32) / TIMES
    matrix[:, 2] = -OFFSET / TIMES
    crop = torch.from_numpy(warp_image(image, matrix, SIZE)).permute(2, 0, 1)[None] / 127.5 - 1
    mouth = torch.zeros(1, 1, SIZE, SIZE)
    mouth[..., 40:48, 20:44] = 1
    landmarks = face_mesh.neutral_landmarks()[None]
    return image, Reference(crop, landmarks, torch.zeros(1, 16, 10), landmarks, mouth), matrix


def places(matrix):
    """Those of the pixels in the middle of the mouth, and the pixels."""
    y, x = np.mgrid[42 * TIMES : 46 * TIMES, 24 * TIMES : 40 * TIMES]
    y, x = y + int(OFFSET[1]), x + int(OFFSET[0])
    points = np.stack([x, y], -1) @ matrix[:, :2].T + matrix[:, 2]
    return torch.from_numpy(2 * (points + 0.5) / SIZE - 1).float()[None], (y, x)


def drawn(teeth, paint, where):
    """Enlarged paint with the detail, 0 to 255."""
    enlarged = F.grid_sample(paint, where, mode="bicubic", padding_mode="border", align_corners=False)
    share = F.grid_sample(teeth.copies(paint), where, align_corners=False)
    return ((enlarged + share * teeth.at(where) + 1) * 127.5)[0].permute(1, 2, 0).numpy()


def test_a_copy_of_the_teeth_becomes_the_portrait_itself(smile):
    image, reference, matrix = smile
    teeth = OwnTeeth.of_portrait(image, reference, matrix)
    where, pixels = places(matrix)
    wanted = image[pixels].astype(float)
    blurred = F.grid_sample(reference.pixels, where, mode="bicubic", padding_mode="border", align_corners=False)
    assert np.abs((blurred[0].permute(1, 2, 0).numpy() + 1) * 127.5 - wanted).mean() > 15
    assert np.abs(drawn(teeth, reference.pixels, where) - wanted).mean() < 1


def test_what_was_painted_otherwise_stays_as_it_is(smile):
    image, reference, matrix = smile
    teeth = OwnTeeth.of_portrait(image, reference, matrix)
    where, _ = places(matrix)
    paint = torch.full_like(reference.pixels, -0.8)
    np.testing.assert_allclose(drawn(teeth, paint, where), 0.2 * 127.5, atol=0.5)
    outside = torch.nonzero(reference.mouth[0, 0] == 0)
    assert teeth.copies(reference.pixels)[0, 0, outside[:, 0], outside[:, 1]].max() < 0.05


def test_closed_lips_have_no_teeth_to_show(smile):
    image, reference, matrix = smile
    shut = Reference(**vars(reference) | {"mouth": torch.zeros_like(reference.mouth)})
    assert OwnTeeth.of_portrait(image, shut, matrix) is None
