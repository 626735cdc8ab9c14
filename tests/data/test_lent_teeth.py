"""Teeth that are lent: where they end, where they are put, and whose are good enough."""

import numpy as np
import pytest
import torch

from avatarsync import face_mesh
from avatarsync.data.dataset import Rows, load
from avatarsync.data.lent_teeth import (
    BELOW_LIP_LINE,
    LENDER_GAPS,
    find_lenders,
    lay_before,
    lend,
    seen_teeth,
    shade,
)

SIZE = 128
LIPS = [face_mesh.INNER_LIPS[i] for i in face_mesh.LOWER_LIP_POSITIONS]


def landmarks(opening):
    """The neutral face with its lower inner lip lowered, `(1, 468, 2)` in pixels."""
    points = face_mesh.neutral_landmarks()[None].clone()
    points[:, LIPS, 1] += opening
    return points * SIZE


def smile(opening=0.06, teeth=4):
    """Skin, and in an open mouth upper teeth of so many pixels' height at its middle, above the dark."""
    points = landmarks(opening)
    picture = torch.full((1, 3, SIZE, SIZE), 120.0)
    top = int(points[0, 13, 1])
    left, right = (int(points[0, corner, 0]) for corner in (78, 308))
    picture[..., top - 3 : top + 9, left:right] = 20
    picture[..., top : top + teeth, left:right] = 200
    return picture, points, top + teeth


@pytest.mark.parametrize("teeth", [4, 5, 6])
def test_upper_teeth_end_where_the_dark_begins(teeth):
    picture, points, edge = smile(teeth=teeth)
    seen = seen_teeth(picture, points, SIZE)
    assert abs(seen.edge[0, 1] - edge) <= 1
    assert abs(seen.edge[0, 0] - (points[0, 78, 0] + points[0, 308, 0]) / 2) < 1e-3
    middle = int(seen.edge[0, 0])
    assert seen.mask[0, 0, edge + 2 :, :].max() == 0
    assert seen.mask[0, 0, edge - 2, middle] > 0.9


def test_they_are_put_below_the_lip_line_and_an_open_mouth_keeps_its_own():
    picture, points, _ = smile()
    seen = seen_teeth(picture, points, SIZE)
    shifted = landmarks(0.0) + torch.tensor([3.0, 9.0])
    moved, mask = lend(seen, picture, shifted, SIZE)
    middle = int((shifted[0, 78, 0] + shifted[0, 308, 0]) / 2)
    column = mask[0, 0, :, middle]
    end = torch.nonzero(column > 0.5).max() + 1
    lip_line = shifted[0, [13, 14], 1].mean()
    assert abs(end - (lip_line + BELOW_LIP_LINE * SIZE)) < 1.6
    assert (moved[0, 0, column > 0.9, middle] > 150).all(), "what is masked are teeth"
    assert lend(seen, picture, points, SIZE)[1].max() == 0


def test_teeth_cast_a_shadow_and_cover_what_is_behind():
    behind, teeth = torch.full((1, 3, 32, 32), 100.0), torch.full((1, 3, 32, 32), 220.0)
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 8:16, :] = 1
    laid = lay_before(behind, teeth, mask, SIZE)[0, :, :, 16]
    assert (laid[:, 10:14] == 220).all()
    assert (laid[:, 17] < 85).all(), "the shadow lies right below"
    torch.testing.assert_close(laid[:, 24:], behind[0, :, 24:, 16])
    torch.testing.assert_close(laid[:, :5], behind[0, :, :5, 16])
    red, green, blue = shade(behind)[0, :, 0, 0].tolist()
    assert 100 > red > green > blue


def test_lenders_smile_with_bright_teeth(face_dataset, monkeypatch):
    portraits = Rows(load(face_dataset).portraits["train"])
    assert len(find_lenders(portraits)) < len(portraits)
    assert find_lenders(portraits).dtype.kind == "i"
    picture, points, _ = smile(opening=sum(LENDER_GAPS) / 2, teeth=9)
    skin = torch.tensor([150.0, 117.0, 106.0])
    warm = torch.tensor([1.1, 1.0, 0.9])
    picture[..., ::3] *= 0.9  # teeth are not all alike
    crop = torch.where(picture > 150, 0.7 * picture * warm[:, None, None], skin[:, None, None])
    monkeypatch.setattr(portraits, "landmarks", lambda row: points.numpy() / SIZE)
    monkeypatch.setattr(portraits, "matrices", lambda row: np.eye(2, 3, dtype=np.float32)[None])

    def lenders(picture):
        pixels = picture[0].permute(1, 2, 0).byte().numpy()
        monkeypatch.setattr(portraits, "crop", lambda row, frame: pixels)
        return len(find_lenders(portraits))

    assert lenders(crop) == len(portraits)
    assert lenders(crop.flip(1)) == 0, "blue teeth"
    assert lenders(torch.where(picture > 150, 30.0, crop)) == 0, "a dark mouth"
    monkeypatch.setattr(portraits, "landmarks", lambda row: landmarks(0.0).numpy() / SIZE)
    assert lenders(crop) == 0, "closed lips"
