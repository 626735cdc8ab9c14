"""FaceAlignerModel: a tiny one learns drawn faces in seconds, the bundled one finds a photographed face."""

import numpy as np
import pytest
import torch

from avatarsync.configuration_avatarsync import FaceAlignerConfig
from avatarsync.errors import (
    FaceNotFoundError,
    FaceTooSmallError,
    InvalidArgumentError,
    InvalidImageError,
    MouthCoveredError,
    MultipleFacesError,
)
from avatarsync.face_aligner_losses import cell_centres, detector_loss, landmark_loss, landmark_weights, lip_loss
from avatarsync.face_mesh import INNER_LIPS, LOWER_LIP_POSITIONS, neutral_landmarks
from avatarsync.image_processing_face import (
    NOSE_BASE,
    NUM_LANDMARKS,
    eye_centres,
    eye_distance,
    landmark_box,
    letterbox,
    overlap,
    pose_driven_matrix,
    transform_points,
    warp_image,
    widen_matrix,
)
from avatarsync.modeling_face_aligner import (
    LANDMARK_MARGIN,
    FaceAlignerModel,
    FaceAlignment,
    FaceDetection,
    suppress_overlaps,
)

# Trained for seconds only, its detector is less sure of itself than the bundled one.
TINY = FaceAlignerConfig(
    detector_size=96, detector_width=8, landmark_size=64, landmark_width=8, lip_width=0, score_threshold=0.25
)


def template():
    """`(468, 2)`: mesh of the drawn face, -1…1 by -1.15…1.15; eye corners and nose base where they are drawn."""
    random = np.random.default_rng(7)
    angle, radius = random.uniform(0, 2 * np.pi, NUM_LANDMARKS), np.sqrt(random.uniform(0, 1, NUM_LANDMARKS))
    points = np.stack([radius * np.cos(angle), 1.15 * radius * np.sin(angle)], -1)
    points[:4] = [(-1, 0), (1, 0), (0, -1.15), (0, 1.15)]
    points[NOSE_BASE] = (0, 0.2)
    for corners, x in (((33, 133), -0.42), ((362, 263), 0.42)):
        points[list(corners)] = [(x - 0.15, -0.4), (x + 0.15, -0.4)]
    points[0], points[1] = (-1, 0), (1, 0)
    return points


TEMPLATE = template()


def draw_face(image, centre, radius, angle=0.0):
    """Draw a face into `image` `(H, W, 3)` in place; returns its landmarks `(468, 2)`."""
    cos, sin = np.cos(angle) * radius, np.sin(angle) * radius
    matrix = np.array([[cos, -sin, centre[0]], [sin, cos, centre[1]]], np.float32)
    ys, xs = np.mgrid[0 : image.shape[0], 0 : image.shape[1]]
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))
    x, y = np.moveaxis(np.stack([xs, ys, np.ones_like(xs)], -1) @ inverse.T, -1, 0)[:2]
    image[(x**2 + (y / 1.15) ** 2) < 1] = (225, 180, 150)
    for eye in (-0.42, 0.42):
        image[((x - eye) / 0.2) ** 2 + ((y + 0.4) / 0.12) ** 2 < 1] = (30, 30, 60)
    image[(np.abs(x) < 0.1) & (y > -0.2) & (y < 0.2)] = (150, 90, 80)
    image[(x / 0.45) ** 2 + ((y - 0.6) / 0.12) ** 2 < 1] = (170, 20, 40)
    return transform_points(TEMPLATE, matrix)


def background(random, height=192, width=192):
    coarse = random.integers(20, 120, (3, 3, 3)).astype(np.uint8)
    return np.ascontiguousarray(
        np.kron(coarse, np.ones((height // 3 + 1, width // 3 + 1, 1), np.uint8))[:height, :width]
    )


def keypoints_of(landmarks):
    return np.stack([*eye_centres(landmarks), landmarks[NOSE_BASE]])


def detector_example(model, image, landmarks):
    square, matrix = letterbox(image, model.config.detector_size)
    placed = [transform_points(points, matrix) for points in landmarks]
    boxes = torch.tensor([[landmark_box(points) for points in placed]])
    points = torch.tensor(np.stack([keypoints_of(points) for points in placed])[None], dtype=torch.float32)
    return model.to_pixels(square[None]), boxes, points


def landmark_batch(model, random, batch=8):
    size, crops, labels, present = model.config.landmark_size, [], [], []
    for index in range(batch):
        image = background(random)
        if index % 4:
            points = draw_face(image, random.uniform(80, 112, 2), random.uniform(40, 60), random.normal(0, 0.2))
        else:
            points = transform_points(TEMPLATE, np.array([[50, 0, 96], [0, 50, 96]], np.float32))
        matrix = widen_matrix(pose_driven_matrix(points, size), size, LANDMARK_MARGIN * random.uniform(0.85, 1.15))
        matrix[:, 2] += random.normal(0, 2, 2)
        crops.append(warp_image(image, matrix, size))
        labels.append(transform_points(points, matrix))
        present.append(float(index % 4 > 0))
    return {
        "landmark_pixels": model.to_pixels(np.stack(crops)),
        "landmark_labels": torch.tensor(np.stack(labels), dtype=torch.float32),
        "presence_labels": torch.tensor(present),
    }


def detector_batch(model, random, batch=8):
    examples = []
    for _ in range(batch):
        image = background(random)
        points = draw_face(image, random.uniform(50, 142, 2), np.exp(random.uniform(2.6, 4.3)), random.normal(0, 0.2))
        examples.append(detector_example(model, image, [points]))
    pixels, boxes, points = (torch.cat(parts) for parts in zip(*examples, strict=True))
    return {"detector_pixels": pixels, "face_boxes": boxes, "face_keypoints": points}


@pytest.fixture(scope="module")
def trained():
    """A tiny model that has learned drawn faces, and the losses of its first and last steps."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    model = FaceAlignerModel(TINY)
    losses = {"detector": [], "landmarker": []}
    for head, draw, steps in (("detector", detector_batch, 300), ("landmarker", landmark_batch, 220)):
        optimizer = torch.optim.AdamW(getattr(model, head).parameters(), lr=4e-3, weight_decay=0.0)
        model.train()
        batches = [draw(model, random) for _ in range(24)]
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = 4e-3 * (1 - step / steps) + 1e-5
            loss = model(**batches[step % len(batches)]).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[head].append(loss.item())
    return model.eval(), losses


@pytest.fixture
def picture():
    image = background(np.random.default_rng(5), 240, 300)
    return image, draw_face(image, (150, 120), 60, 0.15)


def test_both_heads_learn(trained):
    for losses in trained[1].values():
        assert np.mean(losses[-20:]) < 0.35 * np.mean(losses[:10])


def test_detect_finds_the_drawn_face(trained, picture):
    image, landmarks = picture
    faces = trained[0].detect(image)
    assert len(faces) == 1
    assert overlap(faces[0].box, landmark_box(landmarks)) > 0.6
    assert np.linalg.norm(faces[0].keypoints - keypoints_of(landmarks), axis=-1).max() < 0.3 * eye_distance(landmarks)


def test_align_places_landmarks_in_picture_pixels(trained, picture):
    image, landmarks = picture
    face = trained[0].align(image)
    assert face.landmarks.shape == (468, 2)
    assert np.linalg.norm(face.landmarks - landmarks, axis=-1).mean() < 0.1 * eye_distance(landmarks)
    assert face.box == landmark_box(face.landmarks)
    assert face.score > 0.5
    np.testing.assert_array_equal(face.matrix(128), pose_driven_matrix(face.landmarks, 128))
    assert face.matrix(128, "face_centric")[0, 1] == 0


def test_a_huge_picture_gives_the_same_landmarks(trained, picture):
    image, landmarks = picture
    large = np.ascontiguousarray(image.repeat(7, 0).repeat(7, 1))
    face = trained[0].align(large)
    expected = (landmarks + 0.5) * 7 - 0.5
    assert np.linalg.norm(face.landmarks - expected, axis=-1).mean() < 0.1 * eye_distance(expected)


def test_a_small_face_in_a_large_picture_is_found_in_its_tiles(trained):
    image = background(np.random.default_rng(5), 1500, 2400)
    landmarks = draw_face(image, (1900, 400), 45)
    whole, _ = letterbox(image, TINY.detector_size)
    assert 90 / 2400 * TINY.detector_size < 4 and whole.shape[0] == 96  # four pixels: hopeless at first sight
    image.flags.writeable = False  # as arrays of pictures often are
    face = trained[0].align(image)
    assert overlap(face.box, landmark_box(landmarks)) > 0.6


def test_face_box_takes_the_detectors_place(trained, picture):
    image, landmarks = picture
    other = draw_face(image, (50, 190), 40)
    for points in (landmarks, other):
        face = trained[0].align(image, face_box=landmark_box(points))
        assert np.linalg.norm(face.landmarks - points, axis=-1).mean() < 0.12 * eye_distance(points)


def test_face_box_on_no_face(trained, picture):
    with pytest.raises(FaceNotFoundError, match="face_box"):
        trained[0].align(picture[0], face_box=(0, 0, 70, 80))


@pytest.mark.parametrize("box", ["12.4", 5, (1, 2, 3), ((1, 2), (3, 4), 5, 6), "abcd", (1, 2, 3, 10**400)])
def test_face_box_that_is_none(trained, picture, box):
    with pytest.raises(InvalidArgumentError, match="four numbers"):
        trained[0].align(picture[0], face_box=box)


@pytest.mark.parametrize(
    "box",
    [(300, 0, 50, 50), (-60, 0, 50, 50), (10, 240, 50, 50), (10, 10, 0, 50), (9, 9, 9, -9)]
    + [(60, 60, 1e-9, 1e-9), (-1e9, -1e9, 3e9, 3e9), (0, 0, float("inf"), 50), (float("nan"), 0, 50, 50)],
)
def test_face_box_outside_of_the_picture(trained, picture, box):
    with pytest.raises(InvalidArgumentError, match="300x240"):
        trained[0].align(picture[0], face_box=box)


def test_no_face(trained):
    with pytest.raises(FaceNotFoundError, match="face_box="):
        trained[0].align(background(np.random.default_rng(8)))
    assert trained[0].detect(background(np.random.default_rng(8))) == []


def test_two_faces_of_one_size_are_the_users_choice(trained):
    image = background(np.random.default_rng(5), 200, 340)
    left, right = draw_face(image, (85, 100), 50), draw_face(image, (255, 100), 53)
    with pytest.raises(MultipleFacesError, match="face_index="):
        trained[0].align(image)
    assert overlap(trained[0].align(image, face_index=0).box, landmark_box(right)) > 0.6
    assert overlap(trained[0].align(image, face_index=1).box, landmark_box(left)) > 0.6
    for wrong in (2, -1):
        with pytest.raises(InvalidArgumentError, match="2 face"):
            trained[0].align(image, face_index=wrong)
    with pytest.raises(InvalidArgumentError, match="not both"):
        trained[0].align(image, face_index=0, face_box=landmark_box(left))


def test_a_much_smaller_second_face_does_not_matter(trained):
    image = background(np.random.default_rng(5), 200, 340)
    landmarks = draw_face(image, (100, 100), 62)
    small = landmark_box(draw_face(image, (280, 100), 38))
    assert any(overlap(face.box, small) > 0.5 for face in trained[0].detect(image))
    assert overlap(trained[0].align(image).box, landmark_box(landmarks)) > 0.6


def test_too_small_a_face_says_measured_and_needed(trained):
    image = background(np.random.default_rng(5), 200, 200)
    draw_face(image, (100, 100), 22)
    with pytest.raises(FaceTooSmallError, match=r"4\d pixels wide, at least 64"):
        trained[0].align(image)


@pytest.mark.parametrize(
    "image",
    [None, np.zeros((200, 200), np.uint8), np.zeros((200, 200, 3), np.float32), np.zeros((127, 300, 3), np.uint8)],
)
def test_what_is_no_picture(trained, image):
    for call in (trained[0].detect, trained[0].align):
        with pytest.raises(InvalidImageError):
            call(image)


def test_save_and_load_give_the_same_landmarks(trained, picture, tmp_path):
    trained[0].save_pretrained(tmp_path)
    loaded = FaceAlignerModel.from_pretrained(tmp_path)
    assert loaded.config.detector_width == 8
    np.testing.assert_allclose(loaded.align(picture[0]).landmarks, trained[0].align(picture[0]).landmarks, atol=1e-3)


def test_output_holds_only_what_was_asked_for():
    torch.manual_seed(0)
    model = FaceAlignerModel(TINY).eval()
    detection = model(detector_pixels=torch.zeros(2, 3, 96, 96))
    assert set(detection) == {"detection_maps"} and detection.detection_maps.shape == (2, 11, 12, 12)
    batch = landmark_batch(model, np.random.default_rng(0))
    output = model(**batch)
    assert output["landmarks"].shape == (8, 468, 2) and output.presence_logits.shape == (8,)
    torch.testing.assert_close(output.loss, output.landmark_loss + output.presence_loss)


def test_black_is_minus_one_and_white_one():
    crops = np.zeros((2, 4, 6, 3), np.uint8)
    crops[1, 3, 5, 2] = 255
    pixels = FaceAlignerModel(TINY).to_pixels(crops)
    assert pixels.shape == (2, 3, 4, 6) and pixels[1, 2, 3, 5] == 1 and (pixels == -1).sum() == pixels.numel() - 1


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    model, random = FaceAlignerModel(TINY), np.random.default_rng(0)
    output = model(**detector_batch(model, random), **landmark_batch(model, random))
    torch.testing.assert_close(output.loss, output.detector_loss + output.landmark_loss + output.presence_loss)
    output.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_the_bundled_size_stays_small():
    assert sum(p.numel() for p in FaceAlignerModel(FaceAlignerConfig()).parameters()) < 2_000_000


def test_ideal_maps_have_almost_no_loss_and_decode_to_their_labels():
    model = FaceAlignerModel(TINY)
    boxes = torch.tensor([[[20.0, 16, 40, 46], [68, 60, 20, 22]]])
    keypoints = torch.stack(
        [box[:2] + torch.tensor([[0.3, 0.3], [0.7, 0.3], [0.5, 0.6]]) * box[2:] for box in boxes[0]]
    )
    maps = torch.zeros(1, 11, 144)
    cells = cell_centres(12, 8, maps)
    maps[:, 0] = -12.0
    for box, points in zip(boxes[0], keypoints, strict=True):
        centre, size = box[:2] + box[2:] / 2, box[2:]
        near = (cells - centre).norm(dim=-1) < 0.3 * size.min()
        best = (cells - centre).norm(dim=-1).argmin()
        near[best] = True
        maps[0, 0, best] = 12.0
        maps[0, 1:3, near] = ((centre - cells[near]) / 8).T
        maps[0, 3:5, near] = (size / 8).log()[:, None].expand(-1, int(near.sum()))
        maps[0, 5:, near] = ((points - cells[near][:, None]) / size.prod().sqrt()).flatten(1).T
    maps = maps.view(1, 11, 12, 12)
    ideal = detector_loss(maps, boxes, keypoints[None])
    assert ideal < 0.05
    for channel, change in ((0, 12.0), (0, -12.0), (1, 3.0), (3, 3.0), (7, 3.0)):
        worse = maps.clone()
        worse[:, channel] += change
        assert detector_loss(worse, boxes, keypoints[None]) > ideal + 0.1
    faces = model._decode(maps[0], np.array([[1, 0, 0], [0, 1, 0]], np.float32))
    faces.sort(key=lambda face: -face.box[2])
    for face, box, points in zip(faces, boxes[0], keypoints, strict=True):
        np.testing.assert_allclose(face.box, box, atol=1e-3)
        np.testing.assert_allclose(face.keypoints, points, atol=1e-3)


def test_pictures_without_a_face_teach_the_detector_silence():
    maps = torch.zeros(1, 11, 12, 12, requires_grad=True)
    detector_loss(maps, torch.zeros(1, 2, 4), torch.zeros(1, 2, 3, 2)).backward()
    assert (maps.grad[:, 0] > 0).all() and (maps.grad[:, 1:] == 0).all()


def test_landmark_loss_counts_lips_most_and_skips_what_the_crop_does_not_show():
    weights = landmark_weights(NUM_LANDMARKS)
    assert weights.mean() == pytest.approx(1.0, rel=1e-5) and weights[INNER_LIPS[0]] == weights.max() > 2 * weights[1]
    labels = torch.full((2, NUM_LANDMARKS, 2), 30.0)
    moved = labels.clone()
    moved[0, 5] += 4
    present = torch.tensor([1.0, 0.0])
    assert landmark_loss(moved, labels, present, 64) > 0
    labels[0, 5] = 70.0  # outside
    assert landmark_loss(moved, labels, present, 64) == 0
    moved[1] += 9  # no face there
    assert landmark_loss(moved, labels, present, 64) == 0


def test_overlapping_detections_leave_the_best():
    faces = [FaceDetection(box, score, np.zeros((3, 2))) for box, score in
             (((0, 0, 10, 10), 0.6), ((1, 0, 10, 10), 0.9), ((20, 0, 10, 10), 0.7))]  # fmt: skip
    assert [face.score for face in suppress_overlaps(faces)] == [0.9, 0.7]
    assert overlap((0, 0, 10, 10), (5, 0, 10, 10)) == pytest.approx(1 / 3)


def test_a_face_whose_mouth_is_not_seen_cannot_speak():
    points = neutral_landmarks().numpy() * 200
    FaceAlignment((0, 0, 200, 200), points, 1.0, mouth_score=0.9).check_can_speak()
    with pytest.raises(MouthCoveredError, match="shows the lips"):
        FaceAlignment((0, 0, 200, 200), points, 1.0, mouth_score=0.01).check_can_speak()


def test_lip_loss_knows_the_gap():
    labels = torch.rand(3, 80, 2) * 90
    assert lip_loss(labels, labels, torch.ones(3)) == 0
    seen = torch.tensor([1.0, 0.0, 0.0])
    moved = labels.clone()
    moved[1:] += 5
    assert lip_loss(moved, labels, seen) == 0, "covered mouths do not count"
    both, apart = labels.clone(), labels.clone()
    inner = slice(60, 80)
    both[:, inner, 1] += 2
    apart[:, [60 + position for position in LOWER_LIP_POSITIONS], 1] += 4
    ones = torch.ones(3)
    assert lip_loss(apart, labels, ones) > 1.5 * lip_loss(both, labels, ones)


def test_no_lip_head_where_the_configuration_has_none():
    model = FaceAlignerModel(FaceAlignerConfig(lip_width=0))
    assert model.lips is None and not any(name.startswith("lips") for name in model.state_dict())
