"""Layers that the frozen networks share."""

import torch
import torch.nn.functional as F
from torch import nn


class FrozenBatchNorm(nn.Module):
    """Batch normalisation by stored statistics, for `(B, C)` and `(B, C, H, W)`; no training mode to fall into."""

    def __init__(self, channels: int, epsilon: float = 1e-5):
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(
            hidden, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.epsilon
        )


class BlurPool(nn.Module):
    """Binomial 3×3 blur of each channel, every second pixel, after reflecting two pixels on each side.

    `(B, C, H, W)` → `(B, C, ⌊(H + 1) / 2⌋ + 1, …)`.
    """

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        channels = hidden.shape[1]
        line = torch.tensor([0.25, 0.5, 0.25], dtype=hidden.dtype, device=hidden.device)
        kernel = (line[:, None] * line).expand(channels, 1, 3, 3)
        return F.conv2d(F.pad(hidden, (2, 2, 2, 2), mode="reflect"), kernel, stride=2, groups=channels)
