import numpy as np
import pytest

from avatarsync.errors import FaceTurnedError, InvalidArgumentError, InvalidImageError
from avatarsync.face_mesh import INNER_LIPS, LEFT_EYE_CONTOUR, OUTER_LIPS, RIGHT_EYE_CONTOUR, neutral_landmarks
from avatarsync.image_processing_face import (
    EYE_MIDPOINT,
    FACE_CENTRIC_MARGIN,
    FACE_SCALE,
    NOSE_BASE,
    NUM_LANDMARKS,
    check_frontal,
    check_image,
    crop_matrix,
    eye_centres,
    eye_distance,
    face_centric_matrix,
    face_view,
    invert_matrix,
    keypoint_matrix,
    landmark_box,
    letterbox,
    overlap,
    pose_driven_matrix,
    resize,
    smooth_matrices,
    tiles,
    transform_points,
    turn_aside,
    warp_image,
    widen_matrix,
)

IDENTITY = np.array([[1, 0, 0], [0, 1, 0]], np.float32)


def similarity(angle, scale, shift):
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    return np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]]], np.float32)


def face_landmarks(random, angle=0.0, scale=1.0, shift=(200, 150)):
    """Random points with eyes, nose base in their places: eye distance 60·scale before it is turned."""
    points = random.uniform((-60, -50), (60, 110), (NUM_LANDMARKS, 2))
    for corners, x in (((33, 133), -30), ((362, 263), 30)):
        points[corners, :] = [(x - 12, 0), (x + 12, 0)]
    points[NOSE_BASE] = (0, 40)
    return transform_points(points, similarity(angle, scale, shift))


def smooth_picture(height, width):
    ys, xs = np.mgrid[0:height, 0:width] / 17.0
    return (127 + 60 * np.stack([np.sin(xs + ys), np.cos(xs - 0.5 * ys), np.sin(0.7 * ys)], -1)).astype(np.uint8)


@pytest.mark.parametrize("seed", range(5))
def test_inverse_matrix_brings_points_back(seed):
    random = np.random.default_rng(seed)
    matrix = similarity(random.uniform(-3, 3), random.uniform(0.1, 5), random.uniform(-500, 500, 2))
    points = random.uniform(-300, 300, (50, 2)).astype(np.float32)
    there_and_back = transform_points(transform_points(points, matrix), invert_matrix(matrix))
    np.testing.assert_allclose(there_and_back, points, atol=2e-2)
    assert np.abs(transform_points(points, matrix) - points).max() > 1


def test_transform_points_takes_one_matrix_per_frame():
    random = np.random.default_rng(0)
    matrices = np.stack([similarity(a, 1 + a, (a, 2)) for a in (0.1, 0.2, 0.3)])
    points = random.normal(size=(3, 7, 2))
    together = transform_points(points, matrices)
    for index in range(3):
        np.testing.assert_allclose(together[index], transform_points(points[index], matrices[index]))


@pytest.mark.parametrize("size", [96, 128, 255])
@pytest.mark.parametrize("angle", [-2.5, -0.4, 0.0, 0.7])
@pytest.mark.parametrize("scale", [0.4, 1.0, 6.0])
def test_pose_driven_crop_puts_the_eyes_in_their_place(size, angle, scale):
    landmarks = face_landmarks(np.random.default_rng(1), angle, scale)
    inside = transform_points(landmarks, pose_driven_matrix(landmarks, size))
    right, left = eye_centres(inside)
    np.testing.assert_allclose((right + left) / 2, np.array(EYE_MIDPOINT) * size, atol=0.01)
    assert right[1] == pytest.approx(left[1], abs=0.01) and right[0] < left[0]
    # 1.25 · 40 < 60: the eye distance sets the scale of this face.
    assert eye_distance(inside) == pytest.approx(FACE_SCALE * size, rel=1e-3)


def test_pose_driven_scale_holds_when_the_head_turns():
    landmarks = face_landmarks(np.random.default_rng(1))
    turned = landmarks.copy()
    turned[:, 0] = 200 + (turned[:, 0] - 200) * 0.5  # the eyes draw together, the nose stays as long
    inside = transform_points(turned, pose_driven_matrix(turned, 100))
    assert eye_distance(inside) < 0.8 * FACE_SCALE * 100
    middle = np.mean(eye_centres(inside), axis=0)
    assert 1.25 * np.linalg.norm(inside[NOSE_BASE] - middle) == pytest.approx(FACE_SCALE * 100, rel=1e-3)


def test_keypoints_alone_give_the_same_crop():
    landmarks = face_landmarks(np.random.default_rng(2), 0.3)
    right, left = eye_centres(landmarks)
    np.testing.assert_allclose(
        keypoint_matrix(right, left, landmarks[NOSE_BASE], 128), pose_driven_matrix(landmarks, 128)
    )


def test_face_centric_crop_is_upright_around_the_box():
    matrix = face_centric_matrix((40, 60, 100, 80), 200)
    assert matrix[0, 1] == matrix[1, 0] == 0
    corners = transform_points(np.array([[40, 60], [140, 140]], np.float32), matrix)
    np.testing.assert_allclose(corners.mean(0), (100, 100), atol=1e-3)
    assert corners[1, 0] - corners[0, 0] == pytest.approx(200 / FACE_CENTRIC_MARGIN)


def test_strategies_by_name():
    landmarks = face_landmarks(np.random.default_rng(3), 0.4)
    np.testing.assert_array_equal(crop_matrix(landmarks, 64), pose_driven_matrix(landmarks, 64))
    centric = crop_matrix(landmarks, 64, "face_centric")
    np.testing.assert_array_equal(centric, face_centric_matrix(landmark_box(landmarks), 64))
    with pytest.raises(InvalidArgumentError, match="pose_driven"):
        crop_matrix(landmarks, 64, "square")


def test_landmark_groups_are_apart_and_inside_the_mesh():
    groups = (OUTER_LIPS, INNER_LIPS, RIGHT_EYE_CONTOUR, LEFT_EYE_CONTOUR)
    together = [index for group in groups for index in group]
    assert len(set(together)) == len(together) == 72
    assert max(together) < NUM_LANDMARKS


def test_widened_crop_keeps_its_centre():
    matrix = similarity(0.3, 0.8, (5, -9))
    centre = transform_points(np.array([[63.5, 63.5]], np.float32), invert_matrix(matrix))
    widened = widen_matrix(matrix, 128, 1.25)
    np.testing.assert_allclose(transform_points(centre, widened), [[63.5, 63.5]], atol=1e-3)
    np.testing.assert_allclose(np.linalg.det(widened[:, :2]) * 1.25**2, np.linalg.det(matrix[:, :2]), rtol=1e-5)


def test_smoothing_keeps_a_still_head_and_calms_a_jittering_one():
    still = np.repeat(similarity(0.1, 1.2, (3, 4))[None], 9, 0)
    np.testing.assert_allclose(smooth_matrices(still), still, rtol=1e-6)
    jitter = still + np.random.default_rng(0).normal(0, 1, still.shape)
    smoothed = smooth_matrices(jitter.astype(np.float32))
    assert smoothed.shape == still.shape
    assert np.diff(smoothed, axis=0).std() < 0.5 * np.diff(jitter, axis=0).std()


def test_smoothing_follows_a_steady_motion():
    steady = np.stack([similarity(0, 1, (t, 2 * t)) for t in range(12)])
    np.testing.assert_allclose(smooth_matrices(steady)[2:-2], steady[2:-2], atol=1e-5)


@pytest.mark.parametrize("shape", [(128, 128), (131, 257), (1, 1), (64, 3)])
def test_identity_warp_copies_every_pixel(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    np.testing.assert_array_equal(warp_image(image, IDENTITY, shape), image)


def test_whole_shift_copies_every_pixel():
    image = np.random.default_rng(0).integers(0, 256, (90, 121, 3), dtype=np.uint8)
    shifted = warp_image(image, np.array([[1, 0, -17], [0, 1, -33]], np.float32), (50, 60))
    np.testing.assert_array_equal(shifted, image[33:83, 17:77])


def test_quarter_turn_copies_every_pixel():
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    turned = warp_image(image, np.array([[0, -1, 39], [1, 0, 0]], np.float32), 40)
    np.testing.assert_array_equal(turned, np.rot90(image, -1))


@pytest.mark.parametrize("size", [1, 33, (17, 50), (101, 64)])
def test_warp_gives_the_size_asked_for(size):
    height, width = (size, size) if isinstance(size, int) else size
    warped = warp_image(smooth_picture(75, 53), similarity(0.2, 0.7, (3, 1)), size)
    assert warped.shape == (height, width, 3) and warped.dtype == np.uint8


def test_outside_the_picture_its_edge_continues():
    image = np.full((30, 30, 3), 200, np.uint8)
    image[:, :5] = 10
    warped = warp_image(image, np.array([[1, 0, 40], [0, 1, 0]], np.float32), (30, 60))
    assert (warped[:, :38] == 10).all()
    far_away = warp_image(image, np.array([[1, 0, 4000], [0, 1, 4000]], np.float32), 20)
    assert (far_away == 10).all()


def test_warp_and_points_agree_on_where_things_are():
    image = np.zeros((120, 160, 3), np.uint8)
    ys, xs = np.mgrid[0:120, 0:160]
    image[:] = (250 * np.exp(-((xs - 100) ** 2 + (ys - 45) ** 2) / 30))[..., None].astype(np.uint8)
    for scale in (0.3, 0.8, 1.0, 2.5):
        matrix = similarity(0.5, scale, (20, 10) if scale > 1 else (60, 10))
        expected = transform_points(np.array([[100, 45]], np.float32), matrix)[0]
        matrix[:, 2] += 32 - expected
        warped = warp_image(image, matrix, 65)[..., 0].astype(float)
        ys_out, xs_out = np.mgrid[0:65, 0:65]
        found = (warped * xs_out).sum() / warped.sum(), (warped * ys_out).sum() / warped.sum()
        np.testing.assert_allclose(found, (32, 32), atol=0.15)


def test_shrinking_averages_and_does_not_alias():
    checks = np.indices((400, 400)).sum(0) % 2 * 255
    image = np.repeat(checks[..., None], 3, 2).astype(np.uint8)
    small = warp_image(image, np.array([[0.23, 0, 0], [0, 0.23, 0]], np.float32), 80)
    assert np.abs(small[4:-4, 4:-4].astype(int) - 127).max() < 12


@pytest.mark.parametrize("shape", [(300, 200), (200, 301), (129, 2000), (64, 64)])
def test_letterbox_matrix_says_where_pixels_went(shape):
    image = smooth_picture(*shape)
    square, matrix = letterbox(image, 192)
    assert square.shape == (192, 192, 3)
    corners = transform_points(np.array([[-0.5, -0.5], [shape[1] - 0.5, shape[0] - 0.5]], np.float32), matrix)
    low, high = corners.round(3) + 0.5
    assert (low >= 0).all() and (high <= 192).all()
    assert max(high - low) == pytest.approx(192, abs=0.01)
    mask = np.zeros((192, 192), bool)
    mask[int(round(low[1])) : int(round(high[1])), int(round(low[0])) : int(round(high[0]))] = True
    assert (square[~mask] == 127).all()
    # What the matrix says lies at a pixel is what the square shows there, away from the edges.
    inside = [(x, y) for x in range(0, 192, 13) for y in range(0, 192, 5) if mask[max(0, y - 3) : y + 4, x].all()]
    inside = [(x, y) for x, y in inside if low[0] + 3 < x < high[0] - 4 and 3 < y < 188]
    if shape[0] * 192 / max(shape) > 30:
        picture = transform_points(np.array(inside, np.float32), invert_matrix(matrix)).round().astype(int)
        shown = square[[y for _, y in inside], [x for x, _ in inside]].astype(int)
        assert np.abs(shown - image[picture[:, 1], picture[:, 0]]).mean() < 5


def test_letterbox_of_a_fine_pattern_does_not_alias():
    checks = np.repeat((np.indices((2000, 2000)).sum(0) % 2 * 255)[..., None], 3, 2).astype(np.uint8)
    square, _ = letterbox(checks, 192)
    assert np.abs(square[2:-2, 2:-2].astype(int) - 127).max() < 12


@pytest.mark.parametrize("size", [(57, 31), (40, 60), (13, 7), (114, 62)])
def test_resize_keeps_ramps_and_flat_pictures(size):
    width, height = size
    assert (resize(np.full((31, 57, 3), 93, np.uint8), size) == 93).all()
    ramp = np.broadcast_to((np.arange(57) * 4)[None, :, None], (31, 57, 3)).astype(np.uint8)
    resized = resize(ramp, size)
    assert resized.shape == (height, width, 3) and resized.dtype == np.uint8
    expected = ((np.arange(width) + 0.5) * 57 / width - 0.5) * 4
    edge = 2 + width // 20  # the filter looks past the border there
    assert np.abs(resized[:, edge:-edge] - expected[edge:-edge, None]).max() <= 1.5


def test_resize_to_the_same_size_copies_every_pixel():
    image = np.random.default_rng(0).integers(0, 256, (31, 57, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize(image, (57, 31)), image)


def test_pictures_stay_untouched_and_may_be_read_only():
    image = np.random.default_rng(0).integers(0, 256, (900, 800, 3), dtype=np.uint8)
    before = image.copy()
    image.flags.writeable = False
    letterbox(image, 192)
    resize(image, (30, 40))
    face_view(image, (100, 100, 500, 600))
    warp_image(image, similarity(0.2, 0.3, (0, 0)), 64)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("box", [(100, 120, 450, 500), (-200, -150, 700, 800), (400, 300, 900, 900)])
def test_face_view_shows_things_where_its_matrix_says(box):
    spot = (505.3, 452.6)
    ys, xs = np.mgrid[0:1001, 0:1203]
    blob = 250 * np.exp(-((xs - spot[0]) ** 2 + (ys - spot[1]) ** 2) / 300)
    view, matrix = face_view(np.repeat(blob.round()[..., None], 3, 2).astype(np.uint8), box)
    assert max(view.shape) < 800 and matrix[0, 0] == matrix[1, 1] < 1 and matrix[0, 1] == matrix[1, 0] == 0
    weight = view[..., 0].astype(float)
    ys, xs = np.mgrid[0 : view.shape[0], 0 : view.shape[1]]
    found = (weight * xs).sum() / weight.sum(), (weight * ys).sum() / weight.sum()
    # Half a pixel of the picture must not get lost.
    np.testing.assert_allclose(found, transform_points(np.array([spot]), matrix)[0], atol=0.03)


def test_face_view_of_an_ordinary_face_is_the_picture():
    image = smooth_picture(300, 300)
    view, matrix = face_view(image, (20, 20, 200, 220))
    assert view is image
    np.testing.assert_array_equal(matrix, IDENTITY)


@pytest.mark.parametrize(
    ("height", "width", "side"), [(400, 900, 450), (1000, 1000, 333), (2160, 3840, 480), (50, 50, 64)]
)
def test_tiles_cover_the_picture_and_overlap_by_half(height, width, side):
    covered = np.zeros((height, width), np.uint8)
    for left, top, right, bottom in tiles(height, width, side):
        assert 0 <= left < right <= width and 0 <= top < bottom <= height and max(right - left, bottom - top) <= side
        covered[top:bottom, left:right] += 1
    assert covered.min() >= 1
    # A face of half a tile lies whole in some tile.
    half = side // 2 - 1
    for x in range(0, max(1, width - half), 37):
        assert any(left <= x and x + half <= right for left, _, right, _ in tiles(height, width, side)) or half > width


def test_overlap_of_boxes():
    box = (3.0, 4.0, 10.0, 20.0)
    assert overlap(box, box) == 1
    assert overlap(box, (13, 4, 10, 20)) == overlap(box, (90, 90, 5, 5)) == 0
    assert overlap(box, (3, 4, 5, 20)) == overlap((3, 4, 5, 20), box) == pytest.approx(0.5)


def test_box_of_landmarks_is_their_extent():
    x, y, width, height = landmark_box(np.array([[5, 9], [2, 30], [11, 12.5]]))
    assert (x, y, width, height) == (2, 9, 9, 21)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("portrait.png", "str"),
        (np.zeros((200, 200), np.uint8), r"\(200, 200\)"),
        (np.zeros((200, 200, 4), np.uint8), r"\(200, 200, 4\)"),
        (np.zeros((200, 200, 3)), "float64"),
        (np.zeros((300, 127, 3), np.uint8), "127x300.*128x128"),
    ],
)
def test_what_is_no_picture_is_said(image, message):
    with pytest.raises(InvalidImageError, match=message):
        check_image(image)


def test_the_smallest_picture_allowed():
    check_image(np.zeros((128, 128, 3), np.uint8))


@pytest.mark.parametrize("roll", [0.0, 0.6])
def test_faces_turned_too_far_are_refused(roll):
    face = neutral_landmarks().numpy() * 200
    cos, sin = np.cos(roll), np.sin(roll)
    turning = np.array([[cos, sin], [-sin, cos]], np.float32)
    check_frontal(face @ turning)
    assert abs(turn_aside(face @ turning)) < 0.05
    face[1] += (60, 0)  # the tip of the nose
    assert turn_aside(face @ turning) == pytest.approx(0.3, abs=0.06)
    with pytest.raises(FaceTurnedError, match="both corners of the mouth"):
        check_frontal(face @ turning)
