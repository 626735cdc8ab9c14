"""Random batches for the visual tokenizer: pairs of frames of one speaker, and reenacted portraits."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numbered_batches import NumberedBatches

from avatarsync.data.dataset import Rows
from avatarsync.data.expressions import Expressions
from avatarsync.data.reenactment import ReenactedRows
from avatarsync.errors import DatasetError
from avatarsync.face_mesh import neutral_landmarks

CLOSED_LIPS = 0.012  # inner-lip gap, of the crop's side, below which a portrait counts as neutral
SMILING_LIPS = 0.02  # and above which it shows its teeth
LAMPLIGHT = 0.12  # tint of what the painter sees; with less, a yellow video got a blue patch about the mouth
# As imperfect alignment makes them; more would hide how wide a mouth is.
SHIFT, ANGLE, ZOOM = 0.012, 0.025, 0.012
APART = 0.2  # of these by which two pictures of one video, which are aligned by the same face, differ


def pixels(crops: list[np.ndarray]) -> torch.Tensor:
    """Crops (S, S, 3) uint8 → `(B, 3, S, S)` in [0, 255]."""
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float()


def jitter_colour(images: torch.Tensor, strength: torch.Tensor, tint: float = 0.05) -> torch.Tensor:
    """Random gain, offset and tint; `strength` `(B, 5)` standard normal, so that two pictures can share one draw."""
    gain = torch.exp(0.15 * strength[:, :1] + tint * strength[:, 1:4])[:, :, None, None]
    offset = (12 * strength[:, 4])[:, None, None, None]
    return (images * gain + offset).clamp(0, 255)


def jitter_place(images: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Small shifts, turns and scalings, as an imperfect alignment makes them; `strength` `(B, 4)` standard normal."""
    shift, angle, scale = SHIFT * strength[:, :2], ANGLE * strength[:, 2], torch.exp(ZOOM * strength[:, 3])
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    matrix = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


class Frames:
    """The frames of all clips, drawn so that open mouths come more often: closed ones are common and easy."""

    def __init__(self, rows: Rows, expressions: Expressions):
        self.rows, self.expressions = rows, expressions
        self.starts = np.concatenate([[0], np.cumsum(rows.num_frames)])
        gaps = [rows.landmarks(index)[:, 14, 1] - rows.landmarks(index)[:, 13, 1] for index in range(len(rows))]
        gap = np.concatenate(gaps)
        weight = 0.1 + np.clip(gap / max(np.quantile(gap, 0.9), 1e-6), 0, 1.5)
        self.cumulative = np.cumsum(weight / weight.sum())
        speakers = np.array(rows.speakers)
        self.clips_of = {speaker: np.flatnonzero(speakers == speaker) for speaker in set(rows.speakers)}

    def draw(self, random: np.random.Generator, count: int) -> list[tuple[int, int]]:
        """`count` times (row, frame)."""
        flat = np.minimum(np.searchsorted(self.cumulative, random.random(count)), self.starts[-1] - 1)
        row = np.searchsorted(self.starts, flat, side="right") - 1
        return list(zip(row.tolist(), (flat - self.starts[row]).tolist(), strict=True))

    def draw_partner(self, random: np.random.Generator, row: int) -> tuple[int, int]:
        """Any frame of any clip of the same speaker."""
        partner = int(random.choice(self.clips_of[self.rows.speakers[row]]))
        return partner, int(random.integers(self.rows.num_frames[partner]))

    def crops(self, chosen: list[tuple[int, int]]) -> torch.Tensor:
        return pixels([self.rows.crop(row, frame) for row, frame in chosen])

    def landmarks(self, chosen: list[tuple[int, int]]) -> torch.Tensor:
        return torch.from_numpy(np.stack([self.rows.landmarks(row)[frame] for row, frame in chosen]))

    def expression(self, chosen: list[tuple[int, int]], landmarks: torch.Tensor) -> torch.Tensor:
        return self.expressions(landmarks, [self.rows.speakers[row] for row, _ in chosen])


class TokenizerBatches(NumberedBatches):
    """Pairs of frames of a speaker, and portraits with their reenactments.

    Args:
        clips, portraits, reenacted: rows of one split; the latter two may be None with `portrait_share` 0.
        portrait_share: share of a batch that are portraits.
        quantize_share: share of a batch that is decoded from discrete codes.
        smile_share: share of the portraits that, where they smile with open lips, are themselves the label of a
            reenactment with closed ones: real teeth, sharp and in their own light, of a face that hid them.
        own_share: share of the other portraits whose own picture is encoded, and not the driver's.
        place_jitter: how imperfectly what is encoded is aligned; 1 is as bad as it gets.
    """

    def __init__(
        self,
        clips: Rows,
        portraits: Rows | None,
        reenacted: ReenactedRows | None,
        batch_size: int,
        seed: int,
        portrait_share: float = 0.6,
        quantize_share: float = 0.5,
        smile_share: float = 0.0,
        own_share: float = 0.35,
        place_jitter: float = 1.0,
    ):
        super().__init__(seed)
        self.own_share, self.place_jitter = own_share, place_jitter
        self.frames = Frames(clips, Expressions.of_rows(clips))
        self.batch_size, self.quantize_share, self.smile_share = batch_size, quantize_share, smile_share
        self.count = round(batch_size * portrait_share)
        if self.count and (portraits is None or reenacted is None):
            raise DatasetError(
                "the dataset has no reenacted portraits: make them with reenact_portraits.py, or --portrait_share 0"
            )
        if self.count:
            self.portraits, self.reenacted = portraits, reenacted
            index = {name: number for number, name in enumerate(portraits.ids)}
            self.portrait_of = np.array([index[name] for name in reenacted.portraits])
            self.of_portrait = {number: np.flatnonzero(self.portrait_of == number) for number in set(self.portrait_of)}
            drivers = {name: number for number, name in enumerate(clips.ids)}
            self.driver_of = [
                (drivers[name], int(frame))
                for name, frame in zip(reenacted.drivers, reenacted.driver_frames, strict=True)
            ]
            self.closed_smiles = self.find_closed_smiles() if smile_share else []

    def find_closed_smiles(self) -> list[tuple[int, np.ndarray]]:
        """Portraits that show their teeth, and their reenactments with closed lips."""

        def gap(landmarks: np.ndarray) -> float:
            return landmarks[14, 1] - landmarks[13, 1]

        closed = np.array([gap(self.reenacted.landmarks(index)) < CLOSED_LIPS for index in range(len(self.driver_of))])
        found = []
        for portrait, of_portrait in self.of_portrait.items():
            of_portrait = of_portrait[closed[of_portrait]]
            if len(of_portrait) and gap(self.portraits.landmarks(portrait)[0]) > SMILING_LIPS:
                found.append((portrait, of_portrait))
        return found

    def make(self, random: np.random.Generator, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Keyword arguments of `VisualTokenizerModel.forward`, and `reference_expression`: `(B, 468, 2)`, where
        `reference_expression_known` `(B,)`; `compared` `(B,)`: beside that reference lies what is encoded; `portrait`
        `(B,)`: no frame of a video."""
        parts = [self.speakers(random, self.batch_size - self.count)] if self.count < self.batch_size else []
        smiles = round(self.count * self.smile_share) if self.count and self.closed_smiles else 0
        if smiles:
            parts.append(self.smiles(random, smiles))
        if self.count > smiles:
            parts.append(self.reenactments(random, self.count - smiles))
        batch = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

        def normal(*shape):
            return torch.randn(*shape, generator=generator)

        look = normal(self.batch_size, 5)

        place = normal(self.batch_size, 4)

        def seen(images: torch.Tensor) -> torch.Tensor:
            placed = jitter_place(images, self.place_jitter * (place + APART * normal(self.batch_size, 4)))
            return jitter_colour(placed, normal(self.batch_size, 5)) / 127.5 - 1

        noise = 0.002 * normal(*batch["reference_landmarks"].shape)
        return batch | {
            "pixel_values": seen(batch["pixel_values"]),
            "own_reference_pixel_values": seen(batch["own_reference_pixel_values"]),
            "reference_pixel_values": jitter_colour(batch["reference_pixel_values"], look, LAMPLIGHT) / 127.5 - 1,
            "reference_landmarks": batch["reference_landmarks"] + noise,
            "labels": jitter_colour(batch["labels"], look, LAMPLIGHT) / 127.5 - 1,
            "quantize": torch.rand(self.batch_size, generator=generator) < self.quantize_share,
        }

    def speakers(self, random: np.random.Generator, count: int) -> dict[str, torch.Tensor]:
        """Any frame is the reference of any other of the same person."""
        chosen = self.frames.draw(random, count)
        partners = [self.frames.draw_partner(random, row) for row, _ in chosen]
        labels, landmarks = self.frames.crops(chosen), self.frames.landmarks(chosen)
        reference_landmarks = self.frames.landmarks(partners)
        references = self.frames.crops(partners)
        return {
            "pixel_values": labels,
            "own_reference_pixel_values": references,
            "labels": labels,
            "label_landmarks": landmarks,
            "label_expression": self.frames.expression(chosen, landmarks),
            "reference_pixel_values": references,
            "reference_landmarks": reference_landmarks,
            "reference_expression": self.frames.expression(partners, reference_landmarks),
            "reference_expression_known": torch.ones(count, dtype=torch.bool),
            "compared": torch.ones(count, dtype=torch.bool),
            "portrait": torch.zeros(count, dtype=torch.bool),
        }

    def reenactments(self, random: np.random.Generator, count: int) -> dict[str, torch.Tensor]:
        """The label is the portrait with a driver's expression; it, or more often the driver, is what is encoded."""
        chosen = random.integers(len(self.driver_of), size=count)
        labels = pixels([self.reenacted.crop(index) for index in chosen])
        drivers = self.frames.crops([self.driver_of[index] for index in chosen])
        own = torch.from_numpy(random.random(count) < self.own_share)[:, None, None, None]
        references, landmarks, expressions, known = [], [], [], []
        for index in chosen:
            portrait = int(self.portrait_of[index])
            # A third of the references are themselves reenacted: their own expression is then known too.
            if random.random() < 0.33:
                other = int(random.choice(self.of_portrait[portrait]))
                references.append(self.reenacted.crop(other))
                landmarks.append(self.reenacted.landmarks(other))
                expressions.append(self.reenacted.expression(other))
                known.append(True)
            else:
                references.append(self.portraits.crop(portrait, 0))
                landmarks.append(self.portraits.landmarks(portrait)[0])
                expressions.append(neutral_landmarks().numpy())
                known.append(landmarks[-1][14, 1] - landmarks[-1][13, 1] < CLOSED_LIPS)
        references = pixels(references)
        return {
            "pixel_values": torch.where(own, labels, drivers),
            "own_reference_pixel_values": torch.where(own, references, drivers),
            "labels": labels,
            "label_landmarks": torch.from_numpy(np.stack([self.reenacted.landmarks(i) for i in chosen])),
            "label_expression": torch.from_numpy(np.stack([self.reenacted.expression(i) for i in chosen])),
            "reference_pixel_values": references,
            "reference_landmarks": torch.from_numpy(np.stack(landmarks)),
            "reference_expression": torch.from_numpy(np.stack(expressions)),
            "reference_expression_known": torch.tensor(np.array(known, bool)),
            "compared": own.flatten(),
            "portrait": torch.ones(count, dtype=torch.bool),
        }

    def smiles(self, random: np.random.Generator, count: int) -> dict[str, torch.Tensor]:
        """The label is a portrait that shows its teeth, its reference the same face with closed lips."""
        chosen = [self.closed_smiles[index] for index in random.integers(len(self.closed_smiles), size=count)]
        references = [int(random.choice(closed)) for _, closed in chosen]
        labels = pixels([self.portraits.crop(portrait, 0) for portrait, _ in chosen])
        unknown = torch.zeros(count, dtype=torch.bool)
        reference_pixels = pixels([self.reenacted.crop(index) for index in references])
        return {
            "pixel_values": labels,
            "own_reference_pixel_values": reference_pixels,
            "labels": labels,
            "label_landmarks": torch.from_numpy(np.stack([self.portraits.landmarks(row)[0] for row, _ in chosen])),
            # Nobody knows a smile's expression on the neutral face: only the painter can learn from these.
            "label_expression": neutral_landmarks().expand(count, -1, -1).clone(),
            "reference_pixel_values": reference_pixels,
            "reference_landmarks": torch.from_numpy(np.stack([self.reenacted.landmarks(i) for i in references])),
            "reference_expression": torch.from_numpy(np.stack([self.reenacted.expression(i) for i in references])),
            "reference_expression_known": unknown,
            "compared": ~unknown,
            "portrait": ~unknown,
        }


def load_rows(data, split: str, folder: Path) -> tuple[Rows, Rows | None, ReenactedRows | None]:
    """Clips, portraits and reenacted portraits of a split; None for what the dataset does not have."""
    if data.clips is None:
        raise DatasetError(f"{folder} has no clips: prepare some with prepare_data.py --videos")
    portraits = None if data.portraits is None else Rows(data.portraits[split])
    reenacted = ReenactedRows.load(folder, split) if (folder / "reenacted").exists() else None
    return Rows(data.clips[split]), portraits, reenacted
