"""Reenactment: a still portrait takes over the expression of a frame of a talking video.

Clean talking video of many people is rare, portraits are not. A portrait and a driver frame make a training picture
whose expression is known exactly: the portrait is warped by the transferred landmarks. Inside the opened mouth the
portrait's own teeth stay where they are, as upper teeth do; the rest is drawn (`mouth_interior.py`), or comes from the
driver, matched in colour, or from another portrait that smiles. Drawn or from portraits, nothing of the drivers but
their landmarks is in the pictures.

`ReenactPortraits` is the transform for `datasets.Dataset.map`; `training/reenact_portraits.py` caches what it makes in
DATASET/reenacted, which `ReenactedRows` reads.
"""

import hashlib
import os
from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ..errors import DatasetError
from ..expression_transfer import ExpressionTransfer
from ..image_processing_face import NOSE_TIP, NUM_LANDMARKS, pose_driven_matrix, warp_image
from ..lip_edges import darken, lip_line, well_inside
from ..mouth_interior import MouthInterior, sample
from ..teeth_colour import shaded, skin_colour
from ..warping import mesh_flow, soften, warp
from .dataset import SPLITS, Rows, encode_image
from .expressions import Expressions

EDGE_SOFTNESS = 0.006  # of the crop's side
# The driver's mouth is filmed at few pixels and compressed; without more contrast its teeth are a grey smear.
INTERIOR_CONTRAST = 1.35
# Mean colour of skin over its brightness, of official portraits: what differs from it is a colour cast.
SKIN_CHROMA = (1.207, 0.941, 0.852)
TEETH_GREYNESS = 0.6
# Teeth in portraits are 1.14 times as bright as skin, the driver's 0.78 times: video lights mouths badly.
TEETH_BRIGHTENING = 0.4
# Lips shade what is behind them by so much: its rim, within so much of the crop's side, and all of a mouth that is
# hardly open. Without this, brightened teeth lay flat between the lips, and a mouth ajar was a grey smear.
LIP_SHADE, SHADE_REACH = 0.45, 0.012
# What a wide picture shows beyond the crop on every side, of the crop's side: all of the head, for the face aligner.
WIDE_MARGIN = 3 / 8
WIDE_QUALITY = 92  # of its JPEG
# Frames with closed lips are common and easy: how often they are drawn, relative to those at the 90th percentile.
CLOSED_WEIGHT = 0.2
# Inner-lip gap of a donor, of the crop's side: the most open mouths of portraits, which smile with their teeth.
DONOR_GAP = 0.035
# Portraits that reenactment would spoil. The far half of a turned face has too few pixels to be opened ...
MAX_TURN = 0.075  # of the nose tip from the middle of the crop, in crop sides
# ... and a face enlarged into its crop is blurred.
MAX_ENLARGEMENT = 1.6

MOUTHS = ("drawn", "drivers", "portraits")  # what is inside open lips

REENACTED_FEATURES = datasets.Features(
    {
        "portrait": datasets.Value("string"),
        "driver": datasets.Value("string"),
        "driver_frame": datasets.Value("int32"),
        "crop": datasets.Image(),
        "landmarks": datasets.List(datasets.Value("float32"), length=2 * NUM_LANDMARKS),
        "expression": datasets.List(datasets.Value("float32"), length=2 * NUM_LANDMARKS),
        "wide": datasets.Image(),
    }
)


def lit_like(
    interior: torch.Tensor, mouth: torch.Tensor, own: torch.Tensor, other: torch.Tensor, filmed: bool = True
) -> torch.Tensor:
    """The driver's open mouth `(B, 3, H, W)` in the portrait's light.

    Args:
        mouth: `(B, 1, H, W)`, 1 inside.
        own, other: skin colours `(B, 3)` of portrait and driver.
        filmed: whether the driver is a frame of a video, whose mouth is dull, and not a portrait.
    """
    own_level, other_level = own.mean(1, keepdim=True), other.mean(1, keepdim=True)
    # Most of the driver's colour cast goes: skin shows more of it than teeth do. The portrait's light is followed, but
    # not its complexion: teeth are no darker in a darker face.
    light = (own_level / other_level).clamp(0.75, 1.3)
    cast = (torch.tensor(SKIN_CHROMA, device=own.device) * other_level / other) ** 0.7
    interior = interior * (light * cast)[:, :, None, None]
    if not filmed:
        return interior
    grey = interior.mean(1, keepdim=True)
    # At least 1, for a driver whose lips are closed: nothing is inside.
    level = ((grey * mouth).sum((2, 3), keepdim=True) / mouth.sum((2, 3), keepdim=True).clamp_min(1)).clamp_min(1)
    # Teeth are what is bright in a mouth, and teeth are nearly grey.
    bright = ((grey - 0.8 * level) / (0.5 * level)).clamp(0, 1)
    colour = (interior - grey) * (1 - TEETH_GREYNESS * bright)
    grey = level + INTERIOR_CONTRAST * (grey - level)
    return grey * (1 + TEETH_BRIGHTENING * bright) + colour


def light_behind_lips(mouth: torch.Tensor, size: int) -> torch.Tensor:
    """What lips leave of the light `(B, 1, H, W)` in mouths `(B, 1, H, W)`, 1 inside, of crops of `size` pixels."""
    deep_inside = (2 * soften(mouth, SHADE_REACH * size) - 1).clamp_min(0)
    return 1 - LIP_SHADE * (1 - deep_inside)


def reenact(
    portraits: torch.Tensor,
    portrait_landmarks: torch.Tensor,
    drivers: torch.Tensor | None,
    driver_landmarks: torch.Tensor,
    transfer: ExpressionTransfer,
    driver_expressions: torch.Tensor | None = None,
    margin: int = 0,
    filmed: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give each portrait its driver's expression.

    Args:
        portraits, drivers: crops `(B, 3, S + 2·margin, S + 2·margin)` in [0, 255]; without drivers, what is inside the
            mouths is drawn, and their landmarks are asked for their expressions alone.
        portrait_landmarks, driver_landmarks: `(B, 468, 2)` in fractions of S.
        driver_expressions: the drivers' expressions `(B, 468, 2)` on the neutral face; None where the driver is the
            speaker of the neutral face, whose landmarks are their own expression.
        margin: pixels by which the pictures reach beyond the pose-driven crop of S on every side.
        filmed: see `lit_like`.

    Returns:
        Pictures `(B, 3, S + 2·margin, S + 2·margin)` in [0, 255] and their landmarks `(B, 468, 2)`.
    """
    side = portraits.shape[-1]
    size = side - 2 * margin
    neutral = transfer.neutral.expand_as(portrait_landmarks)
    expressions = driver_landmarks if driver_expressions is None else driver_expressions
    target = transfer(portrait_landmarks, expressions, neutral)
    before, after, driving = (points * size + margin for points in (portrait_landmarks, target, driver_landmarks))
    flow, mouth = mesh_flow(before, after, side)
    pictures = warp(portraits, flow, mode="bicubic")
    if drivers is None:
        drawn = MouthInterior(portraits, before, size, foretold=False)
        cells = torch.arange(side, device=before.device, dtype=before.dtype)
        places = torch.stack(torch.meshgrid(cells, cells, indexing="xy"), -1)[None].expand(len(before), -1, -1, -1)
        interior = drawn.draw(places, after, pixel=1.0)
        for where, share, light in drawn.kept(places, after):
            interior = torch.lerp(interior, shaded(sample(portraits, where), light), share)
    else:
        mouth_flow, _ = mesh_flow(driving, after, side)
        interior = warp(drivers, mouth_flow, mode="bicubic")
        own, other = skin_colour(portraits, before) + 1, skin_colour(drivers, driving) + 1
        interior = lit_like(interior, mouth, own, other, filmed)
        if filmed:
            interior = interior * light_behind_lips(mouth, size)
        _, own_mouth = mesh_flow(before, before, side)
        interior = torch.lerp(interior.clamp(0, 255), portraits, well_inside(own_mouth, size))
    opacity = soften(mouth, EDGE_SOFTNESS * size)
    pictures = pictures * (1 - opacity) + interior * opacity
    line = F.pad(lip_line(portrait_landmarks, target, size), (margin,) * 4)
    pictures = darken(pictures, line, 0.0)
    return pictures.clamp(0, 255), target


class DriverFrames:
    """Draws driver frames for portraits, open mouths more often; (seed, portrait, number) determines the frame.

    Args:
        clips: rows of the drivers.
        seed: another one draws other frames.
    """

    def __init__(self, clips: Rows, seed: int):
        self.clips, self.seed = clips, seed
        self.ends = np.cumsum(clips.num_frames)
        landmarks = clips.all_landmarks()
        gap = landmarks[:, 14, 1] - landmarks[:, 13, 1]
        weight = CLOSED_WEIGHT + np.clip(gap / max(np.quantile(gap, 0.9), 1e-6), 0, 1.5)
        self.cumulative = np.cumsum(weight / weight.sum())

    def draw(self, portrait: str, number: int) -> tuple[str, int]:
        """Clip id and frame of the number-th picture of the portrait with this id."""
        key = int.from_bytes(hashlib.sha256(portrait.encode()).digest()[:8], "little")
        share = np.random.default_rng((self.seed, key, number)).random()
        frame = min(int(np.searchsorted(self.cumulative, share, side="right")), int(self.ends[-1]) - 1)
        row = int(np.searchsorted(self.ends, frame, side="right"))
        return self.clips.ids[row], frame - int(self.ends[row] - self.clips.num_frames[row])


class ReenactPortraits:
    """The data transform: {"portrait", "driver", "driver_frame"} → `REENACTED_FEATURES`.

        pairs = datasets.Dataset.from_dict({"portrait": [...], "driver": [...], "driver_frame": [...]})
        pairs.map(ReenactPortraits(portraits, clips), batched=True, batch_size=16, features=REENACTED_FEATURES)

    `wide` shows the crop with `WIDE_MARGIN` around it: the margin comes from the portrait's whole picture.

    Args:
        portraits, clips: rows of one split, with pose-driven crops of one size.
        mouths: what is seen inside open lips: what is "drawn", the "drivers'" mouths, or those of donors, "portraits".

    Raises:
        DatasetError: there are to be donors, and no portrait smiles with its teeth.
    """

    def __init__(self, portraits: Rows, clips: Rows, mouths: str = "drawn"):
        self.portraits, self.clips, self.mouths = portraits, clips, mouths
        self.donors = find_donors(portraits) if mouths == "portraits" else None
        self.portrait_rows = {name: row for row, name in enumerate(portraits.ids)}
        self.clip_rows = {name: row for row, name in enumerate(clips.ids)}
        self.expressions = Expressions.of_rows(clips)
        self.transfer = ExpressionTransfer()

    @torch.inference_mode()
    def __call__(self, batch: dict[str, list]) -> dict[str, list]:
        portraits = [self.portrait_rows[name] for name in batch["portrait"]]
        wide = {row: self.wide_portrait(row) for row in set(portraits)}
        landmarks = torch.from_numpy(np.stack([self.portraits.landmarks(row)[0] for row in portraits]))
        drivers = [(self.clip_rows[n], t) for n, t in zip(batch["driver"], batch["driver_frame"], strict=True)]
        driver_landmarks = torch.from_numpy(np.stack([self.clips.landmarks(row)[frame] for row, frame in drivers]))
        speakers = [self.clips.speakers[row] for row, _ in drivers]
        expressions = self.expressions(driver_landmarks, speakers)
        frames, margin = None, wide_margin(len(self.portraits.crop(portraits[0], 0)))
        if self.mouths == "drivers":
            frames = _padded([self.clips.crop(row, frame) for row, frame in drivers])
        elif self.donors is not None:
            # Of every picture another: nobody knows what is behind closed lips.
            keys = [f"{name} {number}" for name, number in zip(batch["portrait"], batch["driver_frame"], strict=True)]
            frames, driver_landmarks = self.smiles(keys)
        pictures, targets = reenact(
            _tensor([wide[row] for row in portraits]),
            landmarks,
            frames,
            driver_landmarks,
            self.transfer,
            expressions,
            margin,
            filmed=self.donors is None,
        )
        pictures = pictures.round().byte().permute(0, 2, 3, 1).numpy()
        inside = slice(margin, pictures.shape[1] - margin)
        return {name: list(batch[name]) for name in ("portrait", "driver", "driver_frame")} | {
            "crop": [encode_image(picture[inside, inside]) for picture in pictures],
            "landmarks": list(targets.flatten(1).numpy()),
            "expression": list(expressions.flatten(1).numpy()),
            "wide": [encode_image(picture, WIDE_QUALITY) for picture in pictures],
        }

    def smiles(self, keys: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """For each key one of the donors, with a margin, and its landmarks in fractions of the crop."""
        digests = (hashlib.sha256(key.encode()).digest()[:8] for key in keys)
        chosen = [int(self.donors[int.from_bytes(digest, "little") % len(self.donors)]) for digest in digests]
        crops = _padded([self.portraits.crop(row, 0) for row in chosen])
        return crops, torch.from_numpy(np.stack([self.portraits.landmarks(row)[0] for row in chosen]))

    def wide_portrait(self, row: int) -> np.ndarray:
        """A portrait's crop amid its surroundings, `(S + 2·margin, S + 2·margin, 3) uint8`."""
        crop = self.portraits.crop(row, 0)
        size = len(crop)
        margin = wide_margin(size)
        points = self.portraits.picture_landmarks(row)
        if not len(points):
            raise DatasetError(
                f"portrait {self.portraits.ids[row]} comes without its whole picture: make the dataset again"
            )
        matrix = pose_driven_matrix(points[0], size)
        matrix[:, 2] += margin
        wide = warp_image(self.portraits.picture(row, 0), matrix, size + 2 * margin)
        # The crop was cut from the source at its full size, whole pictures are kept smaller.
        wide[margin:-margin, margin:-margin] = crop
        return wide


def find_donors(portraits: Rows) -> np.ndarray:
    """Rows of the portraits that can lend others their open mouth."""
    gaps = np.array([np.diff(portraits.landmarks(row)[0, [13, 14], 1])[0] for row in range(len(portraits))])
    donors = np.flatnonzero(gaps > DONOR_GAP)
    if len(donors) == 0:
        raise DatasetError(
            "no portrait smiles with open lips and could lend its mouth: add some, or take the drivers'"
        )
    return donors


def wide_margin(size: int) -> int:
    """Pixels that a wide picture shows beyond a crop of `size` pixels on every side."""
    return round(WIDE_MARGIN * size)


def doubts(landmarks: np.ndarray, matrix: np.ndarray) -> str | None:
    """Why a portrait should not be reenacted, or None.

    Args:
        landmarks: `(468, 2)` in fractions of the crop's side.
        matrix: `(2, 3)`, source picture → crop.
    """
    if abs(landmarks[NOSE_TIP, 0] - 0.5) > MAX_TURN:
        return "turned too far"
    if np.sqrt(abs(np.linalg.det(matrix[:, :2]))) > MAX_ENLARGEMENT:
        return "face too small"
    return None


def _tensor(pictures: list[np.ndarray]) -> torch.Tensor:
    """Pictures (H, W, 3) uint8 → `(B, 3, H, W)` in [0, 255]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()


def _padded(crops: list[np.ndarray]) -> torch.Tensor:
    """Crops (S, S, 3) uint8 → `(B, 3, S + 2·margin, S + 2·margin)` in [0, 255]."""
    return F.pad(_tensor(crops), (wide_margin(len(crops[0])),) * 4, mode="replicate")


class ReenactedRows:
    """Random access to one split of DATASET/reenacted, picture by picture; it can be pickled.

    Attributes:
        portraits, drivers: ids of the portrait and of the clip of each of the N rows.
        driver_frames: the clip's frame.
    """

    def __init__(self, dataset: datasets.Dataset):
        self._dataset = dataset if dataset._indices is None else dataset.flatten_indices()
        self._open()

    @classmethod
    def load(cls, folder: str | os.PathLike, split: str) -> "ReenactedRows":
        """The reenacted portraits of the dataset in `folder`.

        Raises:
            DatasetError: there are none, or they are damaged, or the split is empty.
        """
        place = Path(folder) / "reenacted"
        advice = f"make them with training/reenact_portraits.py --data {folder}"
        if not place.is_dir():
            raise DatasetError(f"{folder} has no reenacted portraits: {advice}")
        try:
            splits = datasets.load_from_disk(str(place))
        except (OSError, ValueError, KeyError) as error:
            raise DatasetError(f"{place} cannot be read ({error}): delete it and {advice}") from error
        if not isinstance(splits, datasets.DatasetDict) or set(splits) != set(SPLITS):
            raise DatasetError(f"{place} lacks the splits {' and '.join(SPLITS)}: delete it and {advice}")
        if splits[split].features != REENACTED_FEATURES:
            raise DatasetError(f"the columns of {place} are not those of this version: delete it and {advice}")
        return cls(splits[split])

    def _open(self) -> None:
        self._table = self._dataset.data.table
        self.portraits: list[str] = self._table.column("portrait").to_pylist()
        self.drivers: list[str] = self._table.column("driver").to_pylist()
        self.driver_frames: list[int] = self._table.column("driver_frame").to_pylist()

    def __getstate__(self) -> dict:
        return {"dataset": self._dataset}

    def __setstate__(self, state: dict) -> None:
        self._dataset = state["dataset"]
        self._open()

    def __len__(self) -> int:
        return len(self._table)

    def _picture(self, name: str, index: int) -> np.ndarray:
        with Image.open(BytesIO(self._table.column(name)[int(index)]["bytes"].as_buffer())) as picture:
            return np.array(picture)

    def _points(self, name: str, index: int) -> np.ndarray:
        return self._table.column(name)[int(index)].values.to_numpy().reshape(NUM_LANDMARKS, 2)

    def crop(self, index: int) -> np.ndarray:
        """Reenacted crop `(S, S, 3) uint8`."""
        return self._picture("crop", index)

    def landmarks(self, index: int) -> np.ndarray:
        """Its landmarks `(468, 2)` float32 in fractions of S; read-only."""
        return self._points("landmarks", index)

    def expression(self, index: int) -> np.ndarray:
        """The driver's expression `(468, 2)` float32 on the neutral face; read-only."""
        return self._points("expression", index)

    def wide(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The crop with its surroundings `(H, H, 3) uint8`, and landmarks `(468, 2)` in its pixels."""
        picture = self._picture("wide", index)
        size = round(len(picture) / (1 + 2 * WIDE_MARGIN))
        return picture, self.landmarks(index) * size + (len(picture) - size) / 2


__all__ = ["REENACTED_FEATURES", "DriverFrames", "ReenactPortraits", "ReenactedRows", "reenact"]
