"""Losses of FaceAlignerModel, and the grid geometry that its heads and losses share.

B pictures, F faces in a picture, G·G cells of the detector's map.
"""

import torch
import torch.nn.functional as F

from avatarsync.face_mesh import (
    INNER_LIPS,
    LEFT_EYE_CONTOUR,
    LOWER_LIP_POSITIONS,
    OUTER_LIPS,
    RIGHT_EYE_CONTOUR,
    UPPER_LIP_POSITIONS,
)

DETECTOR_STRIDE = 8
LIP_WEIGHT, EYELID_WEIGHT = 6.0, 2.0
LIP_RING_WEIGHTS, LIP_GAP_WEIGHT = (1.0, 0.5, 0.5, 2.0), 2.0  # rings from the outside in


def cell_centres(cells: int, stride: int, like: torch.Tensor) -> torch.Tensor:
    """Pixel coordinates `(cells², 2)` of the centres of a square grid's cells, row by row."""
    line = (torch.arange(cells, device=like.device, dtype=like.dtype) + 0.5) * stride - 0.5
    ys, xs = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([xs, ys], -1).flatten(0, 1)


def detector_loss(maps: torch.Tensor, boxes: torch.Tensor, keypoints: torch.Tensor) -> torch.Tensor:
    """Focal loss of the centre heatmap, L1 of boxes and keypoints near the centres.

    Args:
        maps: `(B, 11, G, G)` from `FaceDetector`.
        boxes: `(B, F, 4)` as (x, y, width, height) in detector pixels; width 0 fills the list up.
        keypoints: `(B, F, 3, 2)` in detector pixels.
    """
    maps = maps.float().flatten(2).transpose(1, 2)  # (B, G·G, 11)
    cells = cell_centres(int(maps.shape[1] ** 0.5), DETECTOR_STRIDE, maps)  # (G·G, 2)
    sizes = boxes[..., 2:]
    exists = sizes[..., 0] > 0  # (B, F)
    sizes = sizes.clamp(min=1.0)
    scale = sizes.prod(-1).sqrt()  # (B, F)
    from_centre = (boxes[..., :2] + boxes[..., 2:] / 2)[:, None] - cells[:, None]  # (B, G·G, F, 2)
    squared = from_centre.square().sum(-1)
    spread = (0.12 * scale).clamp(min=0.6 * DETECTOR_STRIDE)
    heat = torch.exp(-squared / (2 * spread[:, None] ** 2)) * exists[:, None]  # (B, G·G, F)
    nearest = torch.zeros_like(heat).scatter_(1, squared.argmin(1, keepdim=True), 1.0) * exists[:, None]
    heat, owner = torch.maximum(heat, nearest).max(-1)  # (B, G·G)

    logits = maps[..., 0]
    probability = logits.sigmoid()
    positive = heat == 1
    hit = -F.logsigmoid(logits) * (1 - probability).square()
    false_alarm = -F.logsigmoid(-logits) * probability.square() * (1 - heat) ** 4
    focal = torch.where(positive, hit, false_alarm).sum() / positive.sum().clamp(min=1)

    # Cells near a centre describe its face, weighted by their heat.
    index = owner[..., None]
    batch = torch.arange(len(boxes), device=boxes.device)[:, None]
    own_size, own_scale = sizes[batch, owner], scale[batch, owner][..., None]  # (B, G·G, 2), (B, G·G, 1)
    own_offset = from_centre.gather(2, index[..., None].expand(-1, -1, 1, 2))[:, :, 0] / DETECTOR_STRIDE
    own_points = (keypoints[batch, owner] - cells[:, None]).flatten(2) / own_scale  # (B, G·G, 6)
    weight = torch.where(heat > 0.4, heat, 0.0)[..., None]
    error = weight * (maps[..., 1:3] - own_offset).abs() / (own_scale / DETECTOR_STRIDE)
    error = error + weight * (maps[..., 3:5] - (own_size / DETECTOR_STRIDE).log()).abs()
    point_error = weight * (maps[..., 5:] - own_points).abs()
    return focal + (error.sum() + 2 * point_error.sum()) / weight.sum().clamp(min=1)


def landmark_weights(num_landmarks: int) -> torch.Tensor:
    """`(num_landmarks,)`, mean 1: the renderer cuts the mouth open along the lips, so they count most."""
    weights = torch.ones(num_landmarks)
    for indices, weight in (
        (OUTER_LIPS + INNER_LIPS, LIP_WEIGHT),
        (RIGHT_EYE_CONTOUR + LEFT_EYE_CONTOUR, EYELID_WEIGHT),
    ):
        weights[[index for index in indices if index < num_landmarks]] = weight
    return weights / weights.mean()


def landmark_loss(landmarks: torch.Tensor, labels: torch.Tensor, present: torch.Tensor, size: int) -> torch.Tensor:
    """Weighted L1 in pixels over the points inside the crops that hold a face.

    Args:
        landmarks, labels: `(B, 468, 2)` in crop pixels.
        present: `(B,)`, 1 where the crop holds a face.
        size: side of the crop. A heatmap cannot say what lies outside of it, so such points do not count.
    """
    inside = ((labels > 0) & (labels < size - 1)).all(-1)
    weight = inside * present[:, None] * landmark_weights(labels.shape[1]).to(labels)  # (B, 468)
    return ((landmarks - labels).abs().sum(-1) * weight).sum() / weight.sum().clamp(min=1)


def lip_loss(lips: torch.Tensor, labels: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """L1 in pixels over the mouths that are seen, inner lips and the gap between them foremost.

    Args:
        lips, labels: `(B, 80, 2)`, the four lip rings in crop pixels.
        seen: `(B,)`, 1 where the mouth is seen.
    """
    rings, wanted = (points.unflatten(1, (4, 20)) for points in (lips, labels))  # (B, 4, 20, 2)
    weights = lips.new_tensor(LIP_RING_WEIGHTS)[:, None]
    errors = ((rings - wanted).abs().sum(-1) * weights).mean((1, 2))

    def gaps(points):
        inner = points[:, -1]
        return inner[:, list(LOWER_LIP_POSITIONS), 1] - inner[:, list(UPPER_LIP_POSITIONS), 1]

    errors = errors + LIP_GAP_WEIGHT * (gaps(rings) - gaps(wanted)).abs().mean(1)
    return (errors * seen).sum() / seen.sum().clamp(min=1)
