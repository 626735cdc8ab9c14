"""FaceAlignerModel: finds faces in a picture and places the 468 points of MediaPipe's face mesh on them.

It takes the part of the paper's MMPose crop (Appendix A.3) without its dependencies. Three small convolutional
networks, distilled from MediaPipe Face Landmarker's labels by `training/train_face_aligner.py`:

    picture ─ letterbox ─► FaceDetector ─► boxes, eyes, nose base ─► rotated crop ─► LandmarkRegressor ─► 468 points
                                                                        ▲                                    │
                                                                        └──────────── second pass ───────────┘
                                      468 points ─► crop about the mouth ─► lip head ─► 80 points of the lips

The lip head exists because nearly closed lips are a pixel or two apart in the crop of the whole face, and because it
can tell a mouth from a hand or a microphone before it.

Shapes: B pictures, F faces in a picture, D = `detector_size`, L = `landmark_size`, M = `lip_size`, G = D / 8 cells a
side.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel, initialization
from transformers.utils import ModelOutput

from avatarsync.configuration_avatarsync import FaceAlignerConfig
from avatarsync.errors import (
    FaceNotFoundError,
    FaceTooSmallError,
    InvalidArgumentError,
    MouthCoveredError,
    MultipleFacesError,
)
from avatarsync.face_aligner_layers import NUM_KEYPOINTS, FaceDetector, LandmarkRegressor
from avatarsync.face_aligner_losses import DETECTOR_STRIDE, cell_centres, detector_loss, landmark_loss, lip_loss
from avatarsync.face_mesh import LIP_POINTS
from avatarsync.image_processing_face import (
    Box,
    CropStrategy,
    check_frontal,
    check_image,
    crop_matrix,
    face_view,
    invert_matrix,
    keypoint_matrix,
    landmark_box,
    letterbox,
    mouth_matrix,
    overlap,
    pose_driven_matrix,
    tiles,
    transform_points,
    warp_image,
    widen_matrix,
)

# The landmark head sees this much more than the pose-driven crop, so that chin and forehead lie inside.
LANDMARK_MARGIN = 1.25

MIN_FACE_WIDTH = 64
PRESENCE_THRESHOLD = 0.5
MOUTH_THRESHOLD = 0.05  # finds 95 % of covered mouths and refuses none of 449 that are seen, nor a painting
# A second face as large as this share of the largest makes the choice the user's.
RIVAL_AREA = 0.7
MAX_CANDIDATES = 8
NMS_IOU = 0.4
# Tiles of the second look for small faces: halves, quarters, eighths of the longer side, no smaller than this.
MIN_TILE = 320
# Mean places of eyes and nose base in a box around the landmarks, measured on the training portraits.
MEAN_KEYPOINTS = np.array([[0.29, 0.317], [0.71, 0.317], [0.5, 0.585]])


@dataclass
class FaceDetection:
    """A face found: `box` (x, y, width, height) and `keypoints` (3, 2) in picture pixels, `score` in 0…1."""

    box: Box
    score: float
    keypoints: np.ndarray


@dataclass
class FaceAlignment:
    """A face aligned: `landmarks` (468, 2) and their `box` (x, y, width, height) in picture pixels, `score` in 0…1;
    `mouth_score` in 0…1 says whether the mouth is seen."""

    box: Box
    landmarks: np.ndarray
    score: float
    mouth_score: float = 1.0

    def matrix(self, size: int, strategy: CropStrategy = "pose_driven") -> np.ndarray:
        """Crop matrix `(2, 3)`, picture → crop of `size` pixels a side."""
        return crop_matrix(self.landmarks, size, strategy)

    def check_can_speak(self) -> None:
        """Raises FaceTurnedError or MouthCoveredError for a face whose mouth the picture does not show."""
        check_frontal(self.landmarks)
        if self.mouth_score < MOUTH_THRESHOLD:
            raise MouthCoveredError(
                "something covers the mouth, such as a hand, a microphone or a mask: use a picture that shows the lips"
            )


@dataclass
class FaceAlignerOutput(ModelOutput):
    """What `FaceAlignerModel.forward` returns; a head whose pixels were not given leaves its fields None.

    Args:
        loss: sum of the losses whose labels were given, `()`.
        detector_loss, landmark_loss, presence_loss, lip_loss, mouth_presence_loss: its parts, `()` each.
        detection_maps: `(B, 11, G, G)`: logit, centre offset, log size, keypoints; see `FaceDetector`.
        landmarks: `(B, 468, 2)` in pixels of the landmark crop.
        presence_logits: `(B,)`, whether the crop holds a face at all.
        lips: `(B, 80, 2)`, the four lip rings in pixels of the crop about the mouth.
        mouth_logits: `(B,)`, whether the mouth is seen.
    """

    loss: torch.Tensor | None = None
    detector_loss: torch.Tensor | None = None
    landmark_loss: torch.Tensor | None = None
    presence_loss: torch.Tensor | None = None
    lip_loss: torch.Tensor | None = None
    mouth_presence_loss: torch.Tensor | None = None
    detection_maps: torch.Tensor | None = None
    landmarks: torch.Tensor | None = None
    presence_logits: torch.Tensor | None = None
    lips: torch.Tensor | None = None
    mouth_logits: torch.Tensor | None = None


class FaceAlignerModel(PreTrainedModel):
    """Face detector, landmark regressor and lip head; `detect` and `align` are the ways in for pictures."""

    config_class = FaceAlignerConfig
    base_model_prefix = "face_aligner"
    main_input_name = "landmark_pixels"

    def __init__(self, config: FaceAlignerConfig):
        super().__init__(config)
        self.detector = FaceDetector(config.detector_width)
        self.landmarker = LandmarkRegressor(config.landmark_width, config.num_landmarks)
        self.lips = LandmarkRegressor(config.lip_width, len(LIP_POINTS)) if config.lip_width else None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d) and module.bias is None:
            initialization.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, FaceDetector):
            # Faces are rare among cells: without this, the first steps would only unlearn "everything is a face".
            module.head.bias[0] = -4.0

    def forward(
        self,
        detector_pixels: torch.Tensor | None = None,
        landmark_pixels: torch.Tensor | None = None,
        face_boxes: torch.Tensor | None = None,
        face_keypoints: torch.Tensor | None = None,
        landmark_labels: torch.Tensor | None = None,
        presence_labels: torch.Tensor | None = None,
        lip_pixels: torch.Tensor | None = None,
        lip_labels: torch.Tensor | None = None,
        mouth_labels: torch.Tensor | None = None,
    ) -> FaceAlignerOutput:
        """Run the head(s) whose pixels are given.

        Args:
            detector_pixels: letterboxed pictures `(B, 3, D, D)` in -1…1.
            landmark_pixels: crops `(B, 3, L, L)` in -1…1.
            face_boxes: `(B, F, 4)` (x, y, width, height) in detector pixels; width 0 fills the list up.
            face_keypoints: `(B, F, 3, 2)` right eye, left eye, nose base in detector pixels.
            landmark_labels: `(B, 468, 2)` in crop pixels.
            presence_labels: `(B,)`, 1 where the crop holds a face, 0 elsewhere.
            lip_pixels: crops about the mouth `(B, 3, M, M)` in -1…1.
            lip_labels: `(B, 80, 2)` in their pixels.
            mouth_labels: `(B,)`, 1 where the mouth is seen, 0 where it is covered.
        """
        results = {}
        if detector_pixels is not None:
            results["detection_maps"] = self.detector(detector_pixels)
            if face_boxes is not None:
                results["detector_loss"] = detector_loss(results["detection_maps"], face_boxes, face_keypoints)
        if landmark_pixels is not None:
            landmarks, logits = self.landmarker(landmark_pixels)
            results["landmarks"], results["presence_logits"] = landmarks, logits
            if landmark_labels is not None:
                present = presence_labels
                if present is None:
                    present = landmark_labels.new_ones(len(landmark_labels))
                size = self.config.landmark_size
                results["landmark_loss"] = landmark_loss(landmarks, landmark_labels, present, size)
            if presence_labels is not None:
                results["presence_loss"] = F.binary_cross_entropy_with_logits(logits, presence_labels)
        if lip_pixels is not None:
            results["lips"], results["mouth_logits"] = self.lips(lip_pixels)
            if lip_labels is not None:
                seen = mouth_labels if mouth_labels is not None else lip_labels.new_ones(len(lip_labels))
                results["lip_loss"] = lip_loss(results["lips"], lip_labels, seen)
            if mouth_labels is not None:
                errors = F.binary_cross_entropy_with_logits(results["mouth_logits"], mouth_labels)
                results["mouth_presence_loss"] = errors
        losses = [value for name, value in results.items() if name.endswith("_loss")]
        return FaceAlignerOutput(loss=torch.stack(losses).sum() if losses else None, **results)

    def to_pixels(self, crops: np.ndarray) -> torch.Tensor:
        """`(B, S, S, 3) uint8` → `(B, 3, S, S)` in -1…1 on the model's device, channels last."""
        pixels = torch.from_numpy(crops).to(self.device).permute(0, 3, 1, 2)
        return pixels.to(self.dtype).div_(127.5).sub_(1)

    @torch.inference_mode()
    def detect(self, image: np.ndarray) -> list[FaceDetection]:
        """Faces of `image` `(H, W, 3) uint8`, largest first; an empty list without any.

        The whole picture is looked at once. Only when it shows no face are overlapping tiles of it looked at, ever
        smaller, until one does: that finds small faces in large pictures.

        Raises:
            InvalidImageError: not such an array, or a side shorter than 128 pixels.
        """
        check_image(image)
        return next((faces for faces in self._detect_by_levels(image) if faces), [])

    def _detect_by_levels(self, image: np.ndarray) -> Iterator[list[FaceDetection]]:
        """Detections, largest first: in the whole picture, then in tiles of half its longer side, a quarter …"""
        height, width = image.shape[:2]
        places = [(0, 0, width, height)]
        side = max(height, width)
        while True:
            faces = self._detect_in_tiles(image, places)
            yield sorted(faces, key=lambda face: face.box[2] * face.box[3], reverse=True)
            side //= 2
            if side < MIN_TILE:
                return
            places = tiles(height, width, side)

    def _detect_in_tiles(self, image: np.ndarray, places: list[tuple[int, int, int, int]]) -> list[FaceDetection]:
        self.eval()
        found = []
        for start in range(0, len(places), 16):
            boxed = [
                letterbox(image[top:bottom, left:right], self.config.detector_size)
                for left, top, right, bottom in places[start : start + 16]
            ]
            maps = self.detector(self.to_pixels(np.stack([square for square, _ in boxed])))
            for (left, top, _, _), (_, matrix), one in zip(places[start:], boxed, maps, strict=False):
                inverse = invert_matrix(matrix)
                inverse[:, 2] += (left, top)
                found += self._decode(one, inverse)
        return suppress_overlaps(found)

    def _decode(self, maps: torch.Tensor, to_picture: np.ndarray) -> list[FaceDetection]:
        """Maps `(11, G, G)` of one letterboxed picture → detections in the picture's pixels."""
        heat = maps[:1].float().sigmoid()
        peaks = (heat == F.max_pool2d(heat, 3, 1, 1)) & (heat > self.config.score_threshold)
        cells = peaks.flatten().nonzero()[:, 0]
        centres = cell_centres(maps.shape[-1], DETECTOR_STRIDE, heat)[cells]  # (N, 2)
        values = maps.float().flatten(1)[:, cells].T  # (N, 11)
        middle = centres + values[:, 1:3] * DETECTOR_STRIDE
        size = values[:, 3:5].clamp(-4, 4).exp() * DETECTOR_STRIDE
        points = centres[:, None] + values[:, 5:].view(-1, NUM_KEYPOINTS, 2) * size.prod(-1).sqrt()[:, None, None]
        low, high = transform_points(torch.stack([middle - size / 2, middle + size / 2]).cpu().numpy(), to_picture)
        points = transform_points(points.cpu().numpy(), to_picture[None])
        scores = heat.flatten()[cells].tolist()
        return [
            FaceDetection((float(x0), float(y0), float(x1 - x0), float(y1 - y0)), score, keypoints)
            for (x0, y0), (x1, y1), score, keypoints in zip(low, high, scores, points, strict=True)
        ]

    @torch.inference_mode()
    def align(self, image: np.ndarray, face_index: int | None = None, face_box: Box | None = None) -> FaceAlignment:
        """Landmarks of one face of `image` `(H, W, 3) uint8`.

        Args:
            image: the picture.
            face_index: which face, 0 the largest; needed only when two are about the same size.
            face_box: (x, y, width, height) in pixels, forehead to chin; takes the detector's place.

        Raises:
            InvalidImageError: not such an array, or a side shorter than 128 pixels.
            InvalidArgumentError: face_index without such a face, face_box outside of the picture, or both given.
            FaceNotFoundError: no face in the picture, or none in face_box.
            MultipleFacesError: a second face has more than 0.7 of the largest one's area, and none was chosen.
            FaceTooSmallError: the face is narrower than 64 pixels.
        """
        check_image(image)
        if face_index is not None and (isinstance(face_index, bool) or not isinstance(face_index, int | np.integer)):
            raise InvalidArgumentError(f"face_index is {face_index!r}: give a whole number from 0, the largest face")
        if face_box is not None:
            if face_index is not None:
                raise InvalidArgumentError("give either face_index= or face_box=, not both")
            face = self._align_box(image, face_box)
        else:
            face = self._align_detected(image, face_index)
        if face.box[2] < MIN_FACE_WIDTH:
            raise FaceTooSmallError(
                f"the face is {face.box[2]:.0f} pixels wide, at least {MIN_FACE_WIDTH} are needed: "
                "use a larger picture, or cut it closer and enlarge it"
            )
        return face

    def _align_box(self, image: np.ndarray, face_box: Box) -> FaceAlignment:
        height, width = image.shape[:2]
        try:
            x, y, box_width, box_height = face_box = tuple(float(value) for value in face_box)
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidArgumentError(
                f"face_box is {face_box!r}: give four numbers of pixels, (x, y, width, height)"
            ) from error
        touches = x < width and y < height and x + box_width > 0 and y + box_height > 0
        # Part of a face may lie beyond the picture's edge, most of it may not.
        fits = 1 <= box_width <= 2 * width and 1 <= box_height <= 2 * height
        if not (fits and touches):
            raise InvalidArgumentError(
                f"face_box {face_box} lies outside of the picture of {width}x{height} pixels: "
                "give (x, y, width, height) with a positive size inside it"
            )
        keypoints = MEAN_KEYPOINTS * (box_width, box_height) + (x, y)
        face = self._place_landmarks(image, face_box, keypoints, passes=3)
        if face.score < PRESENCE_THRESHOLD:
            raise FaceNotFoundError(
                f"no face in face_box {face_box}: give the box (x, y, width, height) from forehead to chin "
                f"of a frontal face at least {MIN_FACE_WIDTH} pixels wide"
            )
        return face

    def _align_detected(self, image: np.ndarray, face_index: int | None) -> FaceAlignment:
        faces: list[FaceAlignment] = []
        for candidates in self._detect_by_levels(image):
            faces = [
                self._place_landmarks(image, found.box, found.keypoints, passes=2)
                for found in candidates[:MAX_CANDIDATES]
            ]
            # The landmark head looks closer: it has the last word on what is a face.
            faces = [face for face in faces if face.score >= PRESENCE_THRESHOLD]
            faces.sort(key=lambda face: face.box[2] * face.box[3], reverse=True)
            if faces:
                break
        if not faces:
            raise FaceNotFoundError(
                "no face found in the picture: use one with an upright frontal face at least "
                f"{MIN_FACE_WIDTH} pixels wide, or say where it is with face_box=(x, y, width, height)"
            )
        if face_index is not None:
            if not 0 <= face_index < len(faces):
                raise InvalidArgumentError(
                    f"face_index {face_index}: the picture shows {len(faces)} face(s), counted from 0, largest first"
                )
            return faces[face_index]
        rivals = [face for face in faces if face.box[2] * face.box[3] > RIVAL_AREA * faces[0].box[2] * faces[0].box[3]]
        if len(rivals) > 1:
            boxes = "; ".join(
                f"{index}: ({', '.join(f'{value:.0f}' for value in face.box)})" for index, face in enumerate(rivals)
            )
            raise MultipleFacesError(
                f"{len(rivals)} faces of about the same size, as index: (x, y, width, height): {boxes}. "
                "Choose with face_index= or face_box="
            )
        return faces[0]

    def _place_landmarks(self, image: np.ndarray, box: Box, keypoints: np.ndarray, passes: int) -> FaceAlignment:
        """Landmarks from a first guess `keypoints` `(3, 2)`; each further pass crops along the last landmarks."""
        view, to_view = face_view(image, box)
        size = self.config.landmark_size
        matrix = keypoint_matrix(*transform_points(keypoints, to_view), size)
        for _ in range(passes):
            matrix = widen_matrix(matrix, size, LANDMARK_MARGIN)
            crop = warp_image(view, matrix, size)
            landmarks, presence = self.landmarker(self.to_pixels(crop[None]))
            points = transform_points(landmarks[0].cpu().numpy(), invert_matrix(matrix))
            matrix = pose_driven_matrix(points, size)
        mouth_score = 1.0
        if self.lips is not None:
            size = self.config.lip_size
            matrix = mouth_matrix(points, size)
            lips, seen = self.lips(self.to_pixels(warp_image(view, matrix, size)[None]))
            points[LIP_POINTS] = transform_points(lips[0].cpu().numpy(), invert_matrix(matrix))
            mouth_score = float(seen[0].sigmoid())
        points = transform_points(points, invert_matrix(to_view)).astype(np.float32)
        return FaceAlignment(landmark_box(points), points, float(presence[0].sigmoid()), mouth_score)


def suppress_overlaps(faces: list[FaceDetection]) -> list[FaceDetection]:
    """Non-maximum suppression: of faces that overlap by more than 0.4 (IoU) the best score stays."""
    kept: list[FaceDetection] = []
    for face in sorted(faces, key=lambda face: face.score, reverse=True):
        if all(overlap(face.box, other.box) <= NMS_IOU for other in kept):
            kept.append(face)
    return kept


__all__ = ["FaceAlignerModel", "FaceAlignerOutput", "FaceAlignment", "FaceDetection"]
