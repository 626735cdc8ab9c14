"""SyncNet (Chung & Zisserman 2016) as published in `syncnet_v2.model`, under its key names."""

import torch
from torch import nn

from .layers import FrozenBatchNorm

SIDE, FRAMES = 224, 5  # pixels; frames at 25 a second: 0.2 s
EMBEDDING_SIZE = 1024


def head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), FrozenBatchNorm(512), nn.ReLU(), nn.Linear(512, EMBEDDING_SIZE))


def sound_convolutions() -> nn.Sequential:
    def unit(inputs: int, outputs: int, kernel=3, padding=1) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, kernel, padding=padding), FrozenBatchNorm(outputs), nn.ReLU()]

    return nn.Sequential(
        *[*unit(1, 64), nn.Identity(), *unit(64, 192), nn.MaxPool2d(3, (1, 2))],
        *[*unit(192, 384), *unit(384, 256), *unit(256, 256), nn.MaxPool2d(3, 2)],
        *unit(256, 512, (5, 4), 0),
    )


def mouth_convolutions() -> nn.Sequential:
    def unit(inputs: int, outputs: int, kernel, stride=1, padding=(0, 1, 1)) -> list[nn.Module]:
        return [nn.Conv3d(inputs, outputs, kernel, stride, padding), FrozenBatchNorm(outputs), nn.ReLU()]

    halved = (1, 2, 2)
    return nn.Sequential(
        *[*unit(3, 96, (FRAMES, 7, 7), halved, 0), nn.MaxPool3d((1, 3, 3), halved)],
        *[*unit(96, 256, (1, 5, 5), halved), nn.MaxPool3d((1, 3, 3), halved, (0, 1, 1))],
        *[*unit(256, 256, (1, 3, 3)), *unit(256, 256, (1, 3, 3)), *unit(256, 256, (1, 3, 3))],
        *[nn.MaxPool3d((1, 3, 3), halved), *unit(256, 512, (1, 6, 6), 1, 0)],
    )


class SyncNet(nn.Module):
    """Two towers that meet in 1,024 numbers."""

    def __init__(self):
        super().__init__()
        self.netcnnaud, self.netfcaud = sound_convolutions(), head()
        self.netcnnlip, self.netfclip = mouth_convolutions(), head()

    def embed_sound(self, cepstra: torch.Tensor) -> torch.Tensor:
        """Cepstra `(B, 13, 20)` → `(B, 1024)`."""
        return self.netfcaud(self.netcnnaud(cepstra[:, None]).flatten(1))

    def embed_mouth(self, crops: torch.Tensor) -> torch.Tensor:
        """Faces `(B, 3, 5, 224, 224)`, BGR of grey levels 0 … 255 → `(B, 1024)`."""
        return self.netfclip(self.netcnnlip(crops).flatten(1))
