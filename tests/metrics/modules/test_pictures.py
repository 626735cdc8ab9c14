"""PSNR, SSIM, LPIPS and ISS as modules, against closed forms, scikit-image and the networks themselves."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from avatarsync.errors import InvalidArgumentError
from avatarsync.feature_networks.perceptual_trunks import LPIPS_SQUEEZENET
from avatarsync.identity import load_face_embedding
from avatarsync.metrics.modules import ISS, LPIPS, PSNR, SSIM
from avatarsync.perceptual import LPIPSDistance


def frames(seed, count=5, height=40, width=31):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def noisy(pictures, seed=9, deviation=12):
    noise = np.random.default_rng(seed).normal(0, deviation, pictures.shape)
    return np.clip(pictures + noise, 0, 255).astype(np.uint8)


def test_psnr_is_that_of_the_mean_error_or_the_mean_of_the_frames():
    real = frames(0)
    generated = noisy(real)
    figures = PSNR().compute(predictions=generated, references=real)
    assert figures["psnr"] == pytest.approx(peak_signal_noise_ratio(real, generated, data_range=255))
    assert figures["mean_squared_error"] == pytest.approx(np.mean((real.astype(float) - generated) ** 2))
    each = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(real, generated, strict=True)]
    assert PSNR(per_frame=True).compute(predictions=generated, references=real)["psnr"] == pytest.approx(np.mean(each))
    assert PSNR().compute(predictions=real, references=real)["psnr"] == np.inf
    with pytest.raises(InvalidArgumentError, match="per_frame=False"):
        PSNR(per_frame=True).compute(predictions=real, references=real)


@pytest.mark.parametrize("size", [(11, 11), (40, 31), (64, 65)])
@pytest.mark.parametrize("deviation", [2, 30])
def test_ssim_is_scikit_images(size, deviation):
    smooth = np.cumsum(np.cumsum(frames(1, 2, *size).astype(float) - 127, 1), 2)
    real = np.stack([np.uint8((one - one.min()) / np.ptp(one) * 255) for one in smooth])
    generated = noisy(real, deviation=deviation)
    expected = [
        structural_similarity(
            *pair, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
        )
        for pair in zip(real, generated, strict=True)
    ]
    figures = SSIM().compute(predictions=generated, references=real)
    assert figures["ssim"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert SSIM().compute(predictions=real, references=real)["ssim"] == pytest.approx(1)


def test_lpips_is_the_networks_mean_and_carries_its_name():
    network = LPIPSDistance(LPIPS_SQUEEZENET)
    real, generated = frames(2), frames(3)
    pixels = [torch.from_numpy(one).permute(0, 3, 1, 2) / 127.5 - 1 for one in (generated, real)]
    figures = LPIPS(network=network, batch_size=2).compute(predictions=generated, references=real)
    assert figures == {"LPIPS v0.1 (SqueezeNet)": pytest.approx(network(*pixels).mean().item(), rel=1e-5)}
    assert LPIPS(network=network).compute(predictions=real, references=real)[network.name] == 0


def test_iss_is_the_cosine_distance_of_the_named_embedding():
    embedding = load_face_embedding("dlib")
    real, generated = frames(4, 3, 64, 64), frames(5, 3, 64, 64)
    metric = ISS(network=embedding, batch_size=2)
    pixels = [torch.from_numpy(one).permute(0, 3, 1, 2) / 127.5 - 1 for one in (generated, real)]
    with torch.no_grad():
        expected = 1 - (embedding(pixels[0]) * embedding(pixels[1])).sum(-1)
    figures = metric.compute(predictions=generated, references=real)
    assert figures == {f"ISS/{embedding.name}": pytest.approx(expected.mean().item(), abs=1e-5)}
    assert metric.compute(predictions=real, references=real)[f"ISS/{embedding.name}"] == pytest.approx(0, abs=1e-6)
    usual = np.repeat(embedding.usual_landmarks.numpy()[None] * 64, 3, 0)
    with_landmarks = metric.compute(
        predictions=generated, references=real, prediction_landmarks=usual, reference_landmarks=usual
    )
    assert with_landmarks[f"ISS/{embedding.name}"] == pytest.approx(expected.mean().item(), abs=1e-4)
    with pytest.raises(InvalidArgumentError, match="of 3 frames"):
        metric.add_batch(predictions=generated, references=real, prediction_landmarks=usual[:2])


@pytest.mark.parametrize("make", [PSNR, SSIM, lambda: LPIPS(network=LPIPSDistance(LPIPS_SQUEEZENET)), ISS])
def test_batches_of_any_size_give_what_one_batch_gives_in_flat_memory(make):
    real, generated = frames(6, 7), frames(7, 7)
    metric = make()
    at_once = metric.compute(predictions=generated, references=real)
    metric.add(prediction=generated[0], reference=real[0])
    size = metric.state_bytes
    metric.add_batch(predictions=generated[1:3], references=list(real[1:3]))
    metric.add_batch(predictions=torch.from_numpy(generated[3:]), references=real[3:])
    assert len(metric) == 7 and metric.state_bytes == size < 100
    # float32's precision: of the figure, and for a cosine distance of the 1 that it is taken from.
    absolute = 1e-7 if make is ISS else 0
    assert metric.compute() == pytest.approx(at_once, rel=1e-6, abs=absolute)
    with pytest.raises(InvalidArgumentError, match="nothing to compute"):
        metric.compute()


def test_two_processes_are_merged():
    real, generated = frames(6, 7), frames(7, 7)
    first, second, whole = SSIM(), SSIM(), SSIM()
    first.add_batch(predictions=generated[:2], references=real[:2])
    second.add_batch(predictions=generated[2:], references=real[2:])
    first.merge(second)
    assert first.compute() == pytest.approx(whole.compute(predictions=generated, references=real))
    with pytest.raises(InvalidArgumentError, match="same kind"):
        first.merge(PSNR())


GOOD = frames(0)
WRONG = {
    "float": (GOOD / 255.0, GOOD),
    "one frame without a batch": (GOOD[0], GOOD[0]),
    "channels first": (GOOD.transpose(0, 3, 1, 2), GOOD.transpose(0, 3, 1, 2)),
    "different sizes": (GOOD[:, 1:], GOOD),
    "different numbers": (GOOD[1:], GOOD),
    "no references": (GOOD, None),
    "nothing": (GOOD[:0], GOOD[:0]),
    "frames of several sizes": ([GOOD[0], GOOD[0, 1:]], [GOOD[0], GOOD[0]]),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_refused_and_changes_nothing(case):
    for metric in (PSNR(), SSIM()):
        with pytest.raises(InvalidArgumentError):
            metric.add_batch(predictions=WRONG[case][0], references=WRONG[case][1])
        assert len(metric) == 0 and not any(value.any() for value in metric.state.values())


def test_ssim_needs_eleven_pixels():
    with pytest.raises(InvalidArgumentError, match="11 pixels"):
        SSIM().compute(predictions=GOOD[:, :10], references=GOOD[:, :10])
