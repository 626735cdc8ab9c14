"""Inception-v3 as FID uses it (Heusel et al. 2017): TensorFlow's network of 2015-12-05 under torchvision's key names,
as pytorch-fid and torchmetrics publish it (`pt_inception-2015-12-05-6726825d.pth`)."""

import torch
import torch.nn.functional as F
from torch import nn

from .layers import FrozenBatchNorm

SIDE, FEATURES = 299, 2048


class ConvolutionUnit(nn.Module):
    """Convolution, normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = FrozenBatchNorm(outputs, epsilon=1e-3)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(hidden)).relu()


def average_pool(hidden: torch.Tensor) -> torch.Tensor:
    """3×3 means that leave the padding out of the count, as TensorFlow's do and torchvision's do not."""
    return F.avg_pool2d(hidden, 3, 1, 1, count_include_pad=False)


class InceptionA(nn.Module):
    """`(B, inputs, 35, 35)` → `(B, 224 + pooled, 35, 35)`."""

    def __init__(self, inputs: int, pooled: int):
        super().__init__()
        self.branch1x1 = ConvolutionUnit(inputs, 64, 1)
        self.branch5x5_1 = ConvolutionUnit(inputs, 48, 1)
        self.branch5x5_2 = ConvolutionUnit(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = ConvolutionUnit(inputs, 64, 1)
        self.branch3x3dbl_2 = ConvolutionUnit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvolutionUnit(96, 96, 3, padding=1)
        self.branch_pool = ConvolutionUnit(inputs, pooled, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        deep = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(hidden)))
        wide = self.branch5x5_2(self.branch5x5_1(hidden))
        return torch.cat([self.branch1x1(hidden), wide, deep, self.branch_pool(average_pool(hidden))], 1)


class InceptionB(nn.Module):
    """`(B, 288, 35, 35)` → `(B, 768, 17, 17)`."""

    def __init__(self):
        super().__init__()
        self.branch3x3 = ConvolutionUnit(288, 384, 3, stride=2)
        self.branch3x3dbl_1 = ConvolutionUnit(288, 64, 1)
        self.branch3x3dbl_2 = ConvolutionUnit(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = ConvolutionUnit(96, 96, 3, stride=2)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        deep = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(hidden)))
        return torch.cat([self.branch3x3(hidden), deep, F.max_pool2d(hidden, 3, 2)], 1)


class InceptionC(nn.Module):
    """`(B, 768, 17, 17)` → the same, by 7×7 convolutions in two halves."""

    def __init__(self, width: int):
        super().__init__()
        across, down = {"kernel": (1, 7), "padding": (0, 3)}, {"kernel": (7, 1), "padding": (3, 0)}
        self.branch1x1 = ConvolutionUnit(768, 192, 1)
        self.branch7x7_1 = ConvolutionUnit(768, width, 1)
        self.branch7x7_2 = ConvolutionUnit(width, width, **across)
        self.branch7x7_3 = ConvolutionUnit(width, 192, **down)
        self.branch7x7dbl_1 = ConvolutionUnit(768, width, 1)
        self.branch7x7dbl_2 = ConvolutionUnit(width, width, **down)
        self.branch7x7dbl_3 = ConvolutionUnit(width, width, **across)
        self.branch7x7dbl_4 = ConvolutionUnit(width, width, **down)
        self.branch7x7dbl_5 = ConvolutionUnit(width, 192, **across)
        self.branch_pool = ConvolutionUnit(768, 192, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(hidden)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(hidden)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(hidden), once, twice, self.branch_pool(average_pool(hidden))], 1)


class InceptionD(nn.Module):
    """`(B, 768, 17, 17)` → `(B, 1280, 8, 8)`."""

    def __init__(self):
        super().__init__()
        self.branch3x3_1 = ConvolutionUnit(768, 192, 1)
        self.branch3x3_2 = ConvolutionUnit(192, 320, 3, stride=2)
        self.branch7x7x3_1 = ConvolutionUnit(768, 192, 1)
        self.branch7x7x3_2 = ConvolutionUnit(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = ConvolutionUnit(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = ConvolutionUnit(192, 192, 3, stride=2)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        deep = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(hidden))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(hidden)), deep, F.max_pool2d(hidden, 3, 2)], 1)


class InceptionE(nn.Module):
    """`(B, inputs, 8, 8)` → `(B, 2048, 8, 8)`. The last block takes maxima where the others take means."""

    def __init__(self, inputs: int, maxima: bool):
        super().__init__()
        self.maxima = maxima
        across, down = {"kernel": (1, 3), "padding": (0, 1)}, {"kernel": (3, 1), "padding": (1, 0)}
        self.branch1x1 = ConvolutionUnit(inputs, 320, 1)
        self.branch3x3_1 = ConvolutionUnit(inputs, 384, 1)
        self.branch3x3_2a = ConvolutionUnit(384, 384, **across)
        self.branch3x3_2b = ConvolutionUnit(384, 384, **down)
        self.branch3x3dbl_1 = ConvolutionUnit(inputs, 448, 1)
        self.branch3x3dbl_2 = ConvolutionUnit(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = ConvolutionUnit(384, 384, **across)
        self.branch3x3dbl_3b = ConvolutionUnit(384, 384, **down)
        self.branch_pool = ConvolutionUnit(inputs, 192, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        once = self.branch3x3_1(hidden)
        deep = self.branch3x3dbl_2(self.branch3x3dbl_1(hidden))
        pooled = F.max_pool2d(hidden, 3, 1, 1) if self.maxima else average_pool(hidden)
        parts = [self.branch1x1(hidden), self.branch3x3_2a(once), self.branch3x3_2b(once)]
        parts += [self.branch3x3dbl_3a(deep), self.branch3x3dbl_3b(deep), self.branch_pool(pooled)]
        return torch.cat(parts, 1)


class InceptionV3(nn.Module):
    """Pictures `(B, 3, 299, 299)`, RGB in [-1, 1] → features `(B, 2048)`, the means of the last layer."""

    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = ConvolutionUnit(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvolutionUnit(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvolutionUnit(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = ConvolutionUnit(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvolutionUnit(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = InceptionA(192, 32), InceptionA(256, 64), InceptionA(288, 64)
        self.Mixed_6a = InceptionB()
        self.Mixed_6b, self.Mixed_6c = InceptionC(128), InceptionC(160)
        self.Mixed_6d, self.Mixed_6e = InceptionC(160), InceptionC(192)
        self.Mixed_7a = InceptionD()
        self.Mixed_7b, self.Mixed_7c = InceptionE(1280, maxima=False), InceptionE(2048, maxima=True)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        hidden = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(pictures)))
        hidden = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(hidden, 3, 2)))
        hidden = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(hidden, 3, 2))))
        hidden = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(hidden)))
        hidden = self.Mixed_7a(self.Mixed_6e(self.Mixed_6d(hidden)))
        return self.Mixed_7c(self.Mixed_7b(hidden)).mean((2, 3))
