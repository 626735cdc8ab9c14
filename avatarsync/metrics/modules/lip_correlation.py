"""Do generated lips move as the real ones do? Correlation, size and lag of lip opening and mouth width."""

import torch
from datasets import Array2D

from avatarsync.errors import InvalidArgumentError
from avatarsync.metrics.lip_correlation import inner_lip_gap, mouth_width
from avatarsync.metrics.modules.streaming import ClipMetric, check_landmarks, zeros

CURVES = {"opening": inner_lip_gap, "width": mouth_width}
MAX_LAG = 5  # frames
LAGS = range(-MAX_LAG, MAX_LAG + 1)
LAG_INDICES = torch.tensor(LAGS)
# Sums over pairs of a lag: n, Σx, Σy, Σx², Σy², Σxy.
NUM_SUMS = 6


class LipCorrelation(ClipMetric):
    """Pearson's r, gain and best lag of each clip's curves, as `avatarsync.metrics` has them; mean over clips.

    Batches are consecutive frames of a clip; `end_clip` lies between clips, each of at least eight frames. For each of
    "opening" and "width" the figures are `…_r` (0 where one curve does not vary), `…_gain` (likewise), `…_lag` (in
    frames; positive: generated is late) and `…_lag_within_1`, the share of clips whose lag is -1, 0 or 1.
    """

    description = __doc__.split("\n")[0]
    inputs = "predictions, references: landmarks (B, 468, 2) of generated and real frames, in pixels."
    features_of_batch = {
        "predictions": Array2D((468, 2), "float32"),
        "references": Array2D((468, 2), "float32"),
    }

    def empty_state(self):
        state = {"clips": zeros(), "clip_frames": zeros()}
        for curve in CURVES:
            state |= {f"{curve}_{name}": zeros() for name in ("r", "gain", "lag", "lag_within_1")}
            # Of both curves: where they began, and their last values, newest last.
            state |= {f"clip_{curve}_origin": zeros(2), f"clip_{curve}_last": zeros(2, MAX_LAG)}
            state |= {f"clip_{curve}_sums": zeros(len(LAGS), NUM_SUMS)}
        return state

    def update(self, predictions, references):
        predictions = check_landmarks(predictions, "predictions")
        references = check_landmarks(references, "references", len(predictions))
        values = {name: (curve(predictions), curve(references)) for name, curve in CURVES.items()}
        for frame in range(len(predictions)):
            for name, (generated, real) in values.items():
                self._add_values(name, torch.tensor([generated[frame], real[frame]], dtype=torch.float64))
            self.state["clip_frames"] += 1

    def _add_values(self, name: str, pair: torch.Tensor) -> None:
        """Generated and real value `(2,)` of the next frame. Sums are of differences from the clip's first values."""
        origin, last, sums = (self.state[f"clip_{name}_{part}"] for part in ("origin", "last", "sums"))
        seen = int(self.state["clip_frames"])
        if not seen:
            origin.copy_(pair)
        pair = pair - origin
        history = torch.cat([last, pair[:, None]], 1)  # (2, MAX_LAG + 1)
        # Late generated lips show now what real ones showed before.
        x, y = history[0, -1 + LAG_INDICES.clamp(max=0)], history[1, -1 - LAG_INDICES.clamp(min=0)]
        known = LAG_INDICES.abs() <= seen
        sums += torch.stack([torch.ones_like(x), x, y, x * x, y * y, x * y], 1) * known[:, None]
        last.copy_(history[:, 1:])

    def finish_clip(self):
        if self.state["clip_frames"] < MAX_LAG + 3:
            raise InvalidArgumentError(
                f"lips are compared over clips of {MAX_LAG + 3} frames and more: give longer ones"
            )
        for name in CURVES:
            count, x, y, xx, yy, xy = self.state[f"clip_{name}_sums"].unbind(1)
            # What rounding leaves of no variance at all counts as none.
            spread_x, spread_y = (
                torch.where(square / count - (mean / count) ** 2 > 1e-15, square / count - (mean / count) ** 2, 0.0)
                for square, mean in ((xx, x), (yy, y))
            )
            r = (xy / count - x * y / count**2) / (spread_x * spread_y).sqrt()
            now = LAGS.index(0)
            self.state[f"{name}_r"] += r[now].nan_to_num(0, 0, 0)
            self.state[f"{name}_gain"] += (spread_x[now] / spread_y[now]).sqrt().nan_to_num(0, 0, 0)
            lag = self._best_lag(r.nan_to_num(float("-inf"), float("-inf"), float("-inf")))
            self.state[f"{name}_lag"] += lag
            self.state[f"{name}_lag_within_1"] += abs(lag) <= 1
        self.state["clips"] += 1

    @staticmethod
    def _best_lag(r: torch.Tensor) -> int:
        """Of equals, the smallest shift."""
        best, best_value = 0, float("-inf")
        for lag in sorted(LAGS, key=abs):
            if r[LAGS.index(lag)] > best_value + 1e-12:
                best, best_value = lag, float(r[LAGS.index(lag)])
        return best

    def result(self):
        names = [f"{curve}_{name}" for curve in CURVES for name in ("r", "gain", "lag", "lag_within_1")]
        return {name: float(self.state[name] / self.state["clips"]) for name in names}
