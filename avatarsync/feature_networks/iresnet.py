"""IResNet-50 and -100, the backbones of ArcFace (Deng et al. 2019), under insightface's key names."""

import torch
from torch import nn

from .layers import FrozenBatchNorm

BLOCKS = {50: (3, 4, 14, 3), 100: (3, 13, 30, 3)}  # residual blocks of the four stages
WIDTHS = (64, 128, 256, 512)
EMBEDDING_SIZE, SIDE = 512, 112


class IBasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.bn1 = FrozenBatchNorm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = FrozenBatchNorm(outputs)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False)
        self.bn3 = FrozenBatchNorm(outputs)
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), FrozenBatchNorm(outputs)
            )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        change = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(hidden))))))
        return change + (hidden if self.downsample is None else self.downsample(hidden))


class IResNet(nn.Module):
    """Aligned faces `(B, 3, 112, 112)`, RGB in [-1, 1] → embeddings `(B, 512)`, not normalised."""

    def __init__(self, depth: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, 1, 1, bias=False)
        self.bn1 = FrozenBatchNorm(WIDTHS[0])
        self.prelu = nn.PReLU(WIDTHS[0])
        inputs, stages = WIDTHS[0], []
        for width, count in zip(WIDTHS, BLOCKS[depth], strict=True):
            stages.append(
                nn.Sequential(IBasicBlock(inputs, width, 2), *(IBasicBlock(width, width, 1) for _ in range(count - 1)))
            )
            inputs = width
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.bn2 = FrozenBatchNorm(inputs)
        self.fc = nn.Linear(inputs * (SIDE // 16) ** 2, EMBEDDING_SIZE)
        self.features = FrozenBatchNorm(EMBEDDING_SIZE)

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        hidden = self.prelu(self.bn1(self.conv1(faces)))
        hidden = self.layer4(self.layer3(self.layer2(self.layer1(hidden))))
        return self.features(self.fc(self.bn2(hidden).flatten(1)))
