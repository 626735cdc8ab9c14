"""PSNR, sharpness, flicker and regions against closed forms."""

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from avatarsync.metrics import (
    contour_region,
    laplacian_variance,
    psnr,
    region_mask,
    second_differences,
    sharpness_ratio,
)


def pictures(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def test_psnr_equals_scikit_images():
    first, second = pictures(20, 30), pictures(20, 30, seed=1)
    error = np.mean(np.square(first.astype(float) - second))
    assert psnr(error) == pytest.approx(peak_signal_noise_ratio(first, second))
    assert psnr(255.0**2) == 0
    assert np.isinf(psnr(0.0))
    np.testing.assert_allclose(psnr(np.array([1.0, 0.01]), peak=1.0), [0, 20])


def test_laplacian_of_planes_parabolas_and_checkerboards():
    ys, xs = np.mgrid[:16, :12]
    assert laplacian_variance(np.repeat((3 * xs + 5 * ys)[..., None], 3, 2)) == pytest.approx(0, abs=1e-15)
    assert laplacian_variance(np.repeat((xs**2)[..., None], 3, 2)) == pytest.approx(0, abs=1e-15), "2 everywhere"
    # ±1 about the mean: the Laplacian is ∓8, its variance 64; the weights of the luma sum to one.
    checkers = np.repeat((100 + (-1.0) ** (xs + ys))[..., None], 3, 2)
    assert laplacian_variance(checkers) == pytest.approx(64)


def test_laplacian_weighs_colours_as_luma():
    ys, xs = np.mgrid[:16, :12]
    green = np.zeros((16, 12, 3))
    green[..., 1] = (-1.0) ** (xs + ys)
    assert laplacian_variance(green) == pytest.approx(64 * 0.587**2)


def test_sharpness_is_compared_at_equal_opening():
    sharp, soft = pictures(20, 20), np.full((20, 20, 3), 90, np.uint8)
    soft[::2] = 110
    real = [sharp, soft]
    assert sharpness_ratio([sharp, soft], real, [0.5, 0.0], [0.45, 0.05]) == pytest.approx(1)
    expected = laplacian_variance(soft) / laplacian_variance(sharp)
    assert sharpness_ratio([soft], real, [0.5], [0.45, 0.05]) == pytest.approx(expected)
    halved = [(image // 2).astype(np.uint8) for image in (sharp & 254, soft & 254)]
    assert sharpness_ratio(halved, [sharp & 254, soft & 254], [1, 0], [1, 0]) == pytest.approx(0.25)


def test_second_differences_ignore_even_motion_and_see_jumps():
    ramp = np.arange(0, 60, 6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 5, 3), np.uint8)
    everywhere = np.ones((4, 5), bool)
    np.testing.assert_array_equal(second_differences(ramp, everywhere), np.zeros(8))
    jump = np.full((6, 4, 5, 3), 200, np.uint8)
    jump[3] = 10  # differences must not wrap around in uint8
    np.testing.assert_allclose(second_differences(jump, everywhere), [0, 190**2, 380**2, 190**2])


def test_second_differences_of_noise_are_six_variances():
    noise = np.random.default_rng(0).normal(128, 4, (40, 60, 60, 3)).round().astype(np.uint8)
    value = second_differences(noise, np.ones((60, 60), bool)).mean()
    assert value == pytest.approx(6 * noise.astype(float).var(), rel=0.01)


def test_only_masked_pixels_count():
    frames = np.zeros((3, 4, 5, 3), np.uint8)
    frames[1, 2, 3] = 9
    mask = region_mask((2, 3, 3, 5), 4, 5)
    assert mask.sum() == 2
    np.testing.assert_allclose(second_differences(frames, mask), [324 / 2])
    np.testing.assert_array_equal(second_differences(frames, ~mask), [0])


def test_regions_hold_their_points_and_the_margin():
    landmarks = np.zeros((2, 468, 2))
    landmarks[:, 61], landmarks[:, 291] = (20, 50), (60, 54)
    top, bottom, left, right = contour_region(landmarks[0], (61, 291), 0.25, 100, 100)
    assert (top, bottom, left, right) == (40, 65, 10, 71)
    landmarks[1, 291] = (60, 80)
    assert contour_region(landmarks, (61, 291), 0.25, 100, 100) == (40, 91, 10, 71), "of all frames"
    assert contour_region(landmarks, (61, 291), 0.25, 70, 65) == (40, 70, 10, 65), "cut to the picture"
    assert contour_region(landmarks + 500, (61, 291), 0.25, 100, 100) is None
    assert not region_mask(None, 3, 3).any()
