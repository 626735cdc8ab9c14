"""Are lips shut when they must be: on /m/, /b/, /p/ and in silence?"""

import numpy as np
import torch
from datasets import Array2D, List, Value

from avatarsync.errors import InvalidArgumentError
from avatarsync.metrics.closure import bilabial_centres, silence_centres
from avatarsync.metrics.lip_correlation import inner_lip_gap
from avatarsync.metrics.modules.streaming import ClipMetric, check_landmarks, zeros
from avatarsync.phonemes import PhonemeTrack

KINDS = ("bilabials", "silences")
PERCENTILE = 90  # of the clip's lip opening, which openings are shares of
SHUT = {"bilabials": 0.25, "silences": 0.15}  # shares of it that count as shut
BIN, NUM_BINS = 1e-4, 10_000  # eye distances; lips that gape by a whole eye distance and more count alike


def closure_moments(track: PhonemeTrack, num_frames: int, fps: float) -> np.ndarray:
    """The references of `Closure`: of how many bilabials, and of how many silences, each frame is the nearest to the
    centre; `(num_frames, 2)` int. Frame k is shown at k / fps; what is said after the last frame is not seen."""
    moments = np.zeros((num_frames, len(KINDS)), np.int64)
    for kind, centres in enumerate((bilabial_centres(track), silence_centres(track))):
        centres = centres[centres < num_frames / fps]
        frames = np.clip(np.rint(centres * fps).astype(int), 0, num_frames - 1)
        np.add.at(moments[:, kind], frames, 1)
    return moments


class Closure(ClipMetric):
    """Shares of closures that are shut, over all clips, and mean openings, as shares of the clip's 90th percentile.

    Batches are consecutive frames of a clip; `end_clip` lies between clips. Openings are kept as histograms of 0.0001
    eye distances, so that percentiles need no list of frames. For each of "bilabials" and "silences" the figures are
    `…_shut` (opening at most 25 and 15 % of the percentile), `…_opening` (mean) and `…_count`; nan, nan and 0 where
    there was none.
    """

    description = __doc__.split("\n")[0]
    inputs = "predictions: landmarks (B, 468, 2) in pixels; references: counts (B, 2) of closure_moments."
    features_of_batch = {"predictions": Array2D((468, 2), "float32"), "references": List(Value("int64"))}

    def empty_state(self):
        sums = {f"{kind}_{name}": zeros() for kind in KINDS for name in ("shut", "opening", "count")}
        return {**sums, "clip_frames": zeros(), "clip_gaps": zeros(NUM_BINS), "clip_moments": zeros(2, NUM_BINS)}

    def update(self, predictions, references):
        predictions = check_landmarks(predictions, "predictions")
        references = np.asarray(references)
        if references.shape != (len(predictions), len(KINDS)) or references.dtype.kind not in "iu":
            raise InvalidArgumentError(
                f"references must be whole numbers ({len(predictions)}, 2), as closure_moments makes them, not "
                f"{references.dtype} {references.shape}"
            )
        gaps = inner_lip_gap(predictions)
        bins = torch.from_numpy(np.clip((gaps / BIN).astype(np.int64), 0, NUM_BINS - 1))
        self.state["clip_gaps"] += torch.bincount(bins, minlength=NUM_BINS)
        for kind in range(len(KINDS)):
            weights = torch.from_numpy(references[:, kind].astype(np.float64))
            self.state["clip_moments"][kind] += torch.bincount(bins, weights, NUM_BINS)
        self.state["clip_frames"] += len(predictions)

    def finish_clip(self):
        if not self.clip_is_open:
            raise InvalidArgumentError("the clip has no frames: add a batch before end_clip()")
        # numpy's percentile: between the two order statistics about rank 0.9 (n - 1).
        rank = PERCENTILE / 100 * (float(self.state["clip_frames"]) - 1)
        below = self.state["clip_gaps"].cumsum(0)
        low, high = (
            int(torch.searchsorted(below, torch.tensor(float(place), dtype=torch.float64), right=True))
            for place in (np.floor(rank), np.ceil(rank))
        )
        whole = (low + (high - low) * (rank - np.floor(rank)) + 0.5) * BIN
        # A mouth whose gaps all lie in the first bin never opens, and is shut.
        openings = torch.arange(NUM_BINS, dtype=torch.float64)
        openings = torch.where(openings > 0, openings + 0.5, 0) * BIN / whole
        for kind, moments in zip(KINDS, self.state["clip_moments"], strict=True):
            self.state[f"{kind}_shut"] += moments[openings <= SHUT[kind]].sum()
            self.state[f"{kind}_opening"] += (moments * openings).sum()
            self.state[f"{kind}_count"] += moments.sum()

    def result(self):
        figures = {}
        for kind in KINDS:
            count = self.state[f"{kind}_count"]
            figures |= {f"{kind}_{name}": float(self.state[f"{kind}_{name}"] / count) for name in ("shut", "opening")}
            figures[f"{kind}_count"] = int(count)
        return figures
