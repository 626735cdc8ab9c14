"""Peak signal-to-noise ratio of generated frames against real ones (Table 1)."""

import numpy as np
from datasets import Image

from avatarsync.errors import InvalidArgumentError
from avatarsync.metrics.modules.streaming import StreamingMetric, check_frame_pairs, chunks, zeros
from avatarsync.metrics.psnr import psnr


class PSNR(StreamingMetric):
    """PSNR in dB of the mean squared error of all frames, as `avatarsync.metrics.psnr` has it.

    Batches may differ in size. The figures are {"psnr": dB, "mean_squared_error": grey levels²}.

    Args:
        per_frame: average the frames' own PSNRs instead, as many papers do; then frames must not be equal.
    """

    description = __doc__.split("\n")[0]
    inputs = "predictions, references: frames (B, H, W, 3) uint8."
    features_of_batch = {"predictions": Image(), "references": Image()}

    def __init__(self, *args, per_frame: bool = False, **kwargs):
        self.per_frame = per_frame
        super().__init__(*args, **kwargs)

    def empty_state(self):
        return {"squared_error": zeros(), "values": zeros(), "decibels": zeros(), "frames": zeros()}

    def update(self, predictions, references):
        predictions, references = check_frame_pairs(predictions, references)
        errors = np.concatenate(
            [
                np.square(predictions[part].astype(np.float64) - references[part]).sum((1, 2, 3))
                for part in chunks(len(predictions), 8)
            ]
        )
        values = predictions[0].size
        if self.per_frame:
            if not errors.all():
                raise InvalidArgumentError("equal frames have no PSNR of their own: measure with per_frame=False")
            self.state["decibels"] += psnr(errors / values).sum()
        self.state["squared_error"] += errors.sum()
        self.state["values"] += values * len(errors)
        self.state["frames"] += len(errors)

    def result(self):
        error = float(self.state["squared_error"] / self.state["values"])
        if self.per_frame:
            return {"psnr": float(self.state["decibels"] / self.state["frames"]), "mean_squared_error": error}
        return {"psnr": float(psnr(error)), "mean_squared_error": error}
