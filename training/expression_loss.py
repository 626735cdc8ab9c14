"""How much of people's expressions the mean codes leave unexplained: what phase 3 of the keyframe generator lowers."""

import torch

from avatarsync.modeling_interpolation import InterpolationModel
from avatarsync.modeling_visual_tokenizer import VisualTokenizerModel, mouth_widths

# Lips that must close and are too open weigh this many times as much as lips that are too closed. Means of what people
# do are not quite shut, and nobody minds lips that close too well.
OPEN_WEIGHT = 4.0


def _lips(expressions: torch.Tensor) -> torch.Tensor:
    """Inner-lip gap and mouth width `(N, 2)` of expressions `(N, 468, 2)`."""
    gap = (expressions[:, 14] - expressions[:, 13]).norm(dim=-1)
    return torch.stack([gap, mouth_widths(expressions)[:, 0]], -1)


class UnexplainedExpression:
    """Squared errors of all landmarks, of the lip gap and of the mouth's width, each over its variance (1 - R²).

    Args:
        tokenizer: whose codes they are; frozen.
        expressions: `(N, 468, 2)`, people's, which give the variances.
    """

    def __init__(self, tokenizer: VisualTokenizerModel, expressions: torch.Tensor):
        self.tokenizer, self.weights = tokenizer, tokenizer.landmark_weights[:, None]
        expressions = expressions.to(tokenizer.device)
        spread = (expressions - expressions.mean(0)).square() * self.weights
        self.variance = spread.mean().clamp_min(1e-12)
        self.lip_variance = _lips(expressions).var(0).clamp_min(1e-12)

    def mean_codes(self, logits: torch.Tensor) -> torch.Tensor:
        """Mean codes `(…, K, D)` of the generator's logits `(…, K, F, V_f)`."""
        return self.tokenizer.quantizer.expected_codes_factorised(logits.float())

    def __call__(self, codes: torch.Tensor, wanted: torch.Tensor, shut: torch.Tensor) -> torch.Tensor:
        """The sum of the three shares.

        Args:
            codes: `(N, K, D)`, mean codes of keyframes or of frames between them.
            wanted: `(N, 468, 2)`, people's expressions.
            shut: `(N,)` bool, which of them want closed lips.
        """
        found = self.tokenizer.expression(codes)
        landmarks = ((found - wanted).square() * self.weights).mean() / self.variance
        error = _lips(found) - _lips(wanted)  # (N, 2): gap, width
        weight = torch.ones_like(error)
        weight[:, 0] = torch.where(shut & (error[:, 0] > 0), OPEN_WEIGHT, 1.0)
        lips = (error.square() * weight).mean(0) / self.lip_variance
        return landmarks + lips.sum()


def frames_between(
    interpolation: InterpolationModel, keyframes: torch.Tensor, batch: dict[str, torch.Tensor], chosen: torch.Tensor
) -> torch.Tensor:
    """Codes `(N, K, D)` of frames as the interpolator draws them between keyframes `(B, T, K, D)`.

    Args:
        batch: `KeyframeBatches`' `frame_left`, `frame_right`, `frame_time`, `frame_interval` `(B, M)`, and `unit_ids`.
        chosen: `(B, M)` bool, which N frames.
    """
    item, _ = torch.nonzero(chosen, as_tuple=True)
    left, right = batch["frame_left"][chosen], batch["frame_right"][chosen]
    units = batch["unit_ids"]
    return interpolation(
        keyframes[item, left],
        keyframes[item, right],
        units[item, left],
        units[item, right],
        batch["frame_interval"][chosen],
        batch["frame_time"][chosen][:, None],
    ).codes[:, 0]
