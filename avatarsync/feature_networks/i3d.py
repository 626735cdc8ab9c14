"""I3D (Carreira & Zisserman 2017), the inflated Inception-v1 that FVD (Unterthiner et al. 2018) looks at videos with,
under the key names of its PyTorch port (`rgb_imagenet.pt`, `i3d_pretrained_400.pt`: 400 classes of Kinetics)."""

import torch
import torch.nn.functional as F
from torch import nn

from .layers import FrozenBatchNorm

SIDE, CLASSES = 224, 400
SHORTEST = 9  # frames: the network halves time three times, and the mean at its end needs two that are left
# 1×1×1; 1×1×1 and 3×3×3; 1×1×1 and 3×3×3; pooled and 1×1×1: widths of the blocks' branches.
BLOCKS = {
    "Mixed_3b": (64, (96, 128), (16, 32), 32),
    "Mixed_3c": (128, (128, 192), (32, 96), 64),
    "Mixed_4b": (192, (96, 208), (16, 48), 64),
    "Mixed_4c": (160, (112, 224), (24, 64), 64),
    "Mixed_4d": (128, (128, 256), (24, 64), 64),
    "Mixed_4e": (112, (144, 288), (32, 64), 64),
    "Mixed_4f": (256, (160, 320), (32, 128), 128),
    "Mixed_5b": (256, (160, 320), (32, 128), 128),
    "Mixed_5c": (384, (192, 384), (48, 128), 128),
}
# Kernel and stride of the pools that come before a block.
POOLS = {"Mixed_3b": ((1, 3, 3), (1, 2, 2)), "Mixed_4b": ((3, 3, 3), (2, 2, 2)), "Mixed_5b": ((2, 2, 2), (2, 2, 2))}


def pad_same(hidden: torch.Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
    """Zeros about `(B, C, T, H, W)` so that ⌈size / stride⌉ outputs fit, the odd one behind: TensorFlow's SAME."""
    padding = []
    for size, side, step in zip(hidden.shape[2:], kernel, stride, strict=True):
        missing = max(side - (size % step or step), 0)
        padding = [missing // 2, missing - missing // 2, *padding]
    return F.pad(hidden, padding)


def max_pool(hidden: torch.Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> torch.Tensor:
    return F.max_pool3d(pad_same(hidden, kernel, stride), kernel, stride)


class ConvolutionUnit(nn.Module):
    """Convolution, normalisation, ReLU; sizes are divided by the stride and rounded up."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1):
        super().__init__()
        self.kernel, self.stride = (kernel,) * 3, (stride,) * 3
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.bn = FrozenBatchNorm(outputs, epsilon=1e-3)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv3d(pad_same(hidden, self.kernel, self.stride))).relu()


class InceptionBlock(nn.Module):
    """`(B, inputs, T, H, W)` → four branches joined, of the same size."""

    def __init__(self, inputs: int, plain: int, first: tuple[int, int], second: tuple[int, int], pooled: int):
        super().__init__()
        self.width = plain + first[1] + second[1] + pooled
        self.b0 = ConvolutionUnit(inputs, plain, 1)
        self.b1a, self.b1b = ConvolutionUnit(inputs, first[0], 1), ConvolutionUnit(*first, 3)
        self.b2a, self.b2b = ConvolutionUnit(inputs, second[0], 1), ConvolutionUnit(*second, 3)
        self.b3b = ConvolutionUnit(inputs, pooled, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        pooled = max_pool(hidden, (3, 3, 3), (1, 1, 1))
        branches = [self.b0(hidden), self.b1b(self.b1a(hidden)), self.b2b(self.b2a(hidden)), self.b3b(pooled)]
        return torch.cat(branches, 1)


class ClassScores(nn.Module):
    """A 1×1×1 convolution, named as the port names it."""

    def __init__(self, inputs: int):
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, CLASSES, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.conv3d(hidden)


class I3D(nn.Module):
    """Clips `(B, 3, T, 224, 224)`, RGB in [-1, 1], T at least 9 → class scores `(B, 400)`, averaged over time."""

    def __init__(self):
        super().__init__()
        self.Conv3d_1a_7x7 = ConvolutionUnit(3, 64, 7, stride=2)
        self.Conv3d_2b_1x1 = ConvolutionUnit(64, 64, 1)
        self.Conv3d_2c_3x3 = ConvolutionUnit(64, 192, 3)
        width = 192
        for name, widths in BLOCKS.items():
            block = InceptionBlock(width, *widths)
            self.add_module(name, block)
            width = block.width
        self.logits = ClassScores(width)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        hidden = max_pool(self.Conv3d_1a_7x7(clips), (1, 3, 3), (1, 2, 2))
        hidden = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(hidden))
        for name in BLOCKS:
            if name in POOLS:
                hidden = max_pool(hidden, *POOLS[name])
            hidden = self.get_submodule(name)(hidden)
        return self.logits(F.avg_pool3d(hidden, (2, 7, 7), 1)).mean((2, 3, 4))
