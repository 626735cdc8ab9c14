"""Structural similarity (Wang et al. 2004) of generated frames with real ones (Table 1)."""

import torch
from datasets import Image
from torch.nn import functional

from avatarsync.metrics.modules.streaming import StreamingMetric, check_frame_pairs, zeros

SIGMA, REACH = 1.5, 5  # pixels: the Gaussian window, cut off at 3.5 standard deviations
LUMINANCE, CONTRAST = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def structural_similarity(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """SSIM `(B,)` of pictures `(B, C, H, W)` of grey levels 0 … 255, H and W at least 11: Wang et al.'s settings.

    Equal to scikit-image's `structural_similarity(…, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    data_range=255, channel_axis=…)`: mean over all windows that lie inside the picture, and over channels. Computed in
    float64, since variances are differences of large numbers.
    """
    first, second = first.double(), second.double()
    offsets = torch.arange(-REACH, REACH + 1, dtype=torch.float64, device=first.device)
    window = torch.exp(-0.5 * (offsets / SIGMA) ** 2)
    window = window / window.sum()

    def smooth(values: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = values.shape
        values = values.reshape(batch * channels, 1, height, width)
        values = functional.conv2d(functional.conv2d(values, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))
        return values.view(batch, channels, *values.shape[2:])

    mean, other_mean = smooth(first), smooth(second)
    variance, other_variance = smooth(first * first) - mean**2, smooth(second * second) - other_mean**2
    covariance = smooth(first * second) - mean * other_mean
    similarity = (2 * mean * other_mean + LUMINANCE) * (2 * covariance + CONTRAST)
    similarity = similarity / ((mean**2 + other_mean**2 + LUMINANCE) * (variance + other_variance + CONTRAST))
    return similarity.mean((1, 2, 3))


class SSIM(StreamingMetric):
    """SSIM, mean over frames; {"ssim": up to 1}."""

    description = __doc__
    inputs = "predictions, references: frames (B, H, W, 3) uint8 of at least 11 pixels a side."
    features_of_batch = {"predictions": Image(), "references": Image()}

    def empty_state(self):
        return {"similarity": zeros(), "frames": zeros()}

    def update(self, predictions, references):
        predictions, references = check_frame_pairs(predictions, references, least=2 * REACH + 1)
        for prediction, reference in zip(predictions, references, strict=True):
            pair = (torch.tensor(frame).permute(2, 0, 1)[None] for frame in (prediction, reference))
            self.state["similarity"] += structural_similarity(*pair)[0]
        self.state["frames"] += len(predictions)

    def result(self):
        return {"ssim": float(self.state["similarity"] / self.state["frames"])}
