"""The bundled face aligner on a photographed face."""

import numpy as np
import pytest
from skimage.data import astronaut, coffee

from avatarsync import AvatarSyncPipeline
from avatarsync.errors import FaceNotFoundError
from avatarsync.image_processing_face import (
    NOSE_BASE,
    eye_centres,
    eye_distance,
    overlap,
    resize,
    transform_points,
    warp_image,
)

# Points of the astronaut's face, read off the enlarged photograph: pupils, nose base, mouth corners, chin.
RIGHT_PUPIL, LEFT_PUPIL = (203, 101), (246, 103)
ON_THE_PHOTOGRAPH = {NOSE_BASE: (225, 134), 61: (202, 140), 291: (247, 141), 152: (222, 178)}
MIRRORED = {33: 263, 133: 362, 362: 133, 263: 33, 61: 291, 291: 61, 78: 308, 308: 78, 13: 13, 14: 14, 2: 2, 152: 152}


@pytest.fixture(scope="module")
def bundled():
    return AvatarSyncPipeline.from_pretrained().model.face_aligner


@pytest.fixture(scope="module")
def photographed(bundled):
    """The face in the astronaut's photograph."""
    return bundled.align(astronaut())


def assert_same_face(face, landmarks, mean=0.015, most=0.05):
    """Landmarks lie where they should, in eye distances."""
    errors = np.linalg.norm(face.landmarks - landmarks, axis=-1) / eye_distance(landmarks)
    assert errors.mean() < mean and errors.max() < most and face.score > 0.9


def on_a_4k_canvas(photograph, left, top):
    canvas = np.full((2160, 3840, 3), 70, np.uint8)
    canvas[top : top + photograph.shape[0], left : left + photograph.shape[1]] = photograph
    return canvas


def test_a_photographed_face_is_where_the_eye_sees_it(photographed):
    landmarks = photographed.landmarks
    right, left = eye_centres(landmarks)
    np.testing.assert_allclose(right, RIGHT_PUPIL, atol=3)
    np.testing.assert_allclose(left, LEFT_PUPIL, atol=3)
    for index, place in ON_THE_PHOTOGRAPH.items():
        np.testing.assert_allclose(landmarks[index], place, atol=4, err_msg=str(index))
    heights = landmarks[[10, 159, NOSE_BASE, 0, 13, 14, 17, 152], 1]  # forehead, lid, nose, four lip edges, chin
    assert (np.diff(heights) > 0).all()
    assert overlap(photographed.box, (178, 66, 93, 112)) > 0.85


@pytest.mark.parametrize("degrees", [-30, -20, 20, 30])
def test_a_tilted_face_is_the_same_face(bundled, photographed, degrees):
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    matrix = np.array([[cos, -sin, 0], [sin, cos, 0]], np.float32)
    matrix[:, 2] = 256 - matrix[:, :2] @ (225, 130)
    tilted = warp_image(astronaut(), matrix, 512)
    assert_same_face(bundled.align(tilted), transform_points(photographed.landmarks, matrix))


def test_an_enlarged_face_is_the_same_face(bundled, photographed):
    assert_same_face(bundled.align(resize(astronaut(), (1536, 1536))), (photographed.landmarks + 0.5) * 3 - 0.5)


def test_a_grey_face_is_the_same_face(bundled, photographed):
    grey = (astronaut() @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)
    assert_same_face(bundled.align(np.repeat(grey[..., None], 3, -1)), photographed.landmarks, 0.03, 0.1)


def test_4k_pictures_with_a_small_and_a_large_face(bundled, photographed):
    small = bundled.align(on_a_4k_canvas(astronaut(), 2500, 900))
    assert_same_face(small, photographed.landmarks + (2500, 900))
    large = bundled.align(on_a_4k_canvas(resize(astronaut(), (2160, 2160)), 800, 0))
    assert_same_face(large, (photographed.landmarks + 0.5) * 2160 / 512 - 0.5 + (800, 0))


def test_a_mirrored_face_has_mirrored_landmarks(bundled, photographed):
    mirrored = bundled.align(np.ascontiguousarray(astronaut()[:, ::-1])).landmarks
    mirrored = (511, 0) + mirrored * (-1, 1)
    distances = np.linalg.norm(mirrored[list(MIRRORED)] - photographed.landmarks[list(MIRRORED.values())], axis=-1)
    assert distances.max() < 0.08 * eye_distance(photographed.landmarks)


def test_a_cup_of_coffee_has_no_face(bundled):
    assert bundled.detect(coffee()) == []
    with pytest.raises(FaceNotFoundError, match="face_box="):
        bundled.align(coffee())
