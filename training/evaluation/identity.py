"""Is it still the same person? Cosines of face embeddings."""

import numpy as np
import torch

from avatarsync.errors import MissingDependencyError
from avatarsync.identity import load_face_embedding


class Identity:
    """A face embedding for frames.

    Raises:
        AvatarSyncError: see `load_face_embedding`.
    """

    def __init__(self, source: str):
        self._network = load_face_embedding(source).eval()
        self.name = f"{self._network.name}, {self._network.source}"

    @torch.inference_mode()
    def embed(self, frames: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """Unit vectors `(N, D)` of `frames` `(N, H, W, 3) uint8` with `landmarks` `(N, 468, 2)` in pixels."""
        height, width = frames.shape[1:3]
        pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1
        return self._network(pixels, torch.from_numpy(landmarks / (width, height)).float()).numpy()


def open_identity(source: str) -> Identity | None:
    """The embedding, or None where the package that holds its weights is not installed."""
    try:
        return Identity(source)
    except MissingDependencyError:
        return None
