"""Eyelids on a drawn face: skin, eyes of one colour, brows of another."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from avatarsync import face_mesh
from avatarsync.eyelids import EYES, Eyelid

SIZE = 480
SKIN, EYE, BROW = (210, 160, 130), (40, 90, 200), (60, 40, 20)
CONTOURS = (face_mesh.RIGHT_EYE_CONTOUR, face_mesh.LEFT_EYE_CONTOUR)
BROWS = ((46, 53, 52, 65, 55, 107, 66, 105, 63, 70), (276, 283, 282, 295, 285, 336, 296, 334, 293, 300))


def drawn_face(turn):
    """Picture `(480, 480, 3)` and landmarks of a face that is turned by radians in the picture's plane."""
    points = (face_mesh.neutral_landmarks().numpy() - 0.5) * SIZE * 0.9
    cos, sin = np.cos(turn), np.sin(turn)
    points = points @ np.array([[cos, sin], [-sin, cos]]) + SIZE / 2
    image = Image.new("RGB", (SIZE, SIZE), SKIN)
    for indices, colour in (*((eye, EYE) for eye in CONTOURS), *((brow, BROW) for brow in BROWS)):
        ImageDraw.Draw(image).polygon([tuple(points[index]) for index in indices], fill=colour)
    return np.array(image), points.astype(np.float32)


def blinked(image, landmarks, closing):
    """Frames `(B, 480, 480, 3)` of shares `(B,)` of both lids."""
    frames = torch.tensor(image).float().movedim(2, 0).repeat(len(closing), 1, 1, 1)
    places = torch.stack(torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="xy"), -1).float()
    for eye in EYES:
        lid = Eyelid(image, landmarks, eye, torch.device("cpu"))
        lid.draw(frames, places.expand(len(closing), -1, -1, -1), torch.tensor(closing))
    return frames.movedim(1, 3).numpy()


def of_the_eyes(frames):
    """Which pixels show an eye."""
    return frames[..., 2] - frames[..., 0] > 20


@pytest.mark.parametrize("turn", [0.0, 0.35, -0.35])
def test_shut_lids_hide_the_eyes_and_half_shut_ones_their_upper_half(turn):
    image, landmarks = drawn_face(turn)
    open_eyes, half, shut = blinked(image, landmarks, [0.0, 0.5, 1.0])
    assert np.abs(open_eyes - image).max() < 0.01
    before = of_the_eyes(image.astype(int))
    assert before.sum() > 500 and of_the_eyes(shut).sum() < 0.02 * before.sum()  # the inner corners
    assert of_the_eyes(half).sum() == pytest.approx(before.sum() / 2, rel=0.25)
    # What a lid has not reached is the portrait's, but for the shade of its edge; the rest is skin and the line in
    # which lids meet.
    still = of_the_eyes(half) & (np.abs(half - image) < 0.07 * 255).all(-1)
    assert still.sum() > 0.9 * of_the_eyes(half).sum()
    lids = shut[before]
    assert np.median(np.abs(lids - SKIN).max(-1)) < 15
    assert ((lids / SKIN).max(-1) < 0.9).mean() < 0.3


def test_nothing_but_the_lids_moves():
    image, landmarks = drawn_face(0.1)
    (shut,) = blinked(image, landmarks, [1.0])
    brows = (image == BROW).all(-1)
    assert brows.sum() > 500 and np.abs(shut[brows] - image[brows]).max() < 1e-3
    outside = np.ones((SIZE, SIZE), bool)
    for eye in EYES:
        left, top, right, bottom = Eyelid(image, landmarks, eye, torch.device("cpu")).extent
        outside[top:bottom, left:right] = False
    assert np.abs(shut[outside] - image[outside]).max() < 0.1


def test_lids_come_down_smoothly():
    image, landmarks = drawn_face(0.0)
    frames = blinked(image, landmarks, np.linspace(0, 1, 11, dtype=np.float32).tolist())
    seen = of_the_eyes(frames).sum((1, 2))
    assert (np.diff(seen)[:-1] < 0).all() and seen[-1] < 0.02 * seen[0] and np.abs(np.diff(seen)).max() < 0.2 * seen[0]


def test_an_eye_at_the_edge_of_the_picture_does_no_harm():
    image, landmarks = drawn_face(0.0)
    cut = np.ascontiguousarray(image[:, int(landmarks[33, 0]) + 10 :])
    landmarks = landmarks - (int(landmarks[33, 0]) + 10, 0)
    lid = Eyelid(cut, landmarks, EYES[0], torch.device("cpu"))
    places = torch.stack(torch.meshgrid(torch.arange(20), torch.arange(200, 230), indexing="xy"), -1).float()
    drawn = torch.full((1, 3, 30, 20), 100.0)
    lid.draw(drawn, places[None], torch.ones(1))
    assert drawn.isfinite().all() and drawn.min() >= 0 and drawn.max() <= 255
