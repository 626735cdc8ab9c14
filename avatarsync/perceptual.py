"""Perceptual distances between pictures (Eq. 7): LPIPS (Zhang et al. 2018) and its shift-tolerant sister ST-LPIPS.

    distance = Σ_l mean_{h,w} Σ_c w_{l,c} · (F̂_l(generated) - F̂_l(real))²_{h,w,c}

with F̂ the features of layer l scaled to unit length along the channels, as LPIPS defines Eq. 7's w_l and F_l.
"""

import re
from abc import abstractmethod
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from .errors import ModelLoadError
from .feature_networks.perceptual_trunks import ST_LPIPS_ALEXNET, ST_LPIPS_VGG16, TRUNKS, Trunk
from .feature_networks.weight_files import (
    describe_difference,
    fingerprint,
    load_weights,
    packaged_file,
    read_packaged_pickle,
    read_safetensors,
)

# ImageNet's mean and deviation on the scale [-1, 1].
IMAGE_MEAN, IMAGE_DEVIATION = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
# Side of the patches that LPIPS was fitted to; smaller pictures are enlarged to it.
MINIMUM_SIDE = 64
INSTALL_ST_LPIPS = "pip install --no-deps stlpips-pytorch"
BUILT_IN = {
    "st-lpips": (ST_LPIPS_VGG16, "vgg_shift_tolerant.pth"),
    "st-lpips-alexnet": (ST_LPIPS_ALEXNET, "alex_shift_tolerant.pth"),
}


class PerceptualDistance(nn.Module):
    """A frozen network that says how different two pictures look.

    Attributes:
        name: what the network is, for logs and model cards.
        source: the weight file and the start of its SHA-256.
    """

    name: str
    source: str

    @abstractmethod
    def forward(self, generated: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """Distance `(B,)` of pictures `(B, 3, H, W)` in [-1, 1]; gradients reach `generated` alone."""


class LPIPSDistance(PerceptualDistance):
    """LPIPS on any of the trunks, in float32 whatever autocast says."""

    def __init__(self, trunk: Trunk):
        super().__init__()
        self.name, self.source = trunk.name, "random weights"
        self.taps = trunk.taps
        self.features = trunk.build()
        self.heads = nn.ParameterList(torch.rand(1, width, 1, 1) for width in trunk.channels)
        self.requires_grad_(False)

    def layer_features(self, pictures: torch.Tensor) -> list[torch.Tensor]:
        """Unit-length features `(B, C_l, H_l, W_l)` of each tapped layer."""
        pictures = pictures.float()
        height, width = pictures.shape[-2:]
        if min(height, width) < MINIMUM_SIDE:
            scale = MINIMUM_SIDE / min(height, width)
            size = (max(MINIMUM_SIDE, round(height * scale)), max(MINIMUM_SIDE, round(width * scale)))
            pictures = F.interpolate(pictures, size, mode="bilinear", align_corners=False)
        mean, deviation = (pictures.new_tensor(v).view(1, 3, 1, 1) for v in (IMAGE_MEAN, IMAGE_DEVIATION))
        hidden, tapped = (pictures - mean) / deviation, []
        for index, layer in enumerate(self.features):
            hidden = layer(hidden)
            if index in self.taps:
                # Clamped inside the root: where all channels are dead its slope would be infinite.
                length = hidden.square().sum(1, keepdim=True).clamp_min(1e-20).sqrt()
                tapped.append(hidden / (length + 1e-10))
        return tapped

    def forward(self, generated: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        with torch.autocast(generated.device.type, enabled=False):
            with torch.no_grad():
                targets = self.layer_features(real)
            distance = generated.new_zeros(len(generated), dtype=torch.float32)
            for head, feature, target in zip(self.heads, self.layer_features(generated), targets, strict=True):
                distance = distance + F.conv2d((feature - target).square(), head).mean((1, 2, 3))
        return distance


def canonical_key(key: str) -> str | None:
    """Our name of a tensor of a published LPIPS or torchvision file; None for what is not needed.

    `net.slice2.5.weight` and `features.5.weight` → `features.5.weight`; `lin0.model.1.weight`,
    `lins.0.model.1.weight` and `heads.0` → `heads.0`; classifiers, blur kernels and constants → None.
    """
    key = re.sub(r"^core\.", "", key)
    if head := re.fullmatch(r"(?:lins?\.?|heads\.)(\d+)(?:\.model\.1\.weight)?", key):
        return f"heads.{head[1]}"
    if layer := re.fullmatch(r"(?:net\.slice\d+|features)\.(.+\.(?:weight|bias))", key):
        return f"features.{layer[1]}"
    return None


def canonical_tensors(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors under our names, without those that no trunk needs."""
    return {name: value for key, value in tensors.items() if (name := canonical_key(key))}


def build(trunk: Trunk, tensors: dict[str, torch.Tensor], path: Path) -> LPIPSDistance:
    with torch.device("meta"):
        distance = LPIPSDistance(trunk)
    load_weights(distance, tensors, trunk.name, path)
    distance.source = fingerprint(path)
    return distance


def matching_trunk(tensors: dict[str, torch.Tensor]) -> Trunk | None:
    """The trunk whose keys and shapes are exactly these."""
    with torch.device("meta"):
        return next((trunk for trunk in TRUNKS if not describe_difference(LPIPSDistance(trunk), tensors)), None)


def load_perceptual(source: str | Path = "st-lpips") -> PerceptualDistance:
    """A perceptual distance, frozen.

    Args:
        source: "st-lpips" (VGG16) or "st-lpips-alexnet": from the installed package stlpips-pytorch; or the path of a
            safetensors file of LPIPS v0.1 with VGG16, AlexNet or SqueezeNet. The file's keys and shapes decide what
            it is called.

    Raises:
        MissingDependencyError: stlpips-pytorch is not installed.
        ModelLoadError: no such file, or it holds none of these networks.
    """
    if str(source) in BUILT_IN:
        trunk, name = BUILT_IN[str(source)]
        path = packaged_file("stlpips-pytorch", name, INSTALL_ST_LPIPS)
        return build(trunk, canonical_tensors(read_packaged_pickle(path, trunk.name)), path)
    names = ", ".join(trunk.name for trunk in TRUNKS)
    tensors = canonical_tensors(read_safetensors(source, f"one of {names} (or give {' or '.join(BUILT_IN)})"))
    trunk = matching_trunk(tensors)
    if trunk is None:
        raise ModelLoadError(
            f"{source} holds none of {names}: expected all of features.N.weight, features.N.bias and heads.K, as "
            "listed in docs/feature_networks.md. Make it with `python training/convert_feature_weights.py`."
        )
    return build(trunk, tensors, Path(source).expanduser())
