"""Face embeddings: who is in the picture, for the identity loss (Eq. 8), the facial similarity loss (Eq. 9) and
their metrics."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from .errors import InvalidArgumentError, ModelLoadError
from .face_mesh import neutral_landmarks
from .feature_networks import dlib_resnet, iresnet, vgg_face
from .feature_networks.dlib_resnet import DlibResNet, read_dlib_weights
from .feature_networks.face_alignment import (
    ARCFACE_FRAME,
    DLIB_FRAME,
    FACENET_FRAME,
    VGG_FACE_FRAME,
    CanonicalFrame,
)
from .feature_networks.inception_resnet import InceptionResNetV1
from .feature_networks.iresnet import IResNet
from .feature_networks.vgg_face import VGGFace
from .feature_networks.weight_files import (
    existing_file,
    fingerprint,
    load_weights,
    packaged_file,
    read_safetensors,
)

INSTALL_DLIB = "pip install face-recognition-models"
KINDS = ("dlib", "arcface", "facenet", "facenet512", "vgg-face")
FACENET_SIZES = {"facenet": 128, "facenet512": 512}
# Layers that only name the people of the training set.
CLASSIFIERS = ("logits.", "fc8.")


class FaceEmbedding(nn.Module):
    """A frozen face recognition network with the alignment that it expects.

    Attributes:
        name: what the network is, for logs and model cards.
        source: the weight file and the start of its SHA-256.
        size: D, length of the embedding.
    """

    def __init__(self, name: str, network: nn.Module, frame: CanonicalFrame, size: int, source: str):
        super().__init__()
        self.name, self.source, self.size, self.frame = name, source, size, frame
        self.network = network.requires_grad_(False)
        self.register_buffer("usual_landmarks", neutral_landmarks(), persistent=False)

    def align(self, crops: torch.Tensor, landmarks: torch.Tensor | None = None) -> torch.Tensor:
        """Faces `(B, 3, s, s)` in the network's canonical frame; arguments as in `forward`."""
        height, width = crops.shape[-2:]
        if landmarks is None:
            landmarks = self.usual_landmarks.expand(len(crops), -1, -1)
        # Geometry in float32: half precision would round landmarks to quarter pixels.
        return self.frame.align(crops.float(), landmarks.float() * landmarks.new_tensor([width, height]).float())

    def embed_aligned(self, faces: torch.Tensor) -> torch.Tensor:
        """Faces `(B, 3, s, s)` in [-1, 1], aligned → the network's own output `(B, D)`, not normalised."""
        return self.network(faces)

    def forward(self, crops: torch.Tensor, landmarks: torch.Tensor | None = None) -> torch.Tensor:
        """Embeddings `(B, D)` of length one, in float32 whatever autocast says.

        Args:
            crops: `(B, 3, H, W)` in [-1, 1], of any size.
            landmarks: `(B, 468, 2)` in fractions of the crops' sides; None: where a pose-driven crop usually has them.
        """
        with torch.autocast(crops.device.type, enabled=False):
            return F.normalize(self.embed_aligned(self.align(crops, landmarks)), dim=-1)


def load_face_embedding(source: str = "dlib") -> FaceEmbedding:
    """A face embedding, frozen.

    Args:
        source: "dlib", from the installed package face-recognition-models; or a kind and the path of its weights:
            "dlib:PATH.dat", "arcface:PATH", "facenet512:PATH", "facenet:PATH" (128 numbers), "vgg-face:PATH", all
            safetensors but the first.

    Raises:
        InvalidArgumentError: another kind.
        MissingDependencyError: face-recognition-models is not installed.
        ModelLoadError: no such file, or it holds another network than its kind says.
    """
    kind, _, path = str(source).partition(":")
    if kind not in KINDS or (kind != "dlib" and not path):
        raise InvalidArgumentError(
            f"{source!r} is no face embedding: give dlib, or a kind and its file, as in arcface:PATH; kinds are "
            f"{', '.join(KINDS)}."
        )
    if kind == "dlib":
        return _load_dlib(path)
    name = {
        "arcface": "ArcFace (IResNet-50 or IResNet-100)",
        "facenet": "FaceNet (InceptionResnetV1, 128 numbers)",
        "facenet512": "FaceNet512 (InceptionResnetV1)",
        "vgg-face": "VGG-Face (VGG16)",
    }[kind]
    tensors = {key: value for key, value in read_safetensors(path, name).items() if not key.startswith(CLASSIFIERS)}
    file = Path(path).expanduser()
    with torch.device("meta"):
        if kind == "arcface":
            depth = _arcface_depth(tensors, file)
            name = f"ArcFace (IResNet-{depth})"
            network, frame, size = IResNet(depth), ARCFACE_FRAME, iresnet.EMBEDDING_SIZE
        elif kind == "vgg-face":
            network, frame, size = VGGFace(), VGG_FACE_FRAME, vgg_face.EMBEDDING_SIZE
        else:
            size = FACENET_SIZES[kind]
            network, frame = InceptionResNetV1(size), FACENET_FRAME
    load_weights(network, tensors, name, file)
    return FaceEmbedding(name, network, frame, size, fingerprint(file))


def _load_dlib(path: str) -> FaceEmbedding:
    name = "dlib ResNet-29 (face_recognition_resnet_model_v1)"
    if path:
        file = existing_file(path, name)
    else:
        file = packaged_file("face-recognition-models", dlib_resnet.FILE_NAME, INSTALL_DLIB)
    with torch.device("meta"):
        network = DlibResNet()
    load_weights(network, read_dlib_weights(file), name, file)
    return FaceEmbedding(name, network, DLIB_FRAME, dlib_resnet.EMBEDDING_SIZE, fingerprint(file))


def _arcface_depth(tensors: dict[str, torch.Tensor], file: Path) -> int:
    """Which IResNet a file holds, by the number of blocks in its third stage."""
    blocks = {key.split(".")[1] for key in tensors if key.startswith("layer3.")}
    for depth, counts in iresnet.BLOCKS.items():
        if len(blocks) == counts[2]:
            return depth
    raise ModelLoadError(
        f"{file} does not hold ArcFace (IResNet-50 or IResNet-100): expected insightface's keys conv1.weight, "
        f"layer1.0.bn1.weight … features.bias, with 14 or 30 blocks in layer3, and found {len(blocks)}."
    )
