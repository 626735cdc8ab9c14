"""Fréchet inception distance (Heusel et al. 2017; Table 1), and the same on features that need no weight file."""

import torch
from datasets import Image

from avatarsync.distribution_features import DistributionFeatures, load_picture_features
from avatarsync.metrics.modules.frechet import FrechetMetric, given_sides
from avatarsync.metrics.modules.streaming import check_frames, chunks, to_pixels


class FID(FrechetMetric):
    """Fréchet distance of the features of generated and real frames; {"FID/Inception-v3 (2015-12-05)": …}.

    The key is `network.figure`: with "st-lpips-alexnet" or "st-lpips" the figure is no FID and is not called so.
    Frames of both sides need not belong together; either may be left out of a batch. Resized as pytorch-fid does.

    Args:
        network: what `load_picture_features` takes, or what it returns.
        batch_size: frames that the network sees at a time.
        device: where it runs.

    Raises:
        AvatarSyncError: see `load_picture_features`.
    """

    description = __doc__.split(";")[0]
    inputs = "predictions, references: frames (B, H, W, 3) uint8; either may be None."
    features_of_batch = {"predictions": Image(), "references": Image()}

    def __init__(
        self,
        *args,
        network: str | DistributionFeatures = "st-lpips-alexnet",
        batch_size: int = 8,
        device: str | torch.device = "cpu",
        **kwargs,
    ):
        network = network if isinstance(network, DistributionFeatures) else load_picture_features(network)
        super().__init__(*args, network=network, batch_size=batch_size, device=device, **kwargs)

    def update(self, predictions, references):
        for side, frames in given_sides(predictions, references, check_frames).items():
            for part in chunks(len(frames), self.batch_size):
                self.add_vectors(side, self.network.resize(to_pixels(frames[part])))
