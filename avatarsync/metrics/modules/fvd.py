"""Fréchet video distance (Unterthiner et al. 2018; Table 1), and the same on features that need no weight file."""

import numpy as np
import torch
from datasets import Image

from avatarsync.distribution_features import CLIP_FRAMES, DistributionFeatures, load_clip_features
from avatarsync.metrics.modules.frechet import SIDES, FrechetMetric, given_sides
from avatarsync.metrics.modules.streaming import ClipMetric, check_frames, to_pixels


class FVD(FrechetMetric, ClipMetric):
    """Fréchet distance of the features of pieces of 16 frames; {"FVD/I3D (Kinetics-400)": …}.

    The key is `network.figure`: with "st-lpips-alexnet" or "st-lpips" the figure is no FVD and is not called so.
    Batches are consecutive frames of a clip, cut into pieces that do not overlap; `end_clip` lies between clips, and
    what is left of fewer than 16 frames does not count. Either side may be left out of a batch.

    Args:
        network: what `load_clip_features` takes, or what it returns.
        device: where it runs.

    Raises:
        AvatarSyncError: see `load_clip_features`.
    """

    description = __doc__.split(";")[0]
    inputs = "predictions, references: consecutive frames (B, H, W, 3) uint8; either may be None."
    features_of_batch = {"predictions": Image(), "references": Image()}

    def __init__(
        self,
        *args,
        network: str | DistributionFeatures = "st-lpips-alexnet",
        device: str | torch.device = "cpu",
        **kwargs,
    ):
        network = network if isinstance(network, DistributionFeatures) else load_clip_features(network)
        super().__init__(*args, network=network, batch_size=1, device=device, **kwargs)

    def empty_state(self):
        # Frames of a piece that is not whole yet, at the network's size: at most 15.
        waiting = {f"clip_{side}": torch.zeros(0, 3, self.network.side, self.network.side) for side in SIDES}
        return {**FrechetMetric.empty_state(self), **waiting, "clip_frames": torch.zeros((), dtype=torch.float64)}

    def update(self, predictions, references):
        for side, frames in given_sides(predictions, references, check_frames).items():
            for frame in frames:
                resized = self.network.resize(to_pixels(np.asarray(frame)[None]))
                piece = torch.cat([self.state[f"clip_{side}"], resized])
                if len(piece) == CLIP_FRAMES:
                    self.add_vectors(side, piece.transpose(0, 1)[None])
                    piece = piece[:0].clone()
                self.state[f"clip_{side}"] = piece
            self.state["clip_frames"] += len(frames)

    def finish_clip(self):
        pass  # what waits for the rest of its piece is dropped by end_clip
