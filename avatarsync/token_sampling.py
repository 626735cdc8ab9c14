"""Which code a token becomes, given its logits: the likeliest, or one drawn with noise that is fixed beforehand."""

import torch

from .configuration_avatarsync import KeyframeGeneratorConfig
from .errors import InvalidArgumentError
from .quantizers import digits_to_ids


def draw_noise(
    config: KeyframeGeneratorConfig,
    num_units: int,
    temperature: float,
    top_k: int | None,
    generator: torch.Generator | None,
    expected: bool,
) -> torch.Tensor | None:
    """One number in [0, 1) for each digit to be sampled, `(T, K, F)`; None when none is.

    Drawn frame by frame and beforehand: longer speech and other blocks leave a frame's noise as it is. Arguments and
    errors: `KeyframeGeneratorModel.generate`.
    """
    if temperature < 0:
        raise InvalidArgumentError(f"temperature is {temperature}: give 0 (greedy) or more")
    if top_k is not None and top_k < 1:
        raise InvalidArgumentError(f"top_k is {top_k}: give at least 1, or None")
    if expected and temperature > 0:
        raise InvalidArgumentError("expected=True is the mean of what could be sampled: give temperature 0")
    if temperature == 0:
        return None
    device = "cpu" if generator is None else generator.device  # the same noise on every device
    shape = (num_units, config.num_tokens, config.code_factors)
    return torch.rand(shape, generator=generator, device=device, dtype=torch.float32)  # for a seed, the same always


def choose_codes(
    logits: torch.Tensor, temperature: float, top_k: int | None, noise: torch.Tensor | None
) -> torch.Tensor:
    """Code ids `(B, T, 1)` from logits `(B, T, 1, F, V_f)`: the likeliest, or by inversion of the cumulated
    probabilities with noise `(T, 1, F)`."""
    base = logits.shape[-1]
    if noise is None:
        return digits_to_ids(logits.argmax(-1), base)
    candidates, digits = (logits.float() / temperature).topk(min(top_k or base, base))
    cumulated = candidates.softmax(-1).cumsum(-1)[..., :-1]  # without the last, rounding cannot overrun
    rank = (cumulated <= noise.to(logits.device).unsqueeze(-1)).sum(-1, keepdim=True)
    return digits_to_ids(digits.gather(-1, rank).squeeze(-1), base)
