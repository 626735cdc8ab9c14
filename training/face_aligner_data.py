"""Training examples for `FaceAlignerModel`: labelled faces held in memory, and their augmentation.

Geometry comes first (rotation, scale, shift, flip, pasting faces onto backgrounds), in float tensors `(…, 3, S, S)` in
0…255; then what cameras and encoders do (light, colour, blur, noise, JPEG) and things in front of the face.
"""

import io
from pathlib import Path

import av
import numpy as np
import skimage.data
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.optimize import linear_sum_assignment
from tqdm import tqdm

from avatarsync.image_processing_face import (
    NOSE_BASE,
    NUM_LANDMARKS,
    eye_centres,
    eye_distance,
    invert_matrix,
    letterbox,
    pose_driven_matrix,
    transform_points,
    warp_image,
)
from avatarsync.modeling_face_aligner import LANDMARK_MARGIN

HELD_OUT_EVERY = 25  # portraits
HELD_OUT_CLIPS = 40
FRAMES_PER_CLIP = 6
PICTURE_SIZE = 256  # letterboxed pictures for the detector
CROP_SIZE = 224  # loose crops for the landmark head: pose-driven crops of 128 pixels and 48 more on every side
POSE_SIZE = 128
NOSE_TIP = 1
# Pictures without faces; astronaut has one, chelsea, coffee and motorcycle are kept for the evaluation.
FACELESS = ("brick", "cell", "chessboard_GRAY", "chessboard_RGB", "clock_motion", "coins", "color", "grass", "gravel",
            "horse", "hubble_deep_field", "ihc", "moon", "page", "phantom", "retina", "rocket", "text")  # fmt: skip
HELD_OUT_FACELESS = ("chelsea", "coffee", "motorcycle_left")


def faceless_picture(name: str) -> np.ndarray:
    """`(H, W, 3) uint8` of scikit-image's example picture `name`."""
    folder = Path(skimage.data.__file__).parent
    path = next(folder / f"{name}{ending}" for ending in (".png", ".jpg") if (folder / f"{name}{ending}").exists())
    return np.array(Image.open(path).convert("RGB"))


def split_sources(folders: list[Path], ending: str) -> list[Path]:
    """All files with `ending` in `folders`, sorted by name."""
    return sorted((path for folder in folders for path in folder.glob(f"*{ending}")), key=lambda path: path.name)


def split_portraits(folders: list[Path]) -> tuple[list[Path], list[Path]]:
    """Training and held-out portraits."""
    names = split_sources(folders, ".jpg")
    return [p for i, p in enumerate(names) if i % HELD_OUT_EVERY], names[::HELD_OUT_EVERY]


def split_clips(folders: list[Path]) -> tuple[list[Path], list[Path]]:
    """Training and held-out videos."""
    names = split_sources(folders, ".mp4")
    return names[:-HELD_OUT_CLIPS], names[-HELD_OUT_CLIPS:]


def read_labels(path: Path) -> np.ndarray:
    """Landmarks `(T, 468, 2)` in pixels of the pictures, from a file that prepare_data.py wrote."""
    with np.load(path) as label:
        pairs = zip(label["landmarks"], label["matrices"], strict=True)
        return np.stack([transform_points(points, invert_matrix(matrix)) for points, matrix in pairs])


def read_frames(path: Path, indices: np.ndarray) -> list[np.ndarray]:
    """The chosen frames of a video, `(H, W, 3) uint8` each."""
    wanted = set(indices.tolist())
    with av.open(str(path)) as container:
        frames = enumerate(container.decode(video=0))
        return [np.ascontiguousarray(f.to_ndarray(format="rgb24")) for i, f in frames if i in wanted]


def loose_matrix(landmarks: np.ndarray) -> np.ndarray:
    matrix = pose_driven_matrix(landmarks, POSE_SIZE)
    matrix[:, 2] += (CROP_SIZE - POSE_SIZE) / 2
    return matrix


def load_faces(labels: Path, portraits: list[Path], videos: list[Path], cache: Path) -> dict[str, np.ndarray]:
    """Training pictures with landmarks, made once and kept in `cache`.

    Returns `pictures` (N, 256, 256, 3), `picture_landmarks` (N, 468, 2), `picture_extents` (N, 2) as width and height
    inside the letterbox, `crops` (M, 224, 224, 3), `crop_landmarks` (M, 468, 2), `crop_is_portrait` (M,).
    """
    if cache.exists():
        with np.load(cache) as stored:
            return dict(stored)
    faces: dict[str, list] = {}

    def add_crop(image, landmarks, is_portrait):
        matrix = loose_matrix(landmarks)
        faces.setdefault("crops", []).append(warp_image(image, matrix, CROP_SIZE))
        faces.setdefault("crop_landmarks", []).append(transform_points(landmarks, matrix))
        faces.setdefault("crop_is_portrait", []).append(is_portrait)

    def add_picture(image, landmarks):
        square, matrix = letterbox(image, PICTURE_SIZE)
        faces.setdefault("pictures", []).append(square)
        faces.setdefault("picture_landmarks", []).append(transform_points(landmarks, matrix))
        extent = (image.shape[1] * matrix[0, 0], image.shape[0] * matrix[1, 1])
        faces.setdefault("picture_extents", []).append(extent)

    for path in tqdm(split_portraits(portraits)[0], desc="portraits", disable=None):
        label = labels / "portraits" / f"{path.stem}.npz"
        if label.exists():
            image, landmarks = np.array(Image.open(path).convert("RGB")), read_labels(label)[0]
            add_crop(image, landmarks, True)
            add_picture(image, landmarks)
    for path in tqdm(split_clips(videos)[0], desc="videos", disable=None):
        label = labels / "clips" / f"{path.stem}.npz"
        if label.exists():
            landmarks = read_labels(label)
            chosen = np.linspace(0, len(landmarks) - 1, FRAMES_PER_CLIP + 2)[1:-1].round().astype(int)
            for order, (index, frame) in enumerate(zip(chosen, read_frames(path, chosen), strict=True)):
                add_crop(frame, landmarks[index], False)
                if order == 0:
                    add_picture(frame, landmarks[index])
    arrays = {name: np.stack(values) for name, values in faces.items()}
    arrays = {name: a.astype(np.float32) if a.dtype == np.float64 else a for name, a in arrays.items()}
    np.savez(cache, **arrays)
    return arrays


def mirror_permutation(landmarks: np.ndarray, num_faces: int = 300) -> np.ndarray:
    """`(468,)`: the index of each landmark's partner on the face's other half, from loose crops' `(N, 468, 2)`.

    On faces that look straight ahead the mirrored shape all but equals the shape: the pairs are those that make the
    difference least over many such faces, so that points which nearly coincide on some are told apart by others.
    """
    eyes = np.concatenate(eye_centres(landmarks), -1).reshape(-1, 2, 2).mean(1)
    turned = np.abs(landmarks[:, NOSE_TIP, 0] - eyes[:, 0])
    frontal = turned.argsort()[:num_faces]
    shapes = landmarks[frontal] - eyes[frontal, None]
    distance = np.zeros((NUM_LANDMARKS, NUM_LANDMARKS))
    for shape in shapes:
        distance += np.abs((shape * (-1, 1))[:, None] - shape).sum(-1)
    distance += distance.T
    partner = linear_sum_assignment(distance)[1]
    on_right = np.flatnonzero((partner != np.arange(NUM_LANDMARKS)) & (shapes[:, :, 0].mean(0) < 0))
    on_left = np.flatnonzero((partner != np.arange(NUM_LANDMARKS)) & (shapes[:, :, 0].mean(0) >= 0))
    pairs = linear_sum_assignment(distance[np.ix_(on_right, on_left)])
    permutation = np.arange(NUM_LANDMARKS)
    permutation[on_right[pairs[0]]], permutation[on_left[pairs[1]]] = on_left[pairs[1]], on_right[pairs[0]]
    return permutation


class FaceSampler:
    """Draws augmented training batches; one random generator makes runs repeatable."""

    def __init__(self, faces: dict[str, np.ndarray], seed: int = 0):
        self.faces = faces
        self.random = np.random.default_rng(seed)
        self.mirror = mirror_permutation(faces["crop_landmarks"])
        self.faceless = [faceless_picture(name) for name in FACELESS]
        self.portrait_crops = np.flatnonzero(faces["crop_is_portrait"])
        self.video_crops = np.flatnonzero(~faces["crop_is_portrait"])

    def landmark_batch(self, batch: int, size: int) -> dict[str, torch.Tensor]:
        """Labels and pixels for the landmark head: three quarters portraits, a seventh of all without a face."""
        random = self.random
        from_video = random.random(batch) < 0.25
        chosen = np.where(
            from_video, random.choice(self.video_crops, batch), random.choice(self.portrait_crops, batch)
        )
        points = self.faces["crop_landmarks"][chosen]  # (B, 468, 2)
        # Second passes see well-placed crops, first passes and hand-drawn boxes do not.
        wide = random.random(batch) < 0.35
        angle = np.where(wide, random.normal(0, 0.3, batch).clip(-0.8, 0.8), random.normal(0, 0.08, batch))
        zoom = np.exp(np.where(wide, random.uniform(-0.35, 0.3, batch), random.normal(0, 0.07, batch)))
        shift = np.where(wide[:, None], random.uniform(-0.14, 0.14, (batch, 2)), random.normal(0, 0.02, (batch, 2)))
        scale = zoom / LANDMARK_MARGIN * size / POSE_SIZE
        flipped = random.random(batch) < 0.5
        sign = np.where(flipped, -1.0, 1.0)
        cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
        linear = np.stack([np.stack([cos * sign, -sin], -1), np.stack([sin * sign, cos], -1)], 1)  # (B, 2, 2)
        offset = (size - 1) / 2 + shift * size - (linear @ np.full((2, 1), (CROP_SIZE - 1) / 2))[..., 0]
        matrices = np.concatenate([linear, offset[..., None]], -1)
        labels = transform_points(points, matrices)
        labels[flipped] = labels[flipped][:, self.mirror]
        pixels = warp_batch(torch.from_numpy(self.faces["crops"][chosen]).permute(0, 3, 1, 2).float(), matrices, size)
        present = np.ones(batch, np.float32)
        for index in np.flatnonzero(random.random(batch) < 0.14):
            pixels[index] = self.scrambled(pixels[index]) if random.random() < 0.25 else self.background(size)
            present[index] = 0
        self.occlude(pixels, 0.25, largest=0.38)
        return {
            "landmark_pixels": self.photograph(pixels),
            "landmark_labels": torch.from_numpy(labels.astype(np.float32)),
            "presence_labels": torch.from_numpy(present),
        }

    def detector_batch(self, batch: int, size: int) -> dict[str, torch.Tensor]:
        """Pictures with none, one, two or three faces."""
        pixels = torch.empty(batch, 3, size, size)
        boxes, keypoints = torch.zeros(batch, 3, 4), torch.zeros(batch, 3, 3, 2)
        for index in range(batch):
            kind = self.random.random()
            canvas = self.background(size) if kind < 0.45 else None
            placed: list[tuple[np.ndarray, np.ndarray]] = []
            if kind >= 0.12:
                canvas, *face = self.place_picture(canvas, size)
                placed.append(face)
            while kind >= 0.12 and len(placed) < 3 and self.random.random() < 0.3:
                canvas, *face = self.place_picture(canvas, size, beside=[box for box, _ in placed])
                if face[0] is None:
                    break
                placed.append(face)
            pixels[index] = canvas
            for order, (box, points) in enumerate(placed):
                boxes[index, order], keypoints[index, order] = torch.from_numpy(box), torch.from_numpy(points)
        self.occlude(pixels, 0.15, largest=0.15)
        return {"detector_pixels": self.photograph(pixels), "face_boxes": boxes, "face_keypoints": keypoints}

    def place_picture(self, canvas: torch.Tensor | None, size: int, beside: list[np.ndarray] | None = None):
        """Put a labelled picture onto `canvas` `(3, S, S)`, or let it be the canvas; `beside` others its head only.

        Returns the canvas, the face's box `(4,)` and keypoints `(3, 2)`; None, None where there was no room.
        """
        random = self.random
        chosen = random.integers(len(self.faces["pictures"]))
        points = self.faces["picture_landmarks"][chosen]
        low, high = points.min(0), points.max(0)
        share = np.exp(random.uniform(np.log(0.09), np.log(0.45 if beside is not None else 1.0)))
        scale = share * size / (high - low).max()
        angle = random.uniform(-0.8, 0.8) if random.random() < 0.3 else random.normal(0, 0.2)
        sign = random.choice([-1.0, 1.0])
        cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
        linear = np.array([[cos * sign, -sin], [sin * sign, cos]])
        room = min(0.35 * share, 0.45) * size
        matrix = np.concatenate(
            [linear, (random.uniform(room, size - room, 2) - linear @ ((low + high) / 2))[:, None]], 1
        )
        moved = transform_points(points, matrix)
        box = np.concatenate([moved.min(0), moved.max(0) - moved.min(0)])
        right, left = eye_centres(moved)
        eyes = (right, left) if sign > 0 else (left, right)
        keypoints = np.stack([*eyes, moved[NOSE_BASE]]).astype(np.float32)

        extent = self.faces["picture_extents"][chosen]
        edges = np.stack([(PICTURE_SIZE - extent) / 2, (PICTURE_SIZE + extent) / 2])
        if beside is not None:
            if any(boxes_touch(box, other, 1.25) for other in beside):
                return canvas, None, None
            middle, reach = (low + high) / 2, (high - low) * random.uniform(0.6, 0.9)
            edges = np.stack([np.maximum(edges[0], middle - reach), np.minimum(edges[1], middle + reach)])
        start, stop = edges.round().astype(int)
        stop = np.maximum(stop, start + 2)
        picture = self.faces["pictures"][chosen][start[1] : stop[1], start[0] : stop[0]]
        matrix[:, 2] += matrix[:, :2] @ start
        warped = warp_batch(torch.from_numpy(picture).permute(2, 0, 1)[None].float(), matrix[None], size)[0]
        if canvas is None and random.random() < 0.5:
            return warped, box.astype(np.float32), keypoints  # its edge pixels continue
        if canvas is None:
            canvas = torch.full((3, size, size), 127.0)  # as letterboxing does
        ys, xs = np.mgrid[0:size, 0:size]
        inside = transform_points(np.stack([xs, ys], -1).reshape(-1, 2), invert_matrix(matrix))
        inside = ((inside > -0.5) & (inside < stop - start - 0.5)).all(-1).reshape(size, size)
        return torch.where(torch.from_numpy(inside), warped, canvas), box.astype(np.float32), keypoints

    def background(self, size: int) -> torch.Tensor:
        """`(3, S, S)` without a face: example pictures, noise, or parts of the portraits beside the face."""
        random, kind = self.random, self.random.random()
        if kind < 0.15:
            coarse = torch.from_numpy(random.uniform(0, 255, (1, 3, *random.integers(1, 24, 2))).astype(np.float32))
            return F.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=False)[0]
        if kind < 0.55:
            picture = self.faceless[random.integers(len(self.faceless))]
            side = int(min(picture.shape[:2]) * random.uniform(0.3, 1.0))
            left, top = (random.integers(0, extent - side + 1) for extent in (picture.shape[1], picture.shape[0]))
            picture = picture[top : top + side, left : left + side]
        else:
            picture = self.beside_the_face(random.integers(len(self.faces["pictures"])))
        pixels = torch.from_numpy(np.ascontiguousarray(np.rot90(picture, random.integers(4)))).permute(2, 0, 1)[None]
        return F.interpolate(pixels.float(), size=(size, size), mode="bilinear", antialias=True)[0]

    def beside_the_face(self, index: int) -> np.ndarray:
        """The largest or next to largest band of a training picture that its face does not reach."""
        extent = self.faces["picture_extents"][index]
        start = ((PICTURE_SIZE - extent) / 2).round().astype(int)
        stop = ((PICTURE_SIZE + extent) / 2).round().astype(int)
        points = self.faces["picture_landmarks"][index]
        low, high = points.min(0), points.max(0)
        margin = 0.1 * (high - low)
        low, high = (low - margin).astype(int), (high + margin).astype(int)
        bands = [
            (start[0], high[1], stop[0], stop[1]),
            (start[0], start[1], low[0], stop[1]),
            (high[0], start[1], stop[0], stop[1]),
        ]
        bands = [(x0, y0, x1, y1) for x0, y0, x1, y1 in bands if x1 - x0 >= 12 and y1 - y0 >= 12]
        if not bands:
            return self.faceless[index % len(self.faceless)]
        x0, y0, x1, y1 = bands[self.random.integers(len(bands))]
        return self.faces["pictures"][index][y0:y1, x0:x1]

    def scrambled(self, face: torch.Tensor) -> torch.Tensor:
        """`(3, S, S)` cut into 4×4 blocks in random order: skin and features, yet no face."""
        side = face.shape[-1] // 4
        blocks = face.view(3, 4, side, 4, side).permute(1, 3, 0, 2, 4).reshape(16, 3, side, side)
        blocks = blocks[torch.from_numpy(self.random.permutation(16))]
        return blocks.view(4, 4, 3, side, side).permute(2, 0, 3, 1, 4).reshape(3, 4 * side, 4 * side)

    def occlude(self, pixels: torch.Tensor, share: float, largest: float) -> None:
        """Lay patches of background, sides up to `largest`·S, on a `share` of `pixels` `(B, 3, S, S)`, in place."""
        size = pixels.shape[-1]
        for index in np.flatnonzero(self.random.random(len(pixels)) < share):
            height, width = (self.random.uniform(0.06, largest, 2) * size).astype(int)
            top, left = self.random.integers(0, size - height), self.random.integers(0, size - width)
            pixels[index, :, top : top + height, left : left + width] = self.background(max(height, width))[
                :, :height, :width
            ]

    def photograph(self, pixels: torch.Tensor) -> torch.Tensor:
        """Light, colour, blur, noise and compression: `(B, 3, S, S)` in 0…255 → in -1…1."""
        random, batch = self.random, len(pixels)

        def per_picture(low, high, share, neutral=1.0):
            values = np.where(random.random(batch) < share, random.uniform(low, high, batch), neutral)
            return torch.from_numpy(values.astype(np.float32)).view(-1, 1, 1, 1)

        size = pixels.shape[-1]
        for index in np.flatnonzero(random.random(batch) < 0.3):
            small = int(size * random.uniform(0.25, 0.8))
            reduced = F.interpolate(pixels[index : index + 1], size=(small, small), mode="bilinear", antialias=True)
            pixels[index] = F.interpolate(reduced, size=(size, size), mode="bicubic", align_corners=False)[0]
        pixels = pixels.clamp_(0, 255)
        grey = pixels.mean(1, keepdim=True)
        pixels = grey + (pixels - grey) * per_picture(0, 1.6, 0.5)
        pixels = pixels * torch.from_numpy(random.normal(1, 0.06, (batch, 3, 1, 1)).astype(np.float32))
        level = pixels.mean((1, 2, 3), keepdim=True)
        pixels = level + (pixels - level) * per_picture(0.45, 1.4, 0.7)
        pixels = pixels * per_picture(0.4, 1.5, 0.6)
        ramp = torch.linspace(-1, 1, size).view(1, 1, 1, -1) * per_picture(-0.5, 0.5, 0.4, 0.0)
        ramp = ramp + torch.linspace(-1, 1, size).view(1, 1, -1, 1) * per_picture(-0.4, 0.4, 0.4, 0.0)
        pixels = (pixels * (1 + ramp)).clamp(0, 255)
        pixels = 255 * (pixels / 255).pow(per_picture(0.6, 1.6, 0.4))
        noise = per_picture(1, 14, 0.35, 0.0)
        pixels = (pixels + torch.randn(pixels.shape) * noise).clamp(0, 255)
        for index in np.flatnonzero(random.random(batch) < 0.15):
            pixels[index] = jpeg(pixels[index], int(random.uniform(15, 75)))
        return pixels / 127.5 - 1


def jpeg(pixels: torch.Tensor, quality: int) -> torch.Tensor:
    """`(3, S, S)` in 0…255 through JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).byte().numpy()).save(buffer, "jpeg", quality=quality)
    return torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1).float()


def boxes_touch(one: np.ndarray, other: np.ndarray, margin: float) -> bool:
    gap = np.abs(one[:2] + one[2:] / 2 - other[:2] - other[2:] / 2)
    return bool((gap < margin * (one[2:] + other[2:]) / 2).all())


def warp_batch(pictures: torch.Tensor, matrices: np.ndarray, size: int) -> torch.Tensor:
    """Pictures `(B, 3, H, W)` under matrices `(B, 2, 3)`, picture → square of `size`; `(B, 3, size, size)`.

    Edge pixels continue outside. A picture that shrinks a lot is averaged down first, by the batch's smallest factor.
    """
    shrink = int(max(1, np.floor(1 / np.sqrt(np.abs(np.linalg.det(matrices[:, :, :2]))).max())))
    shrink = min(shrink, min(pictures.shape[-2:]))
    if shrink > 1:
        pictures = F.avg_pool2d(pictures, shrink)
    inverse = np.stack([invert_matrix(matrix) for matrix in matrices])
    inverse[:, :, 2] = (inverse[:, :, 2] + 0.5) / shrink - 0.5
    inverse[:, :, :2] /= shrink
    linear, offset = torch.from_numpy(inverse[:, :, :2]), torch.from_numpy(inverse[:, :, 2])
    line = torch.arange(size, dtype=torch.float32)
    ys, xs = torch.meshgrid(line, line, indexing="ij")
    grid = torch.stack([xs, ys], -1).view(1, -1, 2) @ linear.transpose(1, 2) + offset[:, None]
    extent = torch.tensor([pictures.shape[-1], pictures.shape[-2]])
    grid = ((2 * grid + 1) / extent - 1).view(-1, size, size, 2)
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def error_in_eye_distances(landmarks: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Distances `(468,)` of landmarks `(468, 2)` from their labels, as shares of the labels' eye distance."""
    return np.linalg.norm(landmarks - labels, axis=-1) / eye_distance(labels)
