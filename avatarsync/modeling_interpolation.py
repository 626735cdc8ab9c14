"""Inter-frame interpolation, the paper's second stage: a "timestamp-aware adaptive strategy built upon a selective
state space model" (section Method, Auto-regressive Model (2)), here in the space of codes.

The codes of two adjacent keyframes, interleaved position by position, pass through selective state-space blocks that
scan them in four directions. Every block is conditioned on when the frame lies between the keyframes and on what is
being said at both. The result is the soft code of that frame, which the tokenizer's decoder renders.

Shapes: N pairs of keyframes, M times in each, K tokens of D channels a frame, L = 2K interleaved tokens.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import ModelOutput

from .configuration_avatarsync import InterpolationConfig
from .selective_scan import FourWayScan, selective_scan

# Spans of time are told apart on a logarithmic scale between these two, in seconds.
SHORTEST_SPAN, LONGEST_SPAN = 1e-3, 10.0
FOURIER_FEATURES = 8
# Errors in a code above this count linearly, below it squared; codes lie in [-1, 1].
LOSS_BETA = 0.1
# Mean difference of two keyframes' codes (each in [-1, 1]) from which the correction counts in full.
FULL_CORRECTION_DISTANCE = 0.1
# The easing is never steeper at its ends than in between, its lead stays within e^±1.5: no jump, no standstill. With a
# sharpness below 1, which is infinitely steep at the ends, chins leapt by 1 % of the crop's side in silence.
MAX_LOG_SHARPNESS = math.log(3.0)
MAX_LOG_LEAD = 1.5
# Initial step sizes and decay rates: together they remember from one token to all of some hundred. Mamba-2's own
# (steps from 0.001 to 0.1, rates from 1 to 16) are made for far longer sequences and learn more slowly on these.
MIN_STEP, MAX_STEP = 1e-2, 0.5
MIN_RATE, MAX_RATE = 0.5, 4.0
NUM_DIRECTIONS = 4


@dataclass
class InterpolationOutput(ModelOutput):
    """Soft codes in between.

    Args:
        loss: scalar, smooth L1 in code space; None without labels.
        codes `(N, M, K, D)`: the soft codes at the asked times.
    """

    loss: torch.Tensor | None = None
    codes: torch.Tensor | None = None


def fourier_features(values: torch.Tensor) -> torch.Tensor:
    """Values (...) in [0, 1] → (..., 1 + 2 · FOURIER_FEATURES): the value, and its sines and cosines."""
    angles = math.pi * values.unsqueeze(-1) * torch.arange(1, FOURIER_FEATURES + 1, device=values.device)
    return torch.cat([values.unsqueeze(-1), angles.sin(), angles.cos()], dim=-1)


def log_span(seconds: torch.Tensor) -> torch.Tensor:
    """Spans of time in seconds → [0, 1], logarithmic between SHORTEST_SPAN and LONGEST_SPAN and 0 for 0."""
    return ((seconds / SHORTEST_SPAN).log1p() / math.log1p(LONGEST_SPAN / SHORTEST_SPAN)).clamp(0, 1)


class ZeroLinear(nn.Linear):
    """Linear layer that starts at zero.

    A class of its own, because transformers calls `_init_weights` only for modules that own parameters: the module
    that holds this layer could not zero it there.
    """


class TimeCondition(nn.Module):
    """Relative time, interval, distances to both keyframes and both visual units → one vector per pair and time."""

    def __init__(self, config: InterpolationConfig):
        super().__init__()
        features = 1 + 2 * FOURIER_FEATURES
        self.start_unit = nn.Embedding(config.num_units, config.hidden_size)
        self.end_unit = nn.Embedding(config.num_units, config.hidden_size)
        self.interval = nn.Linear(features, config.hidden_size)
        self.time = nn.Linear(3 * features, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, start_units: torch.Tensor, end_units: torch.Tensor, interval: torch.Tensor, times: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Condition of the pair `(N, hidden)`, which knows no time, and of each of its times `(N, M, hidden)`."""
        dtype = self.output.weight.dtype
        interval, times = interval.float(), times.float()
        pair = self.start_unit(start_units) + self.end_unit(end_units)
        pair = pair + self.interval(fourier_features(log_span(interval)).to(dtype))
        spans = torch.stack(
            [times, log_span(times * interval[:, None]), log_span((1 - times) * interval[:, None])], dim=-1
        )
        at_times = pair.unsqueeze(1) + self.time(fourier_features(spans).flatten(-2).to(dtype))
        return pair, self.output(functional.silu(at_times))


class StateSpaceMixer(nn.Module):
    """Selective state-space layer over two interleaved token grids, in four directions at once.

    All directions read the same input channels, each with its own B, C and step sizes: to the scan they are four
    groups of heads, so that one call serves them all.
    """

    def __init__(self, config: InterpolationConfig):
        super().__init__()
        inner_size = config.expansion * config.hidden_size
        self.head_size = config.head_size
        self.num_heads = inner_size // config.head_size  # of one direction
        self.state_size = config.state_size
        self.chunk_size = config.chunk_size
        self.input = nn.Linear(config.hidden_size, 2 * inner_size, bias=False)
        self.selection = nn.Linear(
            config.hidden_size, NUM_DIRECTIONS * (2 * self.state_size + self.num_heads), bias=False
        )
        self.step_bias = nn.Parameter(torch.empty(NUM_DIRECTIONS, self.num_heads))
        self.log_decay_rate = nn.Parameter(torch.empty(NUM_DIRECTIONS, self.num_heads))
        self.skip = nn.Parameter(torch.empty(self.num_heads))
        self.norm = nn.RMSNorm(inner_size)
        self.output = nn.Linear(inner_size, config.hidden_size, bias=False)

    def forward(self, hidden: torch.Tensor, scan: FourWayScan) -> torch.Tensor:
        """(B, L, hidden) → (B, L, hidden)."""
        batch, length, _ = hidden.shape
        value, gate = self.input(hidden).chunk(2, dim=-1)  # (B, L, inner)
        value = functional.silu(value)
        selection = scan.scan_each(self.selection(hidden).unflatten(-1, (NUM_DIRECTIONS, -1)))  # (B, L, 4, ...)
        B, C, step = selection.split([self.state_size, self.state_size, self.num_heads], dim=-1)
        step = functional.softplus(step.float() + self.step_bias.float())
        mixed = selective_scan(
            scan.scan(value).view(batch, length, NUM_DIRECTIONS * self.num_heads, self.head_size),
            step.flatten(2),
            -self.log_decay_rate.float().exp().flatten(),
            B.contiguous(),
            C.contiguous(),
            self.chunk_size,
        )
        mixed = scan.unscan(mixed.unflatten(2, (NUM_DIRECTIONS, self.num_heads))).sum(2).flatten(2)
        mixed = mixed + value * self.skip.repeat_interleave(self.head_size)
        return self.output(self.norm(mixed * functional.silu(gate)))


class StateSpaceBlock(GradientCheckpointingLayer):
    """State-space layer and MLP, each under AdaLN whose gates start at zero: the block starts as the identity."""

    def __init__(self, config: InterpolationConfig):
        super().__init__()
        width = int(config.mlp_ratio * config.hidden_size)
        self.mixer_norm = nn.LayerNorm(config.hidden_size, elementwise_affine=False)
        self.mixer = StateSpaceMixer(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, elementwise_affine=False)
        self.mlp = nn.Sequential(
            nn.Linear(config.hidden_size, width), nn.GELU(approximate="tanh"), nn.Linear(width, config.hidden_size)
        )
        self.modulation = ZeroLinear(config.hidden_size, 6 * config.hidden_size)

    def forward(self, hidden: torch.Tensor, condition: torch.Tensor, scan: FourWayScan) -> torch.Tensor:
        """Hidden (B, L, hidden) under condition (B, hidden) → (B, L, hidden)."""
        modulation = self.modulation(functional.silu(condition)).unsqueeze(1).chunk(6, dim=-1)
        mixer_shift, mixer_scale, mixer_gate, mlp_shift, mlp_scale, mlp_gate = modulation
        hidden = hidden + mixer_gate * self.mixer(self.mixer_norm(hidden) * (1 + mixer_scale) + mixer_shift, scan)
        return hidden + mlp_gate * self.mlp(self.mlp_norm(hidden) * (1 + mlp_scale) + mlp_shift)


class Easing(nn.Module):
    """Monotone easing of time, one for each token of a pair: s(0) = 0, s(1) = 1, and s(t) = t at the start.

    s(t) = t^p / (t^p + (1 - t)^p · e^-q), with a sharpness p from 1 to 3 and a lead q that depend on the pair and not
    on t (a network that saw t could turn back).
    """

    def __init__(self, config: InterpolationConfig):
        super().__init__()
        self.hidden = nn.Linear(2 * config.hidden_size, config.hidden_size)
        self.output = ZeroLinear(config.hidden_size, 2)

    def forward(self, tokens: torch.Tensor, pair: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """Tokens `(N, K, 2 · hidden)`, pair condition `(N, hidden)`, times `(N, M)` → s `(N, M, K, 1)`."""
        shape = self.output(functional.silu(self.hidden(tokens) + pair.unsqueeze(1))).float().tanh()  # (N, K, 2)
        sharpness, lead = shape.unsqueeze(1).split(1, dim=-1)  # (N, 1, K, 1)
        power = (MAX_LOG_SHARPNESS * sharpness.clamp(min=0)).exp()
        times = times.float()[:, :, None, None]
        passed = times**power
        return passed / (passed + (1 - times) ** power * (-MAX_LOG_LEAD * lead).exp())


class InterpolationModel(PreTrainedModel):
    """Soft codes at any time between two keyframes.

    With the relative time t, an easing s and a correction d that the state-space blocks predict at t,

        code(t) = (1 - s) · start + s · end + 4 t (1 - t) · w · d

    so that t = 0 and t = 1 return the keyframes exactly, whatever the weights. w grows from 0 to 1 with the distance
    of the two keyframes: between equal ones the face stands still, or it would tremble in every silence. Beside a
    keyframe of shut lips it is at most a half, between two of them 0: what people do in silence is no consequence of
    what they say, and what was learned of it drew frames away from keyframes on both sides, so that chins twitched.
    Easing and correction start at zero: the untrained model interpolates linearly.
    """

    config_class = InterpolationConfig
    base_model_prefix = "interpolation"
    main_input_name = "start_codes"
    supports_gradient_checkpointing = True
    _no_split_modules = ["StateSpaceBlock"]

    def __init__(self, config: InterpolationConfig):
        super().__init__(config)
        self.code_embedding = nn.Linear(config.code_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.num_tokens, config.hidden_size)
        self.frame_embedding = nn.Embedding(2, config.hidden_size)
        self.condition = TimeCondition(config)
        self.easing = Easing(config)
        self.blocks = nn.ModuleList([StateSpaceBlock(config) for _ in range(config.num_layers)])
        self.norm = nn.LayerNorm(config.hidden_size, elementwise_affine=False)
        self.modulation = ZeroLinear(config.hidden_size, 2 * config.hidden_size)
        self.correction = ZeroLinear(2 * config.hidden_size, config.code_size)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, StateSpaceMixer):
            # softplus(step_bias) is the step size.
            steps = torch.empty_like(module.step_bias).uniform_(math.log(MIN_STEP), math.log(MAX_STEP)).exp()
            init.copy_(module.step_bias, steps + (-(-steps).expm1()).log())
            init.copy_(
                module.log_decay_rate, torch.empty_like(module.log_decay_rate).uniform_(MIN_RATE, MAX_RATE).log()
            )
            init.ones_(module.skip)
            init.normal_(module.selection.weight, std=module.selection.in_features**-0.5)
        elif isinstance(module, ZeroLinear):
            init.zeros_(module.weight)

    def forward(
        self,
        start_codes: torch.Tensor,
        end_codes: torch.Tensor,
        start_units: torch.Tensor,
        end_units: torch.Tensor,
        interval: torch.Tensor,
        times: torch.Tensor,
        labels: torch.Tensor | None = None,
        label_mask: torch.Tensor | None = None,
    ) -> InterpolationOutput:
        """Codes at every time of every pair, in one batch.

        Pairs with different numbers of frames: either pad `times` and mask the rest in the loss, or, where nothing
        is to be computed in vain, give every frame a row of its own (M = 1).

        Args:
            start_codes, end_codes `(N, K, D)`: codes of the two keyframes, hard or soft.
            start_units, end_units `(N,)`: the visual units of the two keyframes.
            interval `(N,)`: seconds from the first keyframe to the second.
            times `(N, M)`: relative times in [0, 1].
            labels `(N, M, K, D)`: the true frames' codes, continuous in [-1, 1].
            label_mask `(N, M)`: True where a label counts; None where all do.
        """
        pairs, num_times = times.shape
        config = self.config
        start = self.code_embedding(start_codes.to(self.code_embedding.weight.dtype))
        end = self.code_embedding(end_codes.to(self.code_embedding.weight.dtype))
        tokens = torch.stack([start, end], dim=2)  # (N, K, 2, hidden)
        tokens = tokens + self.position_embedding.weight[:, None] + self.frame_embedding.weight
        pair_condition, condition = self.condition(start_units, end_units, interval, times)
        eased = self.easing(tokens.flatten(2), pair_condition, times)  # (N, M, K, 1)

        hidden = tokens.flatten(1, 2)  # (N, L, hidden), the frames of a position side by side
        hidden = hidden.unsqueeze(1).expand(-1, num_times, -1, -1).flatten(0, 1)  # (N · M, L, hidden)
        condition = condition.flatten(0, 1)
        scan = FourWayScan.of_grid(config.grid_size, hidden.device)
        for block in self.blocks:
            hidden = block(hidden, condition, scan)
        shift, scale = self.modulation(functional.silu(condition)).unsqueeze(1).chunk(2, dim=-1)
        hidden = self.norm(hidden) * (1 + scale) + shift
        hidden = hidden.view(pairs, num_times, config.num_tokens, 2 * config.hidden_size)
        correction = self.correction(hidden).float()  # (N, M, K, D)

        envelope = (4 * times * (1 - times)).float()[:, :, None, None]
        distance = (end_codes - start_codes).float().abs().mean((-2, -1)) / FULL_CORRECTION_DISTANCE
        shut_units = torch.tensor(config.shut_units, device=start_units.device)
        shut = torch.isin(torch.stack([start_units, end_units]), shut_units).sum(0).to(distance.dtype)  # (N,), 0 to 2
        envelope = envelope * (distance.clamp(max=1) * (1 - shut / 2))[:, None, None, None]
        codes = (1 - eased) * start_codes.unsqueeze(1) + eased * end_codes.unsqueeze(1) + envelope * correction
        loss = None if labels is None else _masked_loss(codes, labels, label_mask)
        return InterpolationOutput(loss=loss, codes=codes)


def _masked_loss(codes: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Smooth L1 over the frames that count; 0 where none does."""
    if mask is None:
        mask = torch.ones(codes.shape[:2], dtype=torch.bool, device=codes.device)
    # Replaced, not multiplied by 0, so that whatever stands in the padding cannot spoil the gradient.
    labels = torch.where(mask[:, :, None, None], labels.to(codes.dtype), codes.detach())
    errors = functional.smooth_l1_loss(codes, labels, beta=LOSS_BETA, reduction="none").mean((-2, -1))  # (N, M)
    return errors.sum() / mask.sum().clamp(min=1)


__all__ = ["InterpolationModel", "InterpolationOutput"]
