"""Trunks of perceptual distances as `nn.Sequential`: VGG16, AlexNet and SqueezeNet 1.1 up to their last tapped layer,
and the shift-tolerant VGG16 and AlexNet (Ghildyal & Liu, ECCV 2022), whose strides became blurs.

Layers stand at torchvision's (ST-LPIPS: the wheel's) indices, so that `features.N.weight` is the published N.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from .layers import BlurPool

VGG16_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


@dataclass(frozen=True)
class Trunk:
    """Recipe of a trunk."""

    name: str
    build: Callable[[], nn.Sequential]
    taps: tuple[int, ...]  # indices of the layers whose outputs are compared
    channels: tuple[int, ...]  # of those outputs


class Fire(nn.Module):
    """SqueezeNet's block: `(B, inputs, H, W)` → `(B, 2 · expanded, H, W)`."""

    def __init__(self, inputs: int, squeezed: int, expanded: int):
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = self.squeeze(hidden).relu()
        return torch.cat([self.expand1x1(hidden), self.expand3x3(hidden)], 1).relu()


def vgg16(pool: Callable[[], list[nn.Module]]) -> nn.Sequential:
    """Thirteen 3×3 convolutions in five stages, with `pool()` between the stages."""
    layers, width = [], 3
    for stage, widths in enumerate(VGG16_WIDTHS):
        layers += pool() if stage else []
        for wider in widths:
            layers += [nn.Conv2d(width, wider, 3, padding=1), nn.ReLU()]
            width = wider
    return nn.Sequential(*layers)


def alexnet(stem: list[nn.Module], pool: Callable[[], list[nn.Module]]) -> nn.Sequential:
    """AlexNet after its first convolution `stem` (64 channels)."""
    return nn.Sequential(
        *[*stem, *pool(), nn.Conv2d(64, 192, 5, padding=2), nn.ReLU()],
        *[*pool(), nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()],
        *[nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()],
    )


def _published_vgg16() -> nn.Sequential:
    return vgg16(lambda: [nn.MaxPool2d(2)])


def _published_alexnet() -> nn.Sequential:
    return alexnet([nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU()], lambda: [nn.MaxPool2d(3, 2)])


def _published_squeezenet() -> nn.Sequential:
    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    return nn.Sequential(
        *[nn.Conv2d(3, 64, 3, 2), nn.ReLU(), pool(), Fire(64, 16, 64), Fire(128, 16, 64)],
        *[pool(), Fire(128, 32, 128), Fire(256, 32, 128)],
        *[pool(), Fire(256, 48, 192), Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)],
    )


def _shift_tolerant_vgg16() -> nn.Sequential:
    return vgg16(lambda: [nn.MaxPool2d(2, 1), BlurPool()])


def _shift_tolerant_alexnet() -> nn.Sequential:
    stem = [nn.Conv2d(3, 64, 11, 1, 2), BlurPool(), nn.ReLU()]
    return alexnet(stem, lambda: [nn.MaxPool2d(3, 1), BlurPool()])


VGG_CHANNELS, ALEX_CHANNELS = (64, 128, 256, 512, 512), (64, 192, 384, 256, 256)
LPIPS_VGG16 = Trunk("LPIPS v0.1 (VGG16)", _published_vgg16, (3, 8, 15, 22, 29), VGG_CHANNELS)
LPIPS_ALEXNET = Trunk("LPIPS v0.1 (AlexNet)", _published_alexnet, (1, 4, 7, 9, 11), ALEX_CHANNELS)
LPIPS_SQUEEZENET = Trunk(
    "LPIPS v0.1 (SqueezeNet)", _published_squeezenet, (1, 4, 7, 9, 10, 11, 12), (64, 128, 256, 384, 384, 512, 512)
)
ST_LPIPS_VGG16 = Trunk("ST-LPIPS (VGG16)", _shift_tolerant_vgg16, (3, 9, 17, 25, 33), VGG_CHANNELS)
ST_LPIPS_ALEXNET = Trunk("ST-LPIPS (AlexNet)", _shift_tolerant_alexnet, (2, 6, 10, 12, 14), ALEX_CHANNELS)
TRUNKS = (LPIPS_VGG16, LPIPS_ALEXNET, LPIPS_SQUEEZENET, ST_LPIPS_VGG16, ST_LPIPS_ALEXNET)
