"""dlib's face recognition network (ResNet-29, CC0), read from its own serialised file without dlib.

Layers, by dlib's definition of `face_recognition_resnet_model_v1`: a 7×7 stem, 14 residual blocks of two 3×3
convolutions, and a linear map of the pooled 256 channels to 128 numbers. Each convolution's affine layer is folded
into it.
"""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..errors import ModelLoadError

FILE_NAME = "dlib_face_recognition_resnet_model_v1.dat"
PIXEL_MEAN = (122.782, 117.001, 104.298)  # of R, G, B, subtracted before dividing by 256
# Width of each residual block; blocks that halve the picture are marked.
BLOCKS = (
    *[(32, False)] * 3,
    *[(64, True), *[(64, False)] * 3],
    *[(128, True), *[(128, False)] * 2],
    *[(256, True), *[(256, False)] * 2],
    (256, True),
)
EMBEDDING_SIZE = 128


def pad_to(hidden: torch.Tensor, channels: int, height: int, width: int) -> torch.Tensor:
    """`(B, C, H, W)` with zeros after its last channel, row and column, as dlib adds tensors of unequal shapes."""
    return F.pad(hidden, (0, width - hidden.shape[3], 0, height - hidden.shape[2], 0, channels - hidden.shape[1]))


class DlibBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, halve: bool):
        super().__init__()
        self.halve = halve
        # dlib does not pad convolutions with strides.
        self.first = nn.Conv2d(inputs, outputs, 3, 2 if halve else 1, 0 if halve else 1)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        change = self.second(self.first(hidden).relu())
        if self.halve:
            hidden = F.avg_pool2d(hidden, 2)
            shape = [max(sizes) for sizes in zip(hidden.shape[1:], change.shape[1:], strict=True)]
            hidden, change = pad_to(hidden, *shape), pad_to(change, *shape)
        return (hidden + change).relu()


class DlibResNet(nn.Module):
    """Face chips `(B, 3, 150, 150)` in [-1, 1] → descriptors `(B, 128)`, not normalised, as dlib gives them."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 7, 2)
        widths = [32, *(width for width, _ in BLOCKS)]
        self.blocks = nn.Sequential(
            *(DlibBlock(inputs, *block) for inputs, block in zip(widths, BLOCKS, strict=False))
        )
        self.head = nn.Linear(256, EMBEDDING_SIZE, bias=False)

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        mean = faces.new_tensor(PIXEL_MEAN).view(1, 3, 1, 1)
        pixels = ((faces + 1) * 127.5 - mean) / 256
        hidden = F.max_pool2d(self.stem(pixels).relu(), 3, 2)
        return self.head(self.blocks(hidden).mean((2, 3)))


class DlibReader:
    """A cursor over dlib's serialisation: integers of 1 + n bytes, length-prefixed names, float32 tensors."""

    def __init__(self, content: bytes):
        self.content, self.position = content, 0

    def take(self, count: int) -> bytes:
        piece = self.content[self.position : self.position + count]
        if len(piece) < count:
            raise ValueError("it ends too early")
        self.position += count
        return piece

    def integer(self) -> int:
        """The low bits of a control byte count the little-endian bytes that follow; its highest bit is the sign."""
        control = self.take(1)[0]
        magnitude = int.from_bytes(self.take(control & 0x0F), "little")
        return -magnitude if control & 0x80 else magnitude

    def tensor(self) -> np.ndarray:
        if self.integer() != 2:
            raise ValueError("a tensor of another version")
        count = math.prod(self.integer() for _ in range(4))
        if count < 0:
            raise ValueError("a tensor of negative size")
        return np.frombuffer(self.take(4 * count), "<f4").copy()

    def seek_layer(self, name: bytes) -> None:
        """Go behind the next layer called `name`: activations and tags between layers hold nothing that is needed.

        Weights are read before the next search, so that their bytes are never mistaken for a name.
        """
        found = self.content.find(bytes([1, len(name)]) + name, self.position)
        if found < 0:
            raise ValueError(f"no further layer {name.decode()}")
        self.position = found + 2 + len(name)

    def convolution(self, inputs: int, outputs: int, side: int, stride: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight `(outputs, inputs, side, side)` and bias of the next convolution with its affine layer."""
        self.seek_layer(b"con_4")
        values = self.tensor()
        geometry = [self.integer() for _ in range(7)]  # filters, rows, columns, strides y and x, paddings y and x
        padding = 0 if stride > 1 else side // 2
        if geometry != [outputs, side, side, stride, stride, padding, padding]:
            raise ValueError(f"a convolution {geometry} in the place of one of {outputs} filters {side}×{side}")
        if len(values) != outputs * (inputs * side * side + 1):
            raise ValueError(f"a convolution of {len(values)} values for {inputs} to {outputs} channels")
        self.seek_layer(b"affine_")
        affine = self.tensor()
        if len(affine) != 2 * outputs:
            raise ValueError(f"an affine layer of {len(affine)} values for {outputs} channels")
        scale, shift = torch.from_numpy(affine).chunk(2)
        values = torch.from_numpy(values)
        weight = values[:-outputs].view(outputs, inputs, side, side)
        return weight * scale[:, None, None, None], values[-outputs:] * scale + shift


def read_dlib_weights(path: Path) -> dict[str, torch.Tensor]:
    """State dict of `DlibResNet` from dlib's `.dat` file.

    Raises:
        ModelLoadError: the file is not this network.
    """
    reader, tensors = DlibReader(path.read_bytes()), {}
    try:
        reader.seek_layer(b"input_rgb_image_sized")
        tensors["stem.weight"], tensors["stem.bias"] = reader.convolution(3, 32, 7, 2)
        inputs = 32
        for index, (width, halve) in enumerate(BLOCKS):
            for name, channels, stride in (("first", inputs, 2 if halve else 1), ("second", width, 1)):
                weight, bias = reader.convolution(channels, width, 3, stride)
                tensors[f"blocks.{index}.{name}.weight"], tensors[f"blocks.{index}.{name}.bias"] = weight, bias
            inputs = width
        reader.seek_layer(b"fc_2")
        outputs, inputs = reader.integer(), reader.integer()
        weight = reader.tensor()
        if (outputs, inputs) != (EMBEDDING_SIZE, 256) or len(weight) != EMBEDDING_SIZE * 256:
            raise ValueError(f"a last layer from {inputs} to {outputs}")
        tensors["head.weight"] = torch.from_numpy(weight).view(256, EMBEDDING_SIZE).T.contiguous()
    except ValueError as error:
        raise ModelLoadError(f"{path} is not dlib's {FILE_NAME}: {error}.") from error
    return tensors
