"""Identity similarity score, ISS (Table 3): how far the person in generated frames is from the one in real frames."""

import numpy as np
import torch
from datasets import Array2D, Image

from avatarsync.identity import FaceEmbedding, load_face_embedding
from avatarsync.metrics.modules.streaming import (
    StreamingMetric,
    check_frame_pairs,
    check_landmarks,
    chunks,
    to_pixels,
    zeros,
)


class ISS(StreamingMetric):
    """Cosine distance of face embeddings, 1 - cos, mean over frames; {"ISS/<network>": 0 for the same face}.

    Args:
        network: what `load_face_embedding` takes ("dlib", "arcface:PATH", "facenet:PATH", "facenet512:PATH",
            "vgg-face:PATH": the four of Table 3 and the one that needs no file), or a loaded `FaceEmbedding`.
        batch_size: frames that the network sees at a time.
        device: where it runs.

    Raises:
        AvatarSyncError: see `load_face_embedding`.
    """

    description = __doc__.split(";")[0]
    inputs = (
        "predictions, references: frames (B, H, W, 3) uint8; prediction_landmarks, reference_landmarks: (B, 468, 2) "
        "in their pixels, or None where the frames are pose-driven crops."
    )
    features_of_batch = {
        "predictions": Image(),
        "references": Image(),
        "prediction_landmarks": Array2D((468, 2), "float32"),
        "reference_landmarks": Array2D((468, 2), "float32"),
    }

    def __init__(
        self,
        *args,
        network: str | FaceEmbedding = "dlib",
        batch_size: int = 8,
        device: str | torch.device = "cpu",
        **kwargs,
    ):
        network = network if isinstance(network, FaceEmbedding) else load_face_embedding(network)
        self.network, self.batch_size, self.device = network.eval().to(device), batch_size, device
        super().__init__(*args, **kwargs)

    def empty_state(self):
        return {"distance": zeros(), "frames": zeros()}

    @torch.inference_mode()
    def _embed(self, frames: np.ndarray, landmarks: np.ndarray | None) -> torch.Tensor:
        if landmarks is not None:
            height, width = frames.shape[1:3]
            landmarks = torch.from_numpy(landmarks / (width, height)).float().to(self.device)
        return self.network(to_pixels(frames).to(self.device), landmarks).double().cpu()

    def update(self, predictions, references, prediction_landmarks=None, reference_landmarks=None):
        predictions, references = check_frame_pairs(predictions, references)
        sides = []
        for frames, landmarks, name in (
            (predictions, prediction_landmarks, "prediction_landmarks"),
            (references, reference_landmarks, "reference_landmarks"),
        ):
            sides.append((frames, None if landmarks is None else check_landmarks(landmarks, name, len(frames))))
        for part in chunks(len(predictions), self.batch_size):
            first, second = (
                self._embed(frames[part], None if points is None else points[part]) for frames, points in sides
            )
            self.state["distance"] += (1 - (first * second).sum(-1)).sum()
        self.state["frames"] += len(predictions)

    def result(self):
        return {f"ISS/{self.network.name}": float(self.state["distance"] / self.state["frames"])}
