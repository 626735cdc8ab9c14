"""VGG-Face (Parkhi et al. 2015): VGG16 whose seventh layer describes a face, under the PyTorch port's key names."""

import torch
import torch.nn.functional as F
from torch import nn

from .perceptual_trunks import VGG16_WIDTHS

SIDE, EMBEDDING_SIZE = 224, 4096
PIXEL_MEAN = (93.5940, 104.7624, 129.1863)  # of B, G, R: the network reads pixels in that order


class VGGFace(nn.Module):
    """Faces `(B, 3, 224, 224)`, RGB in [-1, 1] → descriptors `(B, 4096)` (fc7 after its ReLU), not normalised."""

    def __init__(self):
        super().__init__()
        width = 3
        for stage, widths in enumerate(VGG16_WIDTHS, start=1):
            for index, wider in enumerate(widths, start=1):
                self.add_module(f"conv_{stage}_{index}", nn.Conv2d(width, wider, 3, padding=1))
                width = wider
        self.fc6 = nn.Linear(width * (SIDE // 32) ** 2, EMBEDDING_SIZE)
        self.fc7 = nn.Linear(EMBEDDING_SIZE, EMBEDDING_SIZE)

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        mean = faces.new_tensor(PIXEL_MEAN).view(1, 3, 1, 1)
        hidden = (faces.flip(1) + 1) * 127.5 - mean
        for stage, widths in enumerate(VGG16_WIDTHS, start=1):
            for index in range(1, len(widths) + 1):
                hidden = self.get_submodule(f"conv_{stage}_{index}")(hidden).relu()
            hidden = F.max_pool2d(hidden, 2)
        return self.fc7(self.fc6(hidden.flatten(1)).relu()).relu()
