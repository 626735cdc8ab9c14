"""Flicker of generated video, and how it compares with that of the real one (the paper's Preliminary, Figure 3)."""

import numpy as np
import torch
from datasets import Image

from avatarsync.errors import InvalidArgumentError
from avatarsync.metrics.modules.streaming import ClipMetric, check_frame_pairs, check_frames, zeros

SIDES = ("generated", "real")


class Flicker(ClipMetric):
    """Mean squared second difference in time, as `avatarsync.metrics.second_differences` has it.

    Batches are consecutive frames of a clip; `end_clip` lies between clips, each of at least three frames. The figures
    are {"flicker": grey levels²} and, with references, "flicker_real" and their ratio "flicker_over_real".
    """

    description = __doc__.split("\n")[0]
    inputs = (
        "predictions: frames (B, H, W, 3) uint8; references: real ones, in all batches or in none; mask: pixels that "
        "count, (H, W) bool."
    )
    features_of_batch = {"predictions": Image(), "references": Image()}

    def empty_state(self):
        sums = {name: zeros() for side in SIDES for name in (f"sum_{side}", f"count_{side}")}
        # The last two frames of the open clip; their size is known with the first.
        kept = {f"clip_{side}": torch.zeros(0, dtype=torch.uint8) for side in SIDES}
        return {**sums, **kept, "clip_frames": zeros()}

    def update(self, predictions, references=None, mask=None):
        if references is None:
            sides = {"generated": check_frames(predictions, "predictions")}
        else:
            sides = dict(zip(SIDES, check_frame_pairs(predictions, references), strict=True))
        height, width = predictions.shape[1:3]
        mask = np.ones((height, width), bool) if mask is None else np.asarray(mask)
        if mask.shape != (height, width) or mask.dtype != bool or not mask.any():
            raise InvalidArgumentError(f"mask must be ({height}, {width}) of bool with at least one True")
        carried = {side: self.state[f"clip_{side}"].numpy() for side in SIDES}
        if self.clip_is_open:
            if carried["generated"].shape[1:] != predictions.shape[1:]:
                raise InvalidArgumentError("frames of a clip must have one size: call end_clip() between clips")
            if bool(len(carried["real"])) != (references is not None):
                raise InvalidArgumentError("give references with all batches of a clip or with none")
        for side, frames in sides.items():
            window = list(carried[side])
            for frame in frames:
                window.append(frame)
                if len(window) == 3:
                    before, now, after = (picture[mask].astype(np.float32) for picture in window)
                    self.state[f"sum_{side}"] += float(np.mean(np.square(before - 2 * now + after), dtype=np.float64))
                    self.state[f"count_{side}"] += 1
                    window.pop(0)
            self.state[f"clip_{side}"] = torch.from_numpy(np.stack(window))
        self.state["clip_frames"] += len(predictions)

    def finish_clip(self):
        if self.state["clip_frames"] < 3:
            raise InvalidArgumentError("flicker needs clips of three frames and more: give longer ones")

    def result(self):
        flicker = float(self.state["sum_generated"] / self.state["count_generated"])
        if not self.state["count_real"]:
            return {"flicker": flicker}
        real = float(self.state["sum_real"] / self.state["count_real"])
        ratio = flicker / real if real else float("nan")
        return {"flicker": flicker, "flicker_real": real, "flicker_over_real": ratio}
