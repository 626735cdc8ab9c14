"""Perceptual distance of generated frames from real ones (Table 1, Eq. 7), under the network's own name."""

import torch
from datasets import Image

from avatarsync.metrics.modules.streaming import StreamingMetric, check_frame_pairs, chunks, to_pixels, zeros
from avatarsync.perceptual import PerceptualDistance, load_perceptual


class LPIPS(StreamingMetric):
    """Perceptual distance, mean over frames; {the network's name, as "LPIPS v0.1 (SqueezeNet)": 0 for equal frames}.

    Args:
        network: what `load_perceptual` takes ("st-lpips", "st-lpips-alexnet" or the path of LPIPS v0.1), or a loaded
            `PerceptualDistance`.
        batch_size: frames that the network sees at a time.
        device: where it runs.

    Raises:
        AvatarSyncError: see `load_perceptual`.
    """

    description = __doc__.split(";")[0]
    inputs = "predictions, references: frames (B, H, W, 3) uint8."
    features_of_batch = {"predictions": Image(), "references": Image()}

    def __init__(
        self,
        *args,
        network: str | PerceptualDistance = "st-lpips-alexnet",
        batch_size: int = 8,
        device: str | torch.device = "cpu",
        **kwargs,
    ):
        network = network if isinstance(network, PerceptualDistance) else load_perceptual(network)
        self.network, self.batch_size, self.device = network.eval().to(device), batch_size, device
        super().__init__(*args, **kwargs)

    def empty_state(self):
        return {"distance": zeros(), "frames": zeros()}

    @torch.inference_mode()
    def update(self, predictions, references):
        predictions, references = check_frame_pairs(predictions, references)
        for part in chunks(len(predictions), self.batch_size):
            pair = (to_pixels(frames[part]).to(self.device) for frames in (predictions, references))
            self.state["distance"] += self.network(*pair).double().sum().cpu()
        self.state["frames"] += len(predictions)

    def result(self):
        return {self.network.name: float(self.state["distance"] / self.state["frames"])}
