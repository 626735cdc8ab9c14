"""InceptionResnetV1, the backbone of FaceNet (128 numbers) and FaceNet512, under facenet-pytorch's key names."""

import torch
import torch.nn.functional as F
from torch import nn

from .layers import FrozenBatchNorm

SIDE = 160


class ConvolutionUnit(nn.Module):
    """Convolution, normalisation and ReLU; sizes that keep the picture's are padded, unless `padding` says so."""

    def __init__(self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, padded: bool = True):
        super().__init__()
        kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = tuple(side // 2 for side in kernel) if padded and stride == 1 else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = FrozenBatchNorm(outputs, epsilon=1e-3)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(hidden)).relu()


class ResidualInception(nn.Module):
    """hidden + scale · 1×1 convolution of the joined branches."""

    def __init__(self, branches: list[nn.Module], joined: int, width: int, scale: float, activate: bool = True):
        super().__init__()
        self.scale, self.activate, self.branches = scale, activate, len(branches)
        for index, branch in enumerate(branches):
            self.add_module(f"branch{index}", branch)
        self.conv2d = nn.Conv2d(joined, width, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        joined = torch.cat([self.get_submodule(f"branch{index}")(hidden) for index in range(self.branches)], 1)
        hidden = hidden + self.scale * self.conv2d(joined)
        return hidden.relu() if self.activate else hidden


def block35() -> ResidualInception:
    branches = [
        ConvolutionUnit(256, 32, 1),
        nn.Sequential(ConvolutionUnit(256, 32, 1), ConvolutionUnit(32, 32, 3)),
        nn.Sequential(ConvolutionUnit(256, 32, 1), ConvolutionUnit(32, 32, 3), ConvolutionUnit(32, 32, 3)),
    ]
    return ResidualInception(branches, 96, 256, 0.17)


def block17() -> ResidualInception:
    along = nn.Sequential(
        ConvolutionUnit(896, 128, 1), ConvolutionUnit(128, 128, (1, 7)), ConvolutionUnit(128, 128, (7, 1))
    )
    return ResidualInception([ConvolutionUnit(896, 128, 1), along], 256, 896, 0.10)


def block8(scale: float = 0.20, activate: bool = True) -> ResidualInception:
    along = nn.Sequential(
        ConvolutionUnit(1792, 192, 1), ConvolutionUnit(192, 192, (1, 3)), ConvolutionUnit(192, 192, (3, 1))
    )
    return ResidualInception([ConvolutionUnit(1792, 192, 1), along], 384, 1792, scale, activate)


class Reduction(nn.Module):
    """Branches with stride 2 and a max pool, joined: half the picture's side."""

    def __init__(self, branches: list[nn.Module]):
        super().__init__()
        self.branches = len(branches)
        for index, branch in enumerate(branches):
            self.add_module(f"branch{index}", branch)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        halves = [self.get_submodule(f"branch{index}")(hidden) for index in range(self.branches)]
        return torch.cat([*halves, F.max_pool2d(hidden, 3, 2)], 1)


def mixed_6a() -> Reduction:
    deep = nn.Sequential(ConvolutionUnit(256, 192, 1), ConvolutionUnit(192, 192, 3), ConvolutionUnit(192, 256, 3, 2))
    return Reduction([ConvolutionUnit(256, 384, 3, 2), deep])


def mixed_7a() -> Reduction:
    return Reduction(
        [
            nn.Sequential(ConvolutionUnit(896, 256, 1), ConvolutionUnit(256, 384, 3, 2)),
            nn.Sequential(ConvolutionUnit(896, 256, 1), ConvolutionUnit(256, 256, 3, 2)),
            nn.Sequential(ConvolutionUnit(896, 256, 1), ConvolutionUnit(256, 256, 3), ConvolutionUnit(256, 256, 3, 2)),
        ]
    )


class InceptionResNetV1(nn.Module):
    """Faces `(B, 3, 160, 160)`, RGB in [-1, 1] → embeddings `(B, size)`, not normalised."""

    def __init__(self, size: int):
        super().__init__()
        self.conv2d_1a = ConvolutionUnit(3, 32, 3, 2)
        self.conv2d_2a = ConvolutionUnit(32, 32, 3, padded=False)
        self.conv2d_2b = ConvolutionUnit(32, 64, 3)
        self.conv2d_3b = ConvolutionUnit(64, 80, 1)
        self.conv2d_4a = ConvolutionUnit(80, 192, 3, padded=False)
        self.conv2d_4b = ConvolutionUnit(192, 256, 3, 2)
        self.repeat_1 = nn.Sequential(*(block35() for _ in range(5)))
        self.mixed_6a = mixed_6a()
        self.repeat_2 = nn.Sequential(*(block17() for _ in range(10)))
        self.mixed_7a = mixed_7a()
        self.repeat_3 = nn.Sequential(*(block8() for _ in range(5)))
        self.block8 = block8(scale=1.0, activate=False)
        self.last_linear = nn.Linear(1792, size, bias=False)
        self.last_bn = FrozenBatchNorm(size, epsilon=1e-3)

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        # The published network reads (grey level - 127.5) / 128.
        hidden = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(faces * (127.5 / 128))))
        hidden = self.conv2d_4b(self.conv2d_4a(self.conv2d_3b(F.max_pool2d(hidden, 3, 2))))
        hidden = self.repeat_2(self.mixed_6a(self.repeat_1(hidden)))
        hidden = self.block8(self.repeat_3(self.mixed_7a(hidden)))
        return self.last_bn(self.last_linear(hidden.mean((2, 3))))
