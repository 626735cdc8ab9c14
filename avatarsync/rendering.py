"""Rendering at the picture's own resolution.

The decoder works on a crop of S pixels; here its flow and mask are looked up for every pixel of the original picture
and applied to the original pixels. Only the painted mouth interior has the crop's resolution. Whatever does not move
is copied: outside the moved region the output equals the input bit for bit.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from .face_mesh import FACE_OVAL, add_fade_rings
from .image_processing_face import invert_matrix, transform_points, warp_image
from .lip_edges import darken
from .modeling_face_aligner import FaceAlignment
from .modeling_visual_tokenizer import VisualTokenizerModel
from .warping import warp

# Movements below a hundredth of a pixel and paint below half a grey level cannot be seen.
STILL_FLOW = 0.01
STILL_MASK = 0.5 / 255
# Faces this much larger than the crop get flow and mask at twice its resolution.
DETAIL_SCALE = 1.4
MARGIN = 2  # pixels
# A step of the flow from one cell to the next, in cells, from which it is a seam and no slope.
SEAM_JUMP = 1.5
EDGE_FADE = 0.06  # width of the crop's rim in which motion fades out, of its side
# The head that moves as one: an ellipse about the face oval, in its half width and half height to the side, up (hair)
# and down (chin); and how much larger the ellipse is in which the motion has faded out.
HEAD_SIDE, HEAD_ABOVE, HEAD_BELOW, HEAD_FADE = 1.2, 1.45, 1.05, 1.8
# Nothing is fetched from beyond the picture: motion fades out towards its edges, over this share of the crop's side.
PICTURE_FADE = 0.08


class FaceRenderer:
    """Draws frames of one portrait; made once per portrait.

    Args:
        tokenizer: the trained visual tokenizer.
        image: portrait `(H, W, 3) uint8`.
        alignment: the face in it.
        crop_strategy: see `image_processing_face`.
        moving_head: whether `render` will be asked for head motion; the moved region is then larger.

    Attributes:
        reference: the portrait as the decoder knows it.
    """

    def __init__(
        self,
        tokenizer: VisualTokenizerModel,
        image: np.ndarray,
        alignment: FaceAlignment,
        crop_strategy: str,
        moving_head: bool = False,
    ):
        self.tokenizer, self.image = tokenizer, image
        size = tokenizer.config.crop_size
        device, dtype = tokenizer.device, torch.float32
        matrix = alignment.matrix(size, crop_strategy)
        crop = torch.from_numpy(warp_image(image, matrix, size)).to(device, tokenizer.dtype)
        landmarks = torch.from_numpy(transform_points(alignment.landmarks, matrix) / size).to(device, dtype)[None]
        with torch.inference_mode():
            self.reference = tokenizer.prepare_reference(crop.permute(2, 0, 1)[None] / 127.5 - 1, landmarks)
        scale = float(np.sqrt(np.linalg.det(matrix[:, :2])))
        self.detail = 2 if 1 / scale > DETAIL_SCALE else 1

        # The part of the picture that can move, in picture pixels: the mesh with its fade rings, or the whole head.
        vertices = add_fade_rings(landmarks.cpu())[0].numpy() * size
        head = HeadRegion.of_landmarks(landmarks[0].cpu().numpy())
        if moving_head:
            vertices = np.concatenate([vertices, head.box() * size])
        corners = transform_points(vertices, invert_matrix(matrix))
        height, width = image.shape[:2]
        self.left, self.top = (max(0, int(v)) for v in np.floor(corners.min(0)) - MARGIN)
        right, bottom = (int(v) for v in np.ceil(corners.max(0)) + MARGIN + 1)
        right, bottom = min(right, width), min(bottom, height)
        part = torch.from_numpy(np.ascontiguousarray(image[self.top : bottom, self.left : right]))
        self.part = part.permute(2, 0, 1)[None].to(device, dtype)  # (1, 3, h, w)
        ys, xs = np.mgrid[self.top : bottom, self.left : right]
        places = transform_points(np.stack([xs, ys], -1).reshape(-1, 2).astype(np.float32), matrix)
        places = ((places + 0.5) / size).reshape(1, *xs.shape, 2)  # fractions of the crop's side
        # picture pixel → place in the crop, (1, h, w, 2) in [-1, 1]
        self.lookup = torch.from_numpy(2 * places - 1).float().to(device)
        self.head = self.head_pivot = None
        if moving_head:
            to_border = np.minimum(np.minimum(xs, width - 1 - xs), np.minimum(ys, height - 1 - ys)) * scale / size
            share = head.share(places[0]) * _smooth(to_border / PICTURE_FADE)
            self.head = torch.from_numpy(share).float().to(device)[None, :, :, None]  # (1, h, w, 1)
            self.head_pivot = torch.from_numpy(2 * head.pivot - 1).float().to(device)
        # A dropping jaw moves the neck beyond the crop's edge, where the flow is not known: it fades out before.
        to_edge = ((1 - self.lookup.abs().amax(-1)) / (2 * EDGE_FADE)).clamp(0, 1)
        self.fade = (to_edge * to_edge * (3 - 2 * to_edge))[:, None]  # (1, 1, h, w)
        # Flow cells → picture pixels, without the crop's shift.
        back = np.linalg.inv(matrix[:, :2].astype(np.float64)) / self.detail
        self.to_picture = torch.from_numpy(back).to(device, dtype)

    def _head_shift(self, poses: torch.Tensor) -> torch.Tensor:
        """Where heads of poses `(B, 3)` are fetched from: shifts `(B, h, w, 2)` of `lookup`."""
        offset = self.lookup - self.head_pivot - 2 * poses[:, None, None, :2]
        cos, sin = poses[:, 2].cos()[:, None, None], poses[:, 2].sin()[:, None, None]
        x, y = offset.unbind(-1)
        turned = torch.stack([cos * x + sin * y, cos * y - sin * x], -1)
        return self.head * (turned + self.head_pivot - self.lookup)

    @torch.inference_mode()
    def render(
        self,
        codes: torch.Tensor,
        eye_openness: torch.Tensor | None = None,
        head_poses: torch.Tensor | None = None,
    ) -> np.ndarray:
        """Frames `(B, H, W, 3) uint8`.

        Args:
            codes: `(B, K, D)`.
            eye_openness: `(B,)`, if the eyes are steered.
            head_poses: `(B, 3)` as `head_motion.head_poses` returns them, for a renderer made with `moving_head`.
        """
        batch = len(codes)
        decoded = self.tokenizer.decode(codes, self.reference.expand(batch), eye_openness, self.detail)
        lookup = self.lookup.expand(batch, -1, -1, -1)
        if head_poses is not None:
            head_shift = self._head_shift(head_poses)  # (B, h, w, 2)
            lookup = lookup + head_shift
        fields = torch.cat([decoded.flow, decoded.mask, decoded.line], 1).float()
        sampled = F.grid_sample(fields, lookup, padding_mode="zeros", align_corners=False)
        flow, mask, line = sampled[:, :2], sampled[:, 2:3], sampled[:, 3:]
        keep_lips_apart(flow, decoded.flow.float(), lookup)
        flow = self.fade * flow
        if head_poses is not None:
            flow += head_shift.permute(0, 3, 1, 2) * (decoded.flow.shape[-1] / 2)
        flow = torch.einsum("ij,bjhw->bihw", self.to_picture, flow)
        moved = (flow.abs().amax(1, keepdim=True) > STILL_FLOW) | (mask > STILL_MASK) | (line > STILL_MASK)
        part = self.part.expand(batch, -1, -1, -1)
        drawn = warp(part, flow, mode="bicubic")
        rows, columns = _extent(mask > STILL_MASK)
        if rows is not None:
            here = (slice(None), slice(None), rows, columns)
            paint = F.grid_sample(
                decoded.paint.float(),
                lookup[:, rows, columns],
                mode="bicubic",
                padding_mode="border",
                align_corners=False,
            )
            drawn[here] += mask[here] * ((paint + 1) * 127.5 - drawn[here])
        rows, columns = _extent(line > STILL_MASK)
        if rows is not None:
            here = (slice(None), slice(None), rows, columns)
            drawn[here] = darken(drawn[here], line[here], 0.0)
        drawn = torch.where(moved, drawn, part).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        frames = np.repeat(self.image[None], batch, axis=0)
        height, width = drawn.shape[1:3]
        frames[:, self.top : self.top + height, self.left : self.left + width] = drawn
        return frames


@dataclass
class HeadRegion:
    """The head as an ellipse, in fractions of the crop's side.

    Attributes:
        centre, half: `(2,)` of the face oval.
        pivot: `(2,)`, what the head rolls about, below the chin.
    """

    centre: np.ndarray
    half: np.ndarray
    pivot: np.ndarray

    @classmethod
    def of_landmarks(cls, landmarks: np.ndarray) -> "HeadRegion":
        """landmarks `(468, 2)` in fractions of the crop's side."""
        oval = landmarks[list(FACE_OVAL)]
        low, high = oval.min(0), oval.max(0)
        centre, half = (low + high) / 2, (high - low) / 2
        return cls(centre, half, centre + (0, 1.3 * half[1]))

    def box(self) -> np.ndarray:
        """Corners `(4, 2)` of the box beyond which nothing moves."""
        left, right = self.centre[0] - np.array([1, -1]) * HEAD_FADE * HEAD_SIDE * self.half[0]
        top = self.centre[1] - HEAD_FADE * HEAD_ABOVE * self.half[1]
        bottom = self.centre[1] + HEAD_FADE * HEAD_BELOW * self.half[1]
        return np.array([[left, top], [right, top], [left, bottom], [right, bottom]])

    def share(self, places: np.ndarray) -> np.ndarray:
        """How far places `(h, w, 2)` go along with the head: 1 on it, 0 far from it, smoothly."""
        across, down = ((places - self.centre) / self.half).transpose(2, 0, 1)
        distance = np.hypot(across / HEAD_SIDE, np.where(down < 0, down / HEAD_ABOVE, down / HEAD_BELOW))
        return _smooth((HEAD_FADE - distance) / (HEAD_FADE - 1))


def keep_lips_apart(flow: torch.Tensor, cells: torch.Tensor, lookup: torch.Tensor) -> None:
    """Undo, in place, what interpolation made of the flow where two lips meet.

    The upper lip comes from above the reference's teeth and the lower one from below: halfway between the two flows
    lie the teeth, which would shine through the closed lips. Each pixel takes the flow of its own side. The border
    between the sides is where the interpolated flow passes the middle, so that it is as smooth as the lips.

    Args:
        flow: `(B, 2, h, w)` interpolated.
        cells: `(B, 2, R, R)`, what it was interpolated from.
        lookup: `(B, h, w, 2)` places of the pixels among the cells, as grid_sample takes them.
    """
    size = cells.shape[-1]
    rows, columns = _extent(cells[:, 1:].diff(dim=2).abs() > SEAM_JUMP)  # between a row of cells and the next
    if rows is None:
        return
    place = (lookup + 1) * size / 2 - 0.5  # (B, h, w, 2) in cells
    near = (place[..., 1] > rows.start) & (place[..., 1] < rows.stop)
    near &= (place[..., 0] > columns.start - 1) & (place[..., 0] < columns.stop)
    rows, columns = _extent(near[:, None])
    if rows is None:
        return
    place = place[:, rows, columns].clamp(0, size - 1.001)
    corner = place.floor().long()
    right, below = (place - corner).unbind(-1)  # (B, h', w') each
    weights = torch.stack([(1 - right) * (1 - below), right * (1 - below), (1 - right) * below, right * below], 1)
    index = corner[..., 1] * size + corner[..., 0]
    index = torch.stack([index, index + 1, index + size, index + size + 1], 1)  # (B, 4, h', w')
    four = cells.flatten(2).gather(2, index.flatten(1)[:, None].expand(-1, 2, -1))
    four = four.unflatten(2, index.shape[1:])  # (B, 2, 4, h', w')
    down = four[:, 1]
    seam = (down[:, 2:] - down[:, :2]).abs().amax(1, keepdim=True) > SEAM_JUMP  # (B, 1, h', w')
    middle = (down.amin(1, keepdim=True) + down.amax(1, keepdim=True)) / 2
    weights = weights * ((down > middle) == ((weights * down).sum(1, keepdim=True) > middle))  # (B, 4, h', w')
    own_side = (weights[:, None] * four).sum(2) / weights.sum(1, keepdim=True).clamp_min(1e-6)
    part = flow[:, :, rows, columns]
    flow[:, :, rows, columns] = torch.where(seam, own_side, part)


def _smooth(values: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, and a smooth step between."""
    values = np.clip(values, 0, 1)
    return values * values * (3 - 2 * values)


def _extent(mask: torch.Tensor) -> tuple[slice | None, slice | None]:
    """Rows and columns that a mask `(B, 1, H, W)` touches in any picture; None, None where it is empty."""
    rows = torch.nonzero(mask.any((0, 1, 3))).flatten()
    columns = torch.nonzero(mask.any((0, 1, 2))).flatten()
    if len(rows) == 0:
        return None, None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
