"""An adversary for the painter: a network that tells painted mouths from photographed ones.

Distances to the true picture are least for the mean of all that could be behind the lips: a light band and no teeth.
Whoever is judged by an adversary must decide for some. PatchGAN (Isola et al. 2017) with spectral norm and the hinge
loss, weighed against the other losses by their gradients as VQGAN does (Esser et al. 2021, Eq. 7).

Shapes: B pictures, windows of s × s pixels about the mouth, in [-1, 1].
"""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

MOST_WEIGHT = 100.0  # against the other losses, where the adversary's gradient is next to nothing
LEARNING_RATE = 8e-4  # more than the painter: at 2e-4 it was fooled from the start
LEAST_OPENING = 1e-3  # share of a window: with less nobody opens the mouth in the whole batch


class MouthDiscriminator(nn.Module):
    """Is the inside of this mouth photographed? One answer for each place, which sees 34 pixels.

    It sees the reference as well: what is asked is whether this face looks like this, and the dull teeth of a dull
    video are as they should be.
    """

    def __init__(self, width: int = 48):
        super().__init__()

        def convolution(inputs: int, outputs: int, stride: int) -> nn.Module:
            return spectral_norm(nn.Conv2d(inputs, outputs, 4, stride, 1))

        self.layers = nn.Sequential(
            convolution(6, width, 2),
            nn.LeakyReLU(0.2),
            convolution(width, 2 * width, 2),
            nn.LeakyReLU(0.2),
            convolution(2 * width, 4 * width, 1),
            nn.LeakyReLU(0.2),
            convolution(4 * width, 1, 1),
        )

    def forward(self, mouths: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
        """Mouths and the references' `(B, 3, s, s)` → logits `(B, 1, s/4 - 2, s/4 - 2)`, high for photographs."""
        return self.layers(torch.cat([mouths, references], 1))


class Adversary:
    """The discriminator, its optimizer, and what the two are asked in a step.

    Args:
        weight: how strongly it moves the painter's last layer, of what all other losses do.
    """

    def __init__(self, accelerator: Accelerator, weight: float):
        self.accelerator, self.weight = accelerator, weight
        self.judge = MouthDiscriminator().to(accelerator.device)
        optimizer = torch.optim.AdamW(self.judge.parameters(), LEARNING_RATE, betas=(0.5, 0.9))
        # Prepared, it is in the checkpoints.
        self.network, self.optimizer = accelerator.prepare(self.judge, optimizer)

    def loss(
        self, painted: torch.Tensor, references: torch.Tensor, mask: torch.Tensor, others: torch.Tensor, last_layer
    ) -> torch.Tensor:
        """What the painter learns of it, scalar, in the measure of the loss `others`.

        Args:
            painted, references: windows `(B, 3, s, s)`.
            mask: `(B, 1, s, s)`, 1 inside the opened mouth.
            last_layer: the painter's last weights.
        """
        # Not the prepared one: several processes would wait for each other's gradients, and there are none.
        self.judge.requires_grad_(False)
        with self.accelerator.autocast():
            logits = self.judge(painted, references)
        self.judge.requires_grad_(True)
        loss = -inside(logits.float(), mask)
        return self.weight * balanced(others, loss, last_layer) * loss

    def learn(
        self, painted: torch.Tensor, real: torch.Tensor, references: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """One step of its own; windows `(B, 3, s, s)`. Returns its hinge loss, 1 where it knows nothing."""
        painted = painted.detach()
        # About the mouth both are the same picture: it is not to judge the lips, which are moved and not painted.
        real = painted + mask * (real - painted)
        self.optimizer.zero_grad()
        logits = self.network(torch.cat([real, painted]), references.repeat(2, 1, 1, 1)).float()
        for_real, for_painted = logits.chunk(2)
        loss = (inside(F.relu(1 - for_real), mask) + inside(F.relu(1 + for_painted), mask)) / 2
        self.accelerator.backward(loss)
        self.optimizer.step()
        return loss.detach()


def inside(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean, scalar, of `(B, 1, h, w)` over the places that lie in the opened mouths `(B, 1, s, s)`."""
    weight = F.adaptive_avg_pool2d(mask.detach().float(), values.shape[-2:])
    return (values * weight).sum() / (weight.sum() + LEAST_OPENING * weight.numel())


def balanced(others: torch.Tensor, adversarial: torch.Tensor, last_layer: nn.Parameter) -> torch.Tensor:
    """The weight, scalar, with which the adversarial loss moves the last layer as far as the other losses do."""
    ours, its = (
        torch.autograd.grad(loss, last_layer, retain_graph=True)[0].float().norm() for loss in (others, adversarial)
    )
    return (ours / (its + 1e-8)).clamp(max=MOST_WEIGHT).detach()
