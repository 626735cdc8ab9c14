"""Features whose distributions FID and FVD compare (section Evaluation Metrics): one vector a picture, or a clip.

Only Inception-v3 makes a FID and only I3D makes an FVD. The networks that need no file measure something of the same
kind on another scale; figures carry the name of the network that made them.
"""

from abc import abstractmethod
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from .errors import InvalidArgumentError
from .feature_networks import i3d, inception_v3
from .feature_networks.weight_files import fingerprint, load_weights, read_safetensors
from .perceptual import BUILT_IN, LPIPSDistance, load_perceptual

CLIP_FRAMES = 16  # as FVD is usually reported
STAND_IN_SIDE = 128
INCEPTION_NAME, I3D_NAME = "Inception-v3 (2015-12-05)", "I3D (Kinetics-400)"
INCEPTION_CLASSIFIER = "fc."


class DistributionFeatures(nn.Module):
    """A frozen network that turns pictures or clips into vectors.

    Attributes:
        name: what the network is.
        figure: what the Fréchet distance of its vectors may be called, such as "FID/Inception-v3 (2015-12-05)".
        source: the weight file and the start of its SHA-256.
        side: pictures are resized to so many pixels a side.
        size: D, length of the vectors.
    """

    name: str
    figure: str
    source: str
    side: int
    size: int

    def resize(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures `(B, 3, H, W)` in [-1, 1] → `(B, 3, side, side)`, bilinear without a low-pass, as FID's is."""
        return F.interpolate(pictures, (self.side, self.side), mode="bilinear", align_corners=False)

    @abstractmethod
    def forward(self, examples: torch.Tensor) -> torch.Tensor:
        """Vectors `(B, D)` of resized pictures `(B, 3, side, side)`, or of clips `(B, 3, 16, side, side)`."""


class InceptionFeatures(DistributionFeatures):
    name, figure = INCEPTION_NAME, f"FID/{INCEPTION_NAME}"
    side, size = inception_v3.SIDE, inception_v3.FEATURES

    def __init__(self, network: inception_v3.InceptionV3, source: str):
        super().__init__()
        self.network, self.source = network, source

    def forward(self, examples: torch.Tensor) -> torch.Tensor:
        return self.network(examples)


class I3DFeatures(DistributionFeatures):
    name, figure = I3D_NAME, f"FVD/{I3D_NAME}"
    side, size = i3d.SIDE, i3d.CLASSES

    def __init__(self, network: i3d.I3D, source: str):
        super().__init__()
        self.network, self.source = network, source

    def forward(self, examples: torch.Tensor) -> torch.Tensor:
        return self.network(examples)


class PerceptualFeatures(DistributionFeatures):
    """The last layer of a perceptual distance's trunk, unit-length at each place, averaged over the picture."""

    side = STAND_IN_SIDE

    def __init__(self, distance: LPIPSDistance):
        super().__init__()
        self.distance = distance
        self.name, self.source = distance.name, distance.source
        self.figure, self.size = f"Fréchet distance/{self.name}", distance.heads[-1].shape[1]

    def resize(self, pictures: torch.Tensor) -> torch.Tensor:
        return F.interpolate(pictures, (self.side, self.side), mode="bilinear", antialias=True, align_corners=False)

    def forward(self, examples: torch.Tensor) -> torch.Tensor:
        return self.distance.layer_features(examples)[-1].mean((2, 3))


class PerceptualClipFeatures(PerceptualFeatures):
    """Over time: the mean of the pictures' features, and the root mean square of their change from frame to frame."""

    def __init__(self, distance: LPIPSDistance):
        super().__init__(distance)
        self.name = f"{distance.name} over {CLIP_FRAMES} frames"
        self.figure, self.size = f"Fréchet video distance/{self.name}", 2 * self.size

    def forward(self, examples: torch.Tensor) -> torch.Tensor:
        features = torch.stack(
            [super(PerceptualClipFeatures, self).forward(frames) for frames in examples.unbind(2)], 1
        )
        change = features.diff(dim=1).square().mean(1).sqrt()
        return torch.cat([features.mean(1), change], 1)


def load_picture_features(source: str = "st-lpips-alexnet") -> DistributionFeatures:
    """Features of pictures, frozen.

    Args:
        source: "inception:PATH" of safetensors, for a FID; or "st-lpips-alexnet" or "st-lpips", from the installed
            package stlpips-pytorch.

    Raises:
        InvalidArgumentError: another kind.
        MissingDependencyError: stlpips-pytorch is not installed.
        ModelLoadError: no such file, or it holds another network.
    """
    kind, _, path = str(source).partition(":")
    if kind == "inception" and path:
        tensors = read_safetensors(path, INCEPTION_NAME)
        tensors = {name: value for name, value in tensors.items() if not name.startswith(INCEPTION_CLASSIFIER)}
        with torch.device("meta"):
            network = inception_v3.InceptionV3()
        load_weights(network, tensors, INCEPTION_NAME, Path(path).expanduser())
        return InceptionFeatures(network, fingerprint(Path(path).expanduser()))
    if source in BUILT_IN:
        return PerceptualFeatures(load_perceptual(source))
    raise InvalidArgumentError(
        f"{source!r} is no network for pictures: give inception:PATH, or one of {', '.join(BUILT_IN)}"
    )


def load_clip_features(source: str = "st-lpips-alexnet") -> DistributionFeatures:
    """Features of clips of 16 frames, frozen.

    Args:
        source: "i3d:PATH" of safetensors, for an FVD; or "st-lpips-alexnet" or "st-lpips", from the installed package
            stlpips-pytorch.

    Raises:
        InvalidArgumentError: another kind.
        MissingDependencyError: stlpips-pytorch is not installed.
        ModelLoadError: no such file, or it holds another network.
    """
    kind, _, path = str(source).partition(":")
    if kind == "i3d" and path:
        tensors = read_safetensors(path, I3D_NAME)
        with torch.device("meta"):
            network = i3d.I3D()
        load_weights(network, tensors, I3D_NAME, Path(path).expanduser())
        return I3DFeatures(network, fingerprint(Path(path).expanduser()))
    if source in BUILT_IN:
        return PerceptualClipFeatures(load_perceptual(source))
    raise InvalidArgumentError(f"{source!r} is no network for clips: give i3d:PATH, or one of {', '.join(BUILT_IN)}")
