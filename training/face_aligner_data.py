"""Training batches for `FaceAlignerModel`, cut from the dataset's whole pictures.

Pictures are decoded and warped on the fly, each in a fraction of a millisecond and to its place in one step: nothing
is cached, memory stays flat.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from face_augmentation import Backgrounds, photograph, scrambled, similarity, warp_picture
from numbered_batches import NumberedBatches

from avatarsync.data.dataset import AvatarDataset, Rows
from avatarsync.data.reenactment import ReenactedRows
from avatarsync.errors import DatasetError
from avatarsync.face_mesh import LIP_POINTS
from avatarsync.image_processing_face import (
    NOSE_BASE,
    eye_centres,
    mouth_matrix,
    pose_driven_matrix,
    transform_points,
)
from avatarsync.mirrored_landmarks import MIRRORED
from avatarsync.modeling_face_aligner import LANDMARK_MARGIN

# Of the landmark head's pictures. Reenacted ones have lips that are nearly closed in a smile's place, and their
# landmarks are exact there, where those of the teacher are not.
SHARES = {"portraits": 0.55, "clips": 0.2, "reenacted": 0.25}
# Of the lip head's.
LIP_SHARES = {"portraits": 0.55, "clips": 0.15, "reenacted": 0.3}
COVERED_SHARE = 0.14
# Second passes see well-placed crops; first passes and hand-drawn boxes do not.
WIDE_SHARE = 0.35
MAX_ANGLE = 1.1  # radians
FACELESS_SHARE = 0.14
MAX_FACES = 3  # in a picture for the detector


class FacePictures:
    """The whole pictures of one split, with the landmarks of the face in each.

    Args:
        data: the dataset.
        folder: where it lies; reenacted portraits are taken along when they are there.

    Attributes:
        counts: number of pictures by kind: "portraits", "clips" (frames of videos), "reenacted".

    Raises:
        DatasetError: the split has no picture.
    """

    def __init__(self, data: AvatarDataset, folder: Path, split: str):
        self.rows = {
            name: Rows(part[split]) for name, part in (("portraits", data.portraits), ("clips", data.clips)) if part
        }
        self.places = {
            name: [(row, n) for row in range(len(rows)) for n in range(len(rows.picture_landmarks(row)))]
            for name, rows in self.rows.items()
        }
        self.counts = {name: len(places) for name, places in self.places.items() if places}
        if not self.counts:
            raise DatasetError(
                f"the {split} split of {folder} has no whole picture: prepare it with pictures_per_clip > 0"
            )
        self.reenacted = ReenactedRows.load(folder, split) if (folder / "reenacted").exists() else None
        if self.reenacted is not None and len(self.reenacted):
            self.counts["reenacted"] = len(self.reenacted)

    def get(self, kind: str, index: int) -> tuple[np.ndarray, np.ndarray]:
        """A picture `(H, W, 3) uint8` and its landmarks `(468, 2)` in pixels."""
        if kind == "reenacted":
            return self.reenacted.wide(index)
        row, number = self.places[kind][index]
        return self.rows[kind].picture(row, number), self.rows[kind].picture_landmarks(row)[number]

    def draw(self, random: np.random.Generator, kinds: tuple[str, ...] = tuple(SHARES), shares: dict = SHARES):
        """A random picture and its landmarks, the kinds (those that there are) in proportion to `shares`."""
        kinds = [kind for kind in kinds if kind in self.counts]
        shares = np.array([shares[kind] for kind in kinds])
        kind = kinds[random.choice(len(kinds), p=shares / shares.sum())]
        return self.get(kind, int(random.integers(self.counts[kind])))


class LandmarkBatches(NumberedBatches):
    """For the landmark head: crops around faces, now and then without a face.

    Args:
        size: side L of the crops.
    """

    def __init__(self, pictures: FacePictures, batch_size: int, size: int, seed: int):
        super().__init__(seed)
        self.pictures, self.batch_size, self.size = pictures, batch_size, size
        self.backgrounds = Backgrounds(self.draw_whole)

    def draw_whole(self, random: np.random.Generator):
        return self.pictures.draw(random, ("portraits", "clips"))

    def make(self, random: np.random.Generator, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """landmark_pixels `(B, 3, L, L)`, landmark_labels `(B, 468, 2)`, presence_labels `(B,)`."""
        crops, labels = zip(
            *(self.crop(*self.pictures.draw(random), random) for _ in range(self.batch_size)), strict=True
        )
        pixels, present = torch.stack(crops), np.ones(self.batch_size, np.float32)
        for index in np.flatnonzero(random.random(self.batch_size) < FACELESS_SHARE):
            broken = random.random() < 0.25
            pixels[index] = scrambled(pixels[index], random) if broken else self.backgrounds.draw(random, self.size)
            present[index] = 0
        self.backgrounds.occlude(pixels, random, 0.25, largest=0.38)
        return {
            "landmark_pixels": photograph(pixels, random, generator),
            "landmark_labels": torch.from_numpy(np.stack(labels).astype(np.float32)),
            "presence_labels": torch.from_numpy(present),
        }

    def crop(self, picture: np.ndarray, landmarks: np.ndarray, random: np.random.Generator):
        """A crop `(3, L, L)` as the head's passes see them, with landmarks `(468, 2)` in it."""
        size, centre = self.size, (self.size - 1) / 2
        if random.random() < WIDE_SHARE:
            angle = random.uniform(-MAX_ANGLE, MAX_ANGLE) if random.random() < 0.4 else random.normal(0, 0.3)
            angle, zoom = np.clip(angle, -MAX_ANGLE, MAX_ANGLE), random.uniform(-0.35, 0.3)
            shift = random.uniform(-0.14, 0.14, 2)
        else:
            angle, zoom, shift = random.normal(0, 0.08), random.normal(0, 0.07), random.normal(0, 0.02, 2)
        mirrored = bool(random.random() < 0.5)
        base = pose_driven_matrix(landmarks, size)
        linear = similarity(angle, np.exp(zoom) / LANDMARK_MARGIN, mirrored)
        offset = linear @ (base[:, 2] - centre) + centre + shift * size
        matrix = np.concatenate([linear @ base[:, :2], offset[:, None]], 1)
        labels = transform_points(landmarks, matrix)
        crop, _ = warp_picture(picture, matrix, size)
        return crop, labels[list(MIRRORED)] if mirrored else labels


class LipBatches(NumberedBatches):
    """For the lip head: crops about mouths, placed as roughly as the landmark head finds them; some are covered.

    Args:
        size: side M of the crops.
    """

    def __init__(self, pictures: FacePictures, batch_size: int, size: int, seed: int):
        super().__init__(seed)
        self.pictures, self.batch_size, self.size = pictures, batch_size, size
        self.backgrounds = Backgrounds(lambda random: pictures.draw(random, ("portraits", "clips")))

    def make(self, random: np.random.Generator, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """lip_pixels `(B, 3, M, M)`, lip_labels `(B, 80, 2)`, mouth_labels `(B,)`."""
        drawn = [self.pictures.draw(random, shares=LIP_SHARES) for _ in range(self.batch_size)]
        crops, labels = zip(*(self.crop(*pair, random) for pair in drawn), strict=True)
        pixels, seen = torch.stack(crops), np.ones(self.batch_size, np.float32)
        self.backgrounds.occlude(pixels, random, 0.15, largest=0.2)
        for index in np.flatnonzero(random.random(self.batch_size) < COVERED_SHARE):
            self.cover(pixels[index], labels[index], random)
            seen[index] = 0
        return {
            "lip_pixels": photograph(pixels, random, generator),
            "lip_labels": torch.from_numpy(np.stack(labels).astype(np.float32)),
            "mouth_labels": torch.from_numpy(seen),
        }

    def crop(self, picture: np.ndarray, landmarks: np.ndarray, random: np.random.Generator):
        """A crop `(3, M, M)` and the lips `(80, 2)` in it."""
        size, centre = self.size, (self.size - 1) / 2
        mirrored = bool(random.random() < 0.5)
        linear = similarity(random.normal(0, 0.06), np.exp(random.normal(0, 0.1)), mirrored)
        base = mouth_matrix(landmarks, size)
        offset = linear @ (base[:, 2] - centre) + centre + random.normal(0, 0.035, 2) * size
        matrix = np.concatenate([linear @ base[:, :2], offset[:, None]], 1)
        labels = transform_points(landmarks, matrix)
        crop, _ = warp_picture(picture, matrix, size)
        return crop, (labels[list(MIRRORED)] if mirrored else labels)[LIP_POINTS]

    def cover(self, crop: torch.Tensor, lips: np.ndarray, random: np.random.Generator) -> None:
        """Lay something over most of the mouth in `crop` `(3, M, M)`, in place: a hand, a microphone, a mask."""
        size = self.size
        low, high = lips.min(0), lips.max(0)
        # From a random edge of the crop to beyond the middle of the mouth, or all over it.
        beyond = low + (high - low) * random.uniform(0.55, 1.3, 2)
        before = high - (high - low) * random.uniform(0.55, 1.3, 2)
        ys, xs = np.mgrid[:size, :size]
        side = random.random()
        if side < 0.35:  # from below
            inside = ys > before[1] + random.normal(0, 0.1) * (xs - size / 2)
        elif side < 0.6:  # from a side
            inside = xs < beyond[0] if random.random() < 0.5 else xs > before[0]
        else:  # a round thing
            middle, radius = lips.mean(0), (high - low) * random.uniform(0.38, 0.7, 2) + 0.04 * size
            inside = ((xs - middle[0]) / radius[0]) ** 2 + ((ys - middle[1]) / radius[1]) ** 2 < 1
        if random.random() < 0.5:
            thing = self.backgrounds.draw(random, size)
        else:  # plain, and often of the colour of skin
            colour = crop[:, int(0.1 * size), size // 2] if random.random() < 0.6 else torch.from_numpy(
                random.uniform(0, 230, 3).astype(np.float32))  # fmt: skip
            shade = torch.from_numpy(random.normal(1, 0.12, (1, 1, 5, 5)).astype(np.float32))
            shade = F.interpolate(shade, size=(size, size), mode="bicubic", align_corners=False)[0]
            thing = (colour[:, None, None] * shade).clamp(0, 255)
        crop.copy_(torch.where(torch.from_numpy(inside), thing, crop))


class DetectorBatches(NumberedBatches):
    """For the detector: pictures with none, one, two or three faces.

    Args:
        size: side D of the pictures.
    """

    def __init__(self, pictures: FacePictures, batch_size: int, size: int, seed: int):
        super().__init__(seed)
        self.pictures, self.batch_size, self.size = pictures, batch_size, size
        self.backgrounds = Backgrounds(self.draw_whole)

    def draw_whole(self, random: np.random.Generator):
        return self.pictures.draw(random, ("portraits", "clips"))

    def make(self, random: np.random.Generator, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """detector_pixels `(B, 3, D, D)`, face_boxes `(B, 3, 4)`, face_keypoints `(B, 3, 3, 2)`."""
        pixels = torch.empty(self.batch_size, 3, self.size, self.size)
        boxes, keypoints = torch.zeros(self.batch_size, MAX_FACES, 4), torch.zeros(self.batch_size, MAX_FACES, 3, 2)
        for index in range(self.batch_size):
            kind = random.random()
            canvas = self.backgrounds.draw(random, self.size) if kind < 0.45 else None
            placed: list[tuple[np.ndarray, np.ndarray]] = []
            if kind >= 0.12:
                canvas, box, points = self.place_face(canvas, random)
                placed.append((box, points))
            while kind >= 0.12 and len(placed) < MAX_FACES and random.random() < 0.3:
                canvas, box, points = self.place_face(canvas, random, beside=[other for other, _ in placed])
                if box is None:
                    break
                placed.append((box, points))
            pixels[index] = canvas
            for order, (box, points) in enumerate(placed):
                boxes[index, order], keypoints[index, order] = torch.from_numpy(box), torch.from_numpy(points)
        self.backgrounds.occlude(pixels, random, 0.15, largest=0.15)
        pixels = photograph(pixels, random, generator)
        return {"detector_pixels": pixels, "face_boxes": boxes, "face_keypoints": keypoints}

    def place_face(
        self, canvas: torch.Tensor | None, random: np.random.Generator, beside: list[np.ndarray] | None = None
    ):
        """Put a picture onto `canvas` `(3, D, D)`, or let it be the canvas; `beside` other faces its head only.

        Returns the canvas, the face's box `(4,)` and keypoints `(3, 2)`; None, None where there was no room.
        """
        size = self.size
        picture, points = self.draw_whole(random)
        low, high = points.min(0), points.max(0)
        share = np.exp(random.uniform(np.log(0.09), np.log(0.45 if beside is not None else 1.0)))
        angle = random.uniform(-MAX_ANGLE, MAX_ANGLE) if random.random() < 0.35 else random.normal(0, 0.2)
        mirrored = bool(random.random() < 0.5)
        linear = similarity(angle, share * size / (high - low).max(), mirrored)
        room = min(0.35 * share, 0.45) * size
        offset = random.uniform(room, size - room, 2) - linear @ ((low + high) / 2)
        moved = transform_points(points, np.concatenate([linear, offset[:, None]], 1))
        box = np.concatenate([moved.min(0), moved.max(0) - moved.min(0)]).astype(np.float32)
        right, left = eye_centres(moved)
        eyes = (left, right) if mirrored else (right, left)
        keypoints = np.stack([*eyes, moved[NOSE_BASE]]).astype(np.float32)

        start, stop = np.zeros(2, int), np.array([picture.shape[1], picture.shape[0]])
        if beside is not None:
            if any(boxes_touch(box, other, 1.25) for other in beside):
                return canvas, None, None
            middle, reach = (low + high) / 2, (high - low) * random.uniform(0.6, 0.9)
            start = np.clip((middle - reach).round().astype(int), 0, stop - 2)
            stop = np.clip((middle + reach).round().astype(int), start + 2, stop)
        part = picture[start[1] : stop[1], start[0] : stop[0]]
        matrix = np.concatenate([linear, (offset + linear @ start)[:, None]], 1)
        warped, inside = warp_picture(part, matrix, size)
        if canvas is None and random.random() < 0.5:
            return warped, box, keypoints  # its edge pixels continue
        if canvas is None:
            canvas = torch.full((3, size, size), 127.0)  # as letterboxing does
        return torch.where(inside, warped, canvas), box, keypoints


def boxes_touch(one: np.ndarray, other: np.ndarray, margin: float) -> bool:
    gap = np.abs(one[:2] + one[2:] / 2 - other[:2] - other[2:] / 2)
    return bool((gap < margin * (one[2:] + other[2:]) / 2).all())
