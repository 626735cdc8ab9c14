"""Labelled faces in memory, and random batches of them for the tokenizer."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from avatarsync.data.reenactment import reenact
from avatarsync.expression_transfer import ExpressionTransfer

CLOSED_LIPS = 0.012  # inner-lip gap, of the crop's side, below which a portrait counts as neutral


def split_names(folder: Path, kind: str) -> tuple[list[Path], list[Path]]:
    """(training, held-out) label files: of clips the last 40 by name, of portraits every 25th are held out."""
    files = sorted((folder / kind).glob("*.npz"))
    if kind == "clips":
        return files[:-40], files[-40:]
    return [f for i, f in enumerate(files) if i % 25], files[::25]


@dataclass
class Faces:
    """All frames of some label files: crops `(N, S, S, 3)` uint8, landmarks `(N, 468, 2)` in fractions of S."""

    crops: np.ndarray
    landmarks: torch.Tensor
    starts: np.ndarray  # (files + 1,) first frame of each file

    @classmethod
    def load(cls, files: list[Path]) -> "Faces":
        crops, landmarks = [], []
        for file in files:
            with np.load(file) as data:
                crops.append(data["crops"])
                landmarks.append(data["landmarks"])
        size = crops[0].shape[1]
        starts = np.cumsum([0] + [len(c) for c in crops])
        return cls(np.concatenate(crops), torch.from_numpy(np.concatenate(landmarks) / size).float(), starts)

    def __len__(self) -> int:
        return len(self.crops)

    def pixels(self, index: np.ndarray) -> torch.Tensor:
        """Crops `(B, 3, S, S)` in [0, 255]."""
        return torch.from_numpy(self.crops[index]).permute(0, 3, 1, 2).float()


def jitter_colour(images: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Random gain, offset and tint; `strength` `(B, 5)` standard normal, so that two pictures can share one draw."""
    gain = torch.exp(0.15 * strength[:, :1] + 0.05 * strength[:, 1:4])[:, :, None, None]
    offset = (12 * strength[:, 4])[:, None, None, None]
    return (images * gain + offset).clamp(0, 255)


def jitter_place(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Small random shifts, turns and scalings, as an imperfect alignment makes them."""
    batch = len(images)
    shift = 0.02 * torch.randn(batch, 2, generator=generator)
    angle = 0.04 * torch.randn(batch, generator=generator)
    scale = torch.exp(0.025 * torch.randn(batch, generator=generator))
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    matrix = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


class TokenizerBatches:
    """Endless random batches: pairs of frames of the speaker, and portraits reenacted by the speaker's frames."""

    def __init__(self, clips: Faces, portraits: Faces, batch_size: int, seed: int, portrait_share: float = 0.6):
        self.clips, self.portraits = clips, portraits
        self.batch_size, self.portrait_share = batch_size, portrait_share
        self.random = np.random.default_rng(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.transfer = ExpressionTransfer()
        gap = (clips.landmarks[:, 14, 1] - clips.landmarks[:, 13, 1]).numpy()
        # Open mouths are rarer than closed ones and harder: they are drawn more often.
        weight = 0.1 + np.clip(gap / np.quantile(gap, 0.9), 0, 1.5)
        self.cumulative = np.cumsum(weight / weight.sum())

    def draw_frames(self, count: int) -> np.ndarray:
        return np.minimum(np.searchsorted(self.cumulative, self.random.random(count)), len(self.clips) - 1)

    def __iter__(self):
        while True:
            yield self.batch()

    def batch(self) -> dict[str, torch.Tensor]:
        """Keyword arguments of `VisualTokenizerModel.forward`, and `reference_expression_known` `(B,)`."""
        count = round(self.batch_size * self.portrait_share)
        real = self.batch_size - count
        neutral = self.transfer.neutral
        # Portraits: the label is the portrait with the driver's expression; it or the driver itself is encoded.
        chosen = self.random.integers(len(self.portraits), size=count)
        drivers = self.draw_frames(count)
        portraits, landmarks = self.portraits.pixels(chosen), self.portraits.landmarks[chosen]
        frames, expressions = self.clips.pixels(drivers), self.clips.landmarks[drivers]
        labels, label_landmarks = reenact(portraits, landmarks, frames, expressions, self.transfer)
        encoded = torch.where(torch.from_numpy(self.random.random(count) < 0.5)[:, None, None, None], labels, frames)
        # A third of the references are themselves reenacted: their own expression is then known too.
        use = torch.from_numpy(self.random.random(count) < 0.33)
        other = self.draw_frames(int(use.sum()))
        other_landmarks = self.clips.landmarks[other]
        reference, reference_landmarks = portraits.clone(), landmarks.clone()
        reference_expression = neutral.expand(count, -1, -1).clone()
        reference[use], reference_landmarks[use] = reenact(
            portraits[use], landmarks[use], self.clips.pixels(other), other_landmarks, self.transfer
        )
        reference_expression[use] = other_landmarks
        known = use | (landmarks[:, 14, 1] - landmarks[:, 13, 1] < CLOSED_LIPS)
        # The speaker: any frame is the reference of any other.
        first, second = self.draw_frames(real), self.draw_frames(real)
        real_labels = self.clips.pixels(second)
        encoded = torch.cat([encoded, real_labels])
        labels = torch.cat([labels, real_labels])
        label_landmarks = torch.cat([label_landmarks, self.clips.landmarks[second]])
        expressions = torch.cat([expressions, self.clips.landmarks[second]])
        reference = torch.cat([reference, self.clips.pixels(first)])
        reference_landmarks = torch.cat([reference_landmarks, self.clips.landmarks[first]])
        reference_expression = torch.cat([reference_expression, self.clips.landmarks[first]])
        known = torch.cat([known, torch.ones(real, dtype=torch.bool)])

        def normal(*shape):
            return torch.randn(*shape, generator=self.generator)

        look = normal(self.batch_size, 5)
        encoded = jitter_colour(jitter_place(encoded, self.generator), normal(self.batch_size, 5))
        return {
            "pixel_values": encoded / 127.5 - 1,
            "reference_pixel_values": jitter_colour(reference, look) / 127.5 - 1,
            "reference_landmarks": reference_landmarks + 0.002 * normal(*reference_landmarks.shape),
            "labels": jitter_colour(labels, look) / 127.5 - 1,
            "label_landmarks": label_landmarks,
            "label_expression": expressions,
            "reference_expression": reference_expression,
            "reference_expression_known": known,
            "quantize": torch.rand(self.batch_size, generator=self.generator) < 0.5,
        }
