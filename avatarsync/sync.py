"""Whether lips and sound are in step, in SyncNet's protocol: Sync-C and Sync-D (section Evaluation Metrics, Table 1).

25 frames a second; windows of five frames, 0.2 s, against 20 cepstra of the sound; embeddings of both are compared at
offsets of -15 … 15 frames. The distance is the least of the mean distances, the confidence their median less it.
"""

import os
from abc import abstractmethod
from pathlib import Path

import numpy as np
import soxr
import torch
from safetensors import SafetensorError
from scipy.ndimage import median_filter
from torch import nn

from .errors import InvalidArgumentError, ModelLoadError
from .feature_networks import syncnet
from .feature_networks.weight_files import fingerprint, load_weights, read_safetensors
from .image_processing_face import landmark_box, pose_driven_matrix, smooth_matrices, warp_image
from .modeling_sync_expert import SyncExpertModel
from .phonemes.audio import load_audio, to_mono
from .speech_cepstra import SAMPLING_RATE

FPS, FRAMES, CEPSTRA, CEPSTRA_PER_FRAME = 25, 5, 20, 4
SAMPLES_PER_FRAME = 640  # at 16 kHz
MAX_OFFSET = 15  # frames
SYNCNET_NAME = "SyncNet v2"
EXPERT_FOLDER = Path(__file__).parent / "weights" / "sync_expert"
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# SyncNet's face track: the detector's box, steadied over 13 frames, larger by 40 % and moved down by as much.
STEADY_FRAMES, BOX_MARGIN = 13, 0.4
# The expert's mouth: the lower half of the pose-driven crop, and the middle half of its width.
MOUTH_LEFT, MOUTH_TOP, MOUTH_SHARE = 0.25, 0.5, 0.5


class SyncNetwork(nn.Module):
    """A frozen pair of towers for lips and sound.

    Attributes:
        name: what the network is.
        figures: what its distance and confidence may be called.
        source: the weight file and the start of its SHA-256.
        side: pixels of a crop.
        size: D, length of the embeddings.
        accuracy: share of held-out offsets that it tells within one frame, where that is known.
    """

    name: str
    figures: tuple[str, str]
    source: str
    side: int
    size: int
    accuracy: float | None = None

    @abstractmethod
    def matrices(self, landmarks: np.ndarray) -> np.ndarray:
        """Crop matrices `(T, 2, 3)` of consecutive frames with landmarks `(T, 468, 2)` in pixels."""

    @abstractmethod
    def embed_mouth(self, crops: torch.Tensor) -> torch.Tensor:
        """Crops `(B, 5, side, side, 3) uint8` → `(B, D)`."""

    @abstractmethod
    def embed_sound(self, cepstra: torch.Tensor) -> torch.Tensor:
        """Cepstra `(B, 20, 13)` → `(B, D)`."""

    def crop(self, frames: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """What the network looks at, `(T, side, side, 3) uint8`.

        Args:
            frames: consecutive frames `(T, H, W, 3) uint8`.
            landmarks: `(T, 468, 2)` in their pixels.
        """
        crops = [
            warp_image(frame, matrix, self.side)
            for frame, matrix in zip(frames, self.matrices(landmarks), strict=True)
        ]
        return np.stack(crops)


class SyncNetV2(SyncNetwork):
    """The published network. Its faces come from S3FD, ours from landmarks: boxes differ by a few per cent."""

    name, side, size = SYNCNET_NAME, syncnet.SIDE, syncnet.EMBEDDING_SIZE
    figures = f"Sync-D/{SYNCNET_NAME}", f"Sync-C/{SYNCNET_NAME}"

    def __init__(self, network: syncnet.SyncNet, source: str):
        super().__init__()
        self.network, self.source = network, source

    def matrices(self, landmarks: np.ndarray) -> np.ndarray:
        boxes = np.array([landmark_box(points) for points in landmarks])
        centres, half = boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:].max(1) / 2
        x, y, half = (median_filter(curve, STEADY_FRAMES, mode="nearest") for curve in (*centres.T, half))
        width = 2 * half * (1 + BOX_MARGIN)
        scale = self.side / width
        left, top = x - width / 2, y - half
        zero = np.zeros_like(scale)
        rows = [[scale, zero, (0.5 - left) * scale - 0.5], [zero, scale, (0.5 - top) * scale - 0.5]]
        return np.array(rows, np.float32).transpose(2, 0, 1)

    def embed_mouth(self, crops: torch.Tensor) -> torch.Tensor:
        return self.network.embed_mouth(crops.flip(-1).permute(0, 4, 1, 2, 3).float())

    def embed_sound(self, cepstra: torch.Tensor) -> torch.Tensor:
        return self.network.embed_sound(cepstra.mT.float())


class SyncExpert(SyncNetwork):
    """The small expert, whose distances are of unit vectors: 0 to 2, 1.4 for strangers."""

    def __init__(self, model: SyncExpertModel, name: str, source: str):
        super().__init__()
        self.model, self.name, self.source = model.eval().requires_grad_(False), name, source
        self.figures = f"sync distance/{name}", f"sync confidence/{name}"
        self.side, self.size = model.config.side, model.config.embedding_size
        self.accuracy = model.config.accuracy

    def matrices(self, landmarks: np.ndarray) -> np.ndarray:
        return mouth_matrices(landmarks, self.side)

    def embed_mouth(self, crops: torch.Tensor) -> torch.Tensor:
        grey = crops.float() @ torch.from_numpy(LUMA).to(crops.device)
        return self.model.embed_mouth(grey / 127.5 - 1)

    def embed_sound(self, cepstra: torch.Tensor) -> torch.Tensor:
        return self.model.embed_sound(cepstra.mT.float())


def mouth_matrices(landmarks: np.ndarray, side: int) -> np.ndarray:
    """Matrices `(T, 2, 3)` of the expert's mouth crops, `side` pixels, from landmarks `(T, 468, 2)`, steadied."""
    whole = side / MOUTH_SHARE  # pixels of the whole pose-driven crop
    matrices = smooth_matrices(np.stack([pose_driven_matrix(points, whole) for points in landmarks]))
    matrices[:, :, 2] -= np.array([MOUTH_LEFT, MOUTH_TOP], np.float32) * whole
    return matrices


def load_sync_network(source: str = "expert") -> SyncNetwork:
    """A sync network, frozen.

    Args:
        source: "syncnet:PATH" of safetensors; "expert", the bundled one; or "expert:FOLDER" of train_sync_expert.py.

    Raises:
        InvalidArgumentError: another kind.
        ModelLoadError: no such file or folder, or it holds another network.
    """
    kind, _, path = str(source).partition(":")
    if kind == "syncnet" and path:
        tensors = read_safetensors(path, SYNCNET_NAME)
        with torch.device("meta"):
            network = syncnet.SyncNet()
        load_weights(network, tensors, SYNCNET_NAME, Path(path).expanduser())
        return SyncNetV2(network, fingerprint(Path(path).expanduser()))
    if kind == "expert":
        folder = Path(path).expanduser() if path else EXPERT_FOLDER
        if not (folder / "model.safetensors").is_file() or not (folder / "config.json").is_file():
            raise ModelLoadError(f"{folder} holds no sync expert: train one with training/train_sync_expert.py")
        try:
            model = SyncExpertModel.from_pretrained(folder, dtype=torch.float32)
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise ModelLoadError(f"{folder} holds no sync expert ({error}): train one anew") from error
        name = f"AvatarSync sync expert{f' ({folder.name})' if path else ''}"
        return SyncExpert(model, name, fingerprint(folder / "model.safetensors"))
    raise InvalidArgumentError(f"{source!r} is no sync network: give syncnet:PATH, expert or expert:FOLDER")


def read_sound(path: str | os.PathLike, num_frames: int) -> np.ndarray:
    """Mono sound of `num_frames` frames, `(640 num_frames,)` float32 at 16 kHz; silence where the file is shorter.

    Raises:
        InvalidAudioError: it cannot be read.
    """
    audio, rate = load_audio(path)
    audio = soxr.resample(to_mono(audio), rate, SAMPLING_RATE)[: num_frames * SAMPLES_PER_FRAME]
    return np.pad(audio, (0, num_frames * SAMPLES_PER_FRAME - len(audio))).astype(np.float32)


def offset_distances(seen: torch.Tensor, heard: torch.Tensor) -> torch.Tensor:
    """Mean distances `(31,)` of mouth embeddings `(N, D)` to the sound's, at offsets of -15 … 15 windows.

    At offset o, mouth window i is compared with sound window i + o; windows beyond either end are zeros, as in the
    published code.
    """
    padded = nn.functional.pad(heard, (0, 0, MAX_OFFSET, MAX_OFFSET))
    return torch.stack(
        [nn.functional.pairwise_distance(seen, padded[o : o + len(seen)]).mean() for o in range(2 * MAX_OFFSET + 1)]
    )


def distance_and_confidence(distances: torch.Tensor) -> tuple[float, float, int]:
    """Sync-D, Sync-C and the best offset in frames of mean distances `(31,)`; positive: the sound is late."""
    least, place = distances.min(0)
    return float(least), float(distances.median() - least), int(place) - MAX_OFFSET
