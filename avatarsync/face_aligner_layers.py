"""Layers of FaceAlignerModel: its two kinds of convolutional network and the units that they are built from.

B pictures, D = `detector_size`, L = `landmark_size`, G = D / 8 cells a side, w = a network's width.
"""

import torch
import torch.nn.functional as F
from torch import nn

from avatarsync.face_aligner_losses import cell_centres

NUM_KEYPOINTS = 3  # right eye centre, left eye centre, nose base
LANDMARK_STRIDE = 4


class ConvUnit(nn.Sequential):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 3, stride: int = 1, groups: int = 1):
        super().__init__(
            nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        )


class ResidualUnit(nn.Module):
    """Two plain 3×3 convolutions around a skip: at high resolution and few channels the fastest on CPUs."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(ConvUnit(channels, channels), ConvUnit(channels, channels))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.body(hidden)


class SeparableUnit(nn.Module):
    """Depthwise 5×5 and pointwise convolution around a skip: wide view and many channels for few parameters."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(ConvUnit(channels, channels, 5, groups=channels), ConvUnit(channels, channels, 1))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.body(hidden)


def upsample(hidden: torch.Tensor) -> torch.Tensor:
    return F.interpolate(hidden, scale_factor=2.0, mode="bilinear", align_corners=False)


class FaceDetector(nn.Module):
    """`(B, 3, D, D)` in -1…1 → maps `(B, 11, G, G)`.

    Channel 0 is the logit of "a face's centre is in this cell"; 1–2 the centre's offset from the cell's, in cells;
    3–4 the log of width and height in cells; 5–10 the keypoints' offsets from the cell's centre, as shares of the
    face's size √(width·height).
    """

    def __init__(self, width: int):
        super().__init__()
        self.early = nn.Sequential(
            ConvUnit(3, width, stride=2),
            ConvUnit(width, 2 * width, stride=2),
            ConvUnit(2 * width, 4 * width, stride=2),
            ResidualUnit(4 * width),
        )
        self.late = nn.Sequential(
            ConvUnit(4 * width, 8 * width, stride=2), *(SeparableUnit(8 * width) for _ in range(4))
        )
        self.lateral = nn.Conv2d(8 * width, 4 * width, 1)
        self.fuse = ConvUnit(4 * width, 4 * width)
        self.head = nn.Conv2d(4 * width, 5 + 2 * NUM_KEYPOINTS, 1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        fine = self.early(pixels)  # (B, 4w, G, G)
        coarse = self.late(fine)  # (B, 8w, G/2, G/2)
        return self.head(self.fuse(fine + upsample(self.lateral(coarse))))


class LandmarkRegressor(nn.Module):
    """`(B, 3, L, L)` in -1…1 → N landmarks `(B, N, 2)` in pixels of the crop and presence logits `(B,)`.

    Each landmark is the mean of its softmax heatmap at stride 4. A regression from pooled features would be cheaper
    but has to learn every place anew; heatmaps move with the picture and so learn more from few faces.
    """

    def __init__(self, width: int, num_landmarks: int):
        super().__init__()
        fused = 3 * width
        self.stage4 = nn.Sequential(
            ConvUnit(3, width, stride=2), ConvUnit(width, 2 * width, stride=2), ResidualUnit(2 * width)
        )
        self.stage8 = nn.Sequential(
            ConvUnit(2 * width, 4 * width, stride=2), ResidualUnit(4 * width), ResidualUnit(4 * width)
        )
        self.stage16 = nn.Sequential(
            ConvUnit(4 * width, 8 * width, stride=2), *(SeparableUnit(8 * width) for _ in range(4))
        )
        self.lateral4 = nn.Conv2d(2 * width, fused, 1)
        self.lateral8 = nn.Conv2d(4 * width, fused, 1)
        self.lateral16 = nn.Conv2d(8 * width, fused, 1)
        self.fuse = ConvUnit(fused, fused)
        self.heatmaps = nn.Conv2d(fused, num_landmarks, 1)
        self.presence = nn.Linear(8 * width, 1)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        at4 = self.stage4(pixels)  # (B, 2w, L/4, L/4)
        at8 = self.stage8(at4)
        at16 = self.stage16(at8)  # (B, 8w, L/16, L/16)
        fused = self.lateral8(at8) + upsample(self.lateral16(at16))
        fused = self.fuse(self.lateral4(at4) + upsample(fused))  # (B, 3w, L/4, L/4)
        weights = self.heatmaps(fused).flatten(2).float().softmax(-1)  # (B, 468, L/4 · L/4)
        places = cell_centres(fused.shape[-1], LANDMARK_STRIDE, weights)  # (L/4 · L/4, 2)
        return weights @ places, self.presence(at16.mean((2, 3)))[:, 0].float()
