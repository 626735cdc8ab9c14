"""Held-out figures of `FaceAlignerModel`, and a sheet of what it got most wrong."""

import time

import numpy as np
from face_aligner_data import FacePictures
from face_augmentation import HELD_OUT_FACELESS, faceless_picture
from PIL import Image, ImageDraw

from avatarsync.errors import FaceNotFoundError, FaceTooSmallError, MultipleFacesError
from avatarsync.face_mesh import INNER_LIPS, LEFT_EYE_CONTOUR, OUTER_LIPS, RIGHT_EYE_CONTOUR
from avatarsync.image_processing_face import (
    NOSE_BASE,
    eye_centres,
    eye_distance,
    landmark_box,
    overlap,
    pose_driven_matrix,
    transform_points,
    warp_image,
    widen_matrix,
)
from avatarsync.modeling_face_aligner import MIN_FACE_WIDTH, FaceAlignerModel, FaceAlignment

REGIONS = {
    "all": list(range(468)),
    "lips": list(OUTER_LIPS + INNER_LIPS),
    "eyelids": list(RIGHT_EYE_CONTOUR + LEFT_EYE_CONTOUR),
}
MAX_PICTURES = 100  # of each kind
SAME_FACE = 0.5  # overlap of a found box with the labels'
TILE, COLUMNS, SHOWN = 200, 8, 24


def keypoints_of(landmarks: np.ndarray) -> np.ndarray:
    """What the detector looks for, `(3, 2)`: eye centres and nose base."""
    return np.stack([*eye_centres(landmarks), landmarks[NOSE_BASE]])


def lip_gap(landmarks: np.ndarray) -> float:
    """Distance of the inner lips' middles, as a share of the eye distance."""
    return float(np.linalg.norm(landmarks[14] - landmarks[13]) / eye_distance(landmarks))


class HeldOut:
    """Measures either head on pictures that training never saw; faces narrower than 64 pixels do not count.

    Args:
        pictures: of the test split; at most 100 of each kind, evenly spread.
        head: "detector", or "landmarks": then detector and landmark head together, as `align` uses them.
    """

    def __init__(self, pictures: FacePictures, head: str):
        self.head = head
        self.examples: list[tuple[str, np.ndarray, np.ndarray]] = []
        for kind, count in pictures.counts.items():
            if head == "detector" and kind == "reenacted":
                continue
            chosen = np.linspace(0, count - 1, min(count, MAX_PICTURES)).round().astype(int)
            for picture, landmarks in (pictures.get(kind, int(index)) for index in chosen):
                if landmark_box(landmarks)[2] >= MIN_FACE_WIDTH:
                    self.examples.append((kind, picture, landmarks))
        self.worst: list[tuple[float, np.ndarray]] = []

    def evaluate(self, model: FaceAlignerModel) -> dict[str, float]:
        """Shares of found faces, errors in % of the eye distance, milliseconds of a picture, false alarms.

        By kind of picture ("portraits", "clips", "reenacted"). `_gap` is the error of the inner lips' distance: what
        nearly closed lips in a smile's place go wrong by.
        """
        measure = self._detect if self.head == "detector" else self._align
        errors: dict[str, list[dict[str, float]]] = {kind: [] for kind, _, _ in self.examples}
        counts, times, self.worst = dict.fromkeys(errors, 0), [], []
        for kind, picture, labels in self.examples:
            start = time.perf_counter()
            found, points = measure(model, picture, labels)
            times.append(time.perf_counter() - start)
            counts[kind] += 1
            if found is not None:
                errors[kind].append(found)
            severity = np.inf if found is None else next(iter(found.values()))
            self.worst.append((severity, draw_face(picture, labels, points)))
        self.worst = sorted(self.worst, key=lambda entry: -entry[0])
        figures = {}
        for kind, found in errors.items():
            figures[f"{kind}_found"] = len(found) / counts[kind]
            for name in found[0] if found else ():
                figures[f"{kind}_{name}"] = 100 * float(np.mean([error[name] for error in found]))
        figures["milliseconds"] = 1000 * float(np.median(times)) if times else 0.0
        figures["false_alarms"] = float(sum(self._sees_a_face(model, name) for name in HELD_OUT_FACELESS))
        return figures

    def sheet(self, model: FaceAlignerModel) -> np.ndarray:
        """The worst of the last evaluation, `(H, W, 3) uint8`: labels green, found points red."""
        tiles = [tile for _, tile in self.worst[:SHOWN]] or [np.zeros((TILE, TILE, 3), np.uint8)]
        tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % COLUMNS)
        rows = [np.concatenate(tiles[start : start + COLUMNS], 1) for start in range(0, len(tiles), COLUMNS)]
        return np.concatenate(rows)

    def _align(self, model: FaceAlignerModel, picture: np.ndarray, labels: np.ndarray):
        """Errors by name as shares of the eye distance, and the points found; None, None without the face."""
        face = align_largest(model, picture)
        if face is None:
            return None, None
        if overlap(face.box, landmark_box(labels)) < SAME_FACE:
            return None, face.landmarks
        error = np.linalg.norm(face.landmarks - labels, axis=-1) / eye_distance(labels)
        errors = {f"error_{region}": float(error[indices].mean()) for region, indices in REGIONS.items()}
        return errors | {"error_gap": abs(lip_gap(face.landmarks) - lip_gap(labels))}, face.landmarks

    def _detect(self, model: FaceAlignerModel, picture: np.ndarray, labels: np.ndarray):
        box = landmark_box(labels)
        found = [face for face in model.detect(picture) if overlap(face.box, box) >= SAME_FACE]
        if not found:
            return None, None
        face = max(found, key=lambda face: face.score)
        error = np.linalg.norm(face.keypoints - keypoints_of(labels), axis=-1).mean() / eye_distance(labels)
        return {"error_keypoints": float(error)}, face.keypoints

    def _sees_a_face(self, model: FaceAlignerModel, name: str) -> bool:
        if self.head == "detector":
            return bool(model.detect(faceless_picture(name)))
        return align_largest(model, faceless_picture(name)) is not None


def align_largest(model: FaceAlignerModel, picture: np.ndarray) -> FaceAlignment | None:
    """The largest face of a picture, or None."""
    try:
        # A head that has learned little may put both eyes on one point.
        with np.errstate(divide="ignore", invalid="ignore"):
            try:
                return model.align(picture)
            except MultipleFacesError:
                return model.align(picture, face_index=0)
    except (FaceNotFoundError, FaceTooSmallError):
        return None


def draw_face(picture: np.ndarray, labels: np.ndarray, points: np.ndarray | None) -> np.ndarray:
    """The face `(TILE, TILE, 3)`, labels drawn on it in green and what was found in red."""
    matrix = widen_matrix(pose_driven_matrix(labels, TILE), TILE, 1.25)
    tile = Image.fromarray(warp_image(picture, matrix, TILE))
    pen = ImageDraw.Draw(tile)
    shown = [(labels[REGIONS["lips"] + REGIONS["eyelids"]], (80, 255, 80))]
    if points is not None:
        shown.append((points[REGIONS["lips"] + REGIONS["eyelids"]] if len(points) == 468 else points, (255, 40, 40)))
    for places, colour in shown:
        for x, y in transform_points(places, matrix).tolist():
            pen.ellipse((x - 0.7, y - 0.7, x + 0.7, y + 0.7), fill=colour)
    return np.asarray(tile)
