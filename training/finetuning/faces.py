"""All frames of a person in memory, the references that are kept of them, and the painter's batches."""

from dataclasses import dataclass

import numpy as np
import torch
from motion_data import stillest
from numbered_batches import NumberedBatches
from tokenizer_data import jitter_colour

from avatarsync import FaceAlignerModel
from avatarsync.adapters import PersonReferences
from avatarsync.data.dataset import Rows
from avatarsync.data.expressions import resting_face, to_neutral
from avatarsync.errors import DatasetError, FaceNotFoundError, FaceTooSmallError, InvalidImageError
from avatarsync.image_processing_face import pose_driven_matrix, transform_points
from avatarsync.modeling_visual_tokenizer import VisualTokenizerModel

ENCODE_BATCH = 64
NUM_REFERENCES = 4
LANDMARK_NOISE = 0.002  # as `tokenizer_data` has it
OPEN_QUANTILE = 0.9


@dataclass
class Faces:
    """N frames; `clips` says which row each is of.

    Attributes:
        pixels: `(N, 3, S, S)` uint8.
        landmarks: `(N, 468, 2)` in fractions of S.
        expressions: `(N, 468, 2)` on the neutral face.
        codes: `(N, K, D)` continuous, by the base's encoder, which sees each frame beside the resting face.
        clips: `(N,)`.
    """

    pixels: torch.Tensor
    landmarks: torch.Tensor
    expressions: torch.Tensor
    codes: torch.Tensor
    clips: torch.Tensor

    @property
    def gaps(self) -> torch.Tensor:
        """Inner-lip gap `(N,)`."""
        return self.landmarks[:, 14, 1] - self.landmarks[:, 13, 1]

    def __len__(self) -> int:
        return len(self.pixels)


def load_faces(
    rows: Rows, resting: torch.Tensor, tokenizer: VisualTokenizerModel, beside: torch.Tensor | None = None
) -> Faces:
    """All frames of `rows` under a resting face `(468, 2)`.

    Args:
        beside: `(3, S, S)` uint8, the person at rest, for the encoder; None: the stillest of these frames.
    """
    crops = [rows.crop(row, frame) for row in range(len(rows)) for frame in range(rows.num_frames[row])]
    pixels = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous()
    landmarks = torch.from_numpy(rows.all_landmarks().copy())
    if beside is None:
        beside = pixels[stillest(landmarks, resting)]
    codes = [encode_beside(tokenizer, part, beside[None]) for part in pixels.split(ENCODE_BATCH)]
    expressions = to_neutral(landmarks, resting.expand(len(landmarks), -1, -1))
    clips = torch.from_numpy(np.repeat(np.arange(len(rows)), rows.num_frames))
    return Faces(pixels, landmarks, expressions, torch.cat(codes), clips)


@torch.no_grad()
def encode_beside(tokenizer: VisualTokenizerModel, pixels: torch.Tensor, beside: torch.Tensor) -> torch.Tensor:
    """Continuous codes `(B, K, D)` of frames `(B, 3, S, S)` uint8 beside one picture `(1, 3, S, S)` of the person."""
    frames, other = (part.to(tokenizer.device) / 127.5 - 1 for part in (pixels, beside.expand_as(pixels)))
    return tokenizer.encode(frames, other).float().cpu()


def resting_face_by(aligner: FaceAlignerModel, rows: Rows, crop_size: int) -> torch.Tensor:
    """Resting face `(468, 2)` as an aligner sees it: portraits will be looked at with its eyes."""
    found = []
    for row in range(len(rows)):
        for number in range(len(rows.picture_landmarks(row))):
            try:
                landmarks = aligner.align(rows.picture(row, number), face_index=0).landmarks
            except (FaceNotFoundError, FaceTooSmallError, InvalidImageError):
                continue
            matrix = pose_driven_matrix(landmarks, crop_size)
            found.append(transform_points(landmarks, matrix) / crop_size)
    if not found:
        raise DatasetError("the base's face aligner finds no face in the footage: film it from the front")
    return resting_face(np.stack(found).astype(np.float32))


def choose_references(faces: Faces, resting: torch.Tensor, digest: str, base: str) -> PersonReferences:
    """The references of a person with a resting face `(468, 2)`.

    The first is the frame nearest to the resting face, the others are as unlike it and each other as can be.
    """
    chosen = [stillest(faces.landmarks, resting)]
    for _ in range(min(NUM_REFERENCES, len(faces)) - 1):
        distances = [(faces.expressions - faces.expressions[index]).abs().mean((1, 2)) for index in chosen]
        chosen.append(int(torch.stack(distances).amin(0).argmax()))
    return PersonReferences(faces.pixels[chosen], faces.landmarks[chosen], resting, digest, base)


class LookBatches(NumberedBatches):
    """Pairs of two frames of the person: the reference is to become the label. Open mouths come more often."""

    def __init__(self, faces: Faces, batch_size: int, seed: int):
        super().__init__(seed)
        self.faces, self.batch_size = faces, batch_size
        gaps = faces.gaps.clamp_min(0)
        weight = 0.1 + (gaps / gaps.quantile(OPEN_QUANTILE).clamp_min(1e-6)).clamp(0, 1.5)
        self.weight = (weight / weight.sum()).double().numpy()
        self.weight /= self.weight.sum()

    def make(self, random: np.random.Generator, generator: torch.Generator) -> dict[str, torch.Tensor]:
        faces, count = self.faces, self.batch_size
        chosen = torch.from_numpy(random.choice(len(faces), count, p=self.weight))
        partners = torch.from_numpy(random.integers(len(faces), size=count))
        look = torch.randn(count, 5, generator=generator)
        noise = LANDMARK_NOISE * torch.randn(count, 468, 2, generator=generator)
        return {
            "codes": faces.codes[chosen],
            "quantize": torch.rand(count, generator=generator) < 0.5,
            "labels": jitter_colour(faces.pixels[chosen].float(), look) / 127.5 - 1,
            "reference_pixel_values": jitter_colour(faces.pixels[partners].float(), look) / 127.5 - 1,
            "reference_landmarks": faces.landmarks[partners] + noise,
            "reference_codes": faces.codes[partners],
            "reference_expression": faces.expressions[partners],
        }
