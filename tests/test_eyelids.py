"""Eyelids on a drawn face: skin, eyes of one colour, brows of another."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from avatarsync import VisualTokenizerConfig, VisualTokenizerModel, face_mesh
from avatarsync.eyelids import EYES, MOST_GRAIN, RIM_SHADE, ROUND_LIGHT, Eyelid
from avatarsync.modeling_face_aligner import FaceAlignment
from avatarsync.rendering import FaceRenderer

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
    """Frames `(B, H, W, 3)` of shares `(B,)` of both lids."""
    frames = torch.tensor(image).float().movedim(2, 0).repeat(len(closing), 1, 1, 1)
    height, width = image.shape[:2]
    places = torch.stack(torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy"), -1).float()
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


def test_an_eye_that_the_picture_cuts_shuts_as_far_as_it_is_seen():
    image, landmarks = drawn_face(0.0)
    gone = int(landmarks[33, 0]) + 10
    cut, landmarks = np.ascontiguousarray(image[:, gone:]), landmarks - (gone, 0)
    lid = Eyelid(cut, landmarks, EYES[0], torch.device("cpu"))
    before, (shut,) = of_the_eyes(cut.astype(int)), blinked(cut, landmarks, [1.0])
    seen = np.zeros_like(before)
    left, top, right, bottom = lid.extent
    seen[top:bottom, max(0, left) : right] = True
    assert left < 0 < (before & seen).sum() and (of_the_eyes(shut) & seen).sum() < 0.05 * (before & seen).sum()


def test_lids_go_with_a_moving_head(monkeypatch):
    config = VisualTokenizerConfig(
        crop_size=64, encoder_width=8, motion_width=32, motion_rank=8, painter_size=32, painter_width=8
    )
    tokenizer = VisualTokenizerModel(config).eval()
    monkeypatch.setattr(tokenizer.transfer, "forward", lambda reference, *others: reference)
    image, landmarks = drawn_face(0.1)
    low, high = landmarks.min(0), landmarks.max(0)
    alignment = FaceAlignment((*low, *(high - low)), landmarks, 1.0)
    renderer = FaceRenderer(tokenizer, image, alignment, "pose_driven", moving_head=True)
    poses = torch.tensor([[0.03, -0.02, 0.03, 0.0]]).expand(2, -1)
    opened, shut = renderer.render(torch.zeros(2, 16, 10), torch.tensor([1.0, 0.0]), poses)
    before = of_the_eyes(opened.astype(int))
    assert (before & ~of_the_eyes(image.astype(int))).sum() > 0.2 * before.sum()  # they are elsewhere than at rest
    assert of_the_eyes(shut.astype(int)).sum() < 0.03 * before.sum()


def test_lids_have_the_grain_and_the_light_of_the_skin_below_the_eye_and_no_creases_or_rims_of_glasses():
    image, landmarks = drawn_face(0.0)
    grain = np.random.default_rng(0).normal(0, 4, image.shape[:2])[..., None].repeat(3, 2)
    grainy = (image + grain).clip(0, 255).astype(np.uint8)
    below = int(landmarks[[145, 374], 1].max()) + 25
    rims = image.copy()
    rims[below : below + 6] = 0
    creases = image.copy()
    for row in range(below - 15, below + 10, 8):
        creases[row : row + 2] = np.multiply(SKIN, 0.8)
    eye = of_the_eyes(image.astype(int))

    def lids(picture):
        (shut,) = blinked(picture, landmarks, [1.0])
        return shut[eye]

    plain = lids(image)
    difference = lids(grainy).mean(-1) - plain.mean(-1)
    assert 1.0 < difference.std() < 4.5
    for picture in (rims, creases):
        assert np.abs(lids(picture) - plain).max() < 0.5 * MOST_GRAIN
    assert plain[:, 0].max() > SKIN[0] + 0.5 * ROUND_LIGHT * SKIN[0]


def test_the_sides_of_lids_are_soft():
    image, landmarks = drawn_face(0.0)
    length, corners = landmarks[133, 0] - landmarks[33, 0], int(landmarks[133, 1])
    # In the shade of the brow, the lid is lighter than what is around it.
    image[:corners] = np.multiply(image[:corners], 0.75)
    (shut,) = blinked(image, landmarks, [1.0])
    left, _, right, _ = Eyelid(image, landmarks, EYES[0], torch.device("cpu")).extent
    for height in (0.1, 0.15, 0.2):
        row = shut[corners - int(height * length), left:right].mean(-1)
        assert row.max() - row[0] > 12  # not so soft that there is no lid
        assert np.abs(np.diff(row)).max() < 7


def test_the_white_of_an_eye_that_lies_below_the_landmarks_at_the_inner_corner_is_covered():
    image, landmarks = drawn_face(0.0)
    picture = Image.fromarray(image)
    for lid in (face_mesh.RIGHT_LOWER_LID, face_mesh.LEFT_LOWER_LID):
        ImageDraw.Draw(picture).line([tuple(landmarks[index]) for index in lid[4:]], fill=EYE, width=5)
    image = np.array(picture)
    before, (shut,) = of_the_eyes(image.astype(int)), blinked(image, landmarks, [1.0])
    near = np.zeros(SIZE, bool)
    for outer, inner in ((33, 133), (263, 362)):
        across = (np.arange(SIZE) - landmarks[outer, 0]) / (landmarks[inner, 0] - landmarks[outer, 0])
        near |= (across > 0.7) & (across < 0.93)
    assert before[:, near].sum() > 300 and of_the_eyes(shut)[:, near].sum() < 0.015 * before[:, near].sum()


def test_lashes_come_down_and_leave_skin_behind():
    image, landmarks = drawn_face(0.0)
    picture = Image.fromarray(image)
    for lid in (face_mesh.RIGHT_UPPER_LID, face_mesh.LEFT_UPPER_LID):
        ImageDraw.Draw(picture).line([tuple(landmarks[index] - (0, 4.5)) for index in lid], fill=(20, 15, 10), width=9)
    (shut,) = blinked(np.array(picture), landmarks, [1.0])
    for upper, lower in ((159, 145), (386, 374)):
        column = shut[:, int(landmarks[upper, 0])].mean(-1)
        top, bottom = int(landmarks[upper, 1]), int(landmarks[lower, 1])
        assert column[top - 8 : top + 4].min() > 0.85 * np.mean(SKIN)
        assert column[bottom - 3 : bottom + 14].min() < 0.4 * np.mean(SKIN)


def test_rims_of_glasses_stay_in_front_of_the_lids():
    image, landmarks = drawn_face(0.0)
    length = landmarks[133, 0] - landmarks[33, 0]
    top = int(landmarks[[159, 386], 1].min() - 0.22 * length)
    image[top - 3 : top + 3] = 0
    (shut,) = blinked(image, landmarks, [1.0])
    left, _, right, _ = Eyelid(image, landmarks, EYES[0], torch.device("cpu")).extent
    assert shut[top - 2 : top + 2, left:right].max() < 20


@pytest.mark.parametrize("slope", [0.0, 0.1, -0.1])
def test_a_rim_that_runs_close_above_the_eyes_stays_and_is_not_carried_down(slope):
    plain, landmarks = drawn_face(0.0)
    plain[(plain == BROW).all(-1)] = SKIN
    length = landmarks[133, 0] - landmarks[33, 0]
    image = plain.copy()
    rows = np.arange(SIZE)[:, None]
    for upper in (159, 386):
        arc = landmarks[upper, 1] - 0.16 * length + slope * (np.arange(SIZE) - landmarks[upper, 0])
        side = (np.arange(SIZE) < SIZE / 2) == (upper == 159)
        image[(np.abs(rows - arc) < 2.5) & side] = (50, 45, 40)
    half, shut = blinked(image, landmarks, [0.5, 1.0])
    rims = (image == (50, 45, 40)).all(-1)
    without, eyes = blinked(plain, landmarks, [1.0])[0], of_the_eyes(plain.astype(int))
    for frame in (half, shut):
        gone = np.abs(frame - image)[rims].max(-1)
        assert (gone > 25).mean() < 0.01
    # Behind it there is a lid as without it, but for the rim's shade.
    assert (np.abs(shut - without)[eyes].max(-1) > 1.1 * (1 - RIM_SHADE) * max(SKIN)).mean() < 0.006


def test_brows_lashes_and_creases_are_no_rims_of_glasses():
    image, landmarks = drawn_face(0.0)
    picture = Image.fromarray(image)
    length = landmarks[133, 0] - landmarks[33, 0]
    for lid in (face_mesh.RIGHT_UPPER_LID, face_mesh.LEFT_UPPER_LID):
        for height, width in ((0.05, 9), (0.22, 3)):
            places = [tuple(landmarks[index] - (0, height * length)) for index in lid]
            ImageDraw.Draw(picture).line(places, fill=(20, 15, 10), width=width)
    for eye in EYES:
        assert Eyelid(np.array(picture), landmarks, eye, torch.device("cpu")).rim is None
