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

# Paint below half a grey level cannot be seen.
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
HEAD_REACH = 0.04  # how far a moving head may carry the mesh, of the crop's side
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
        height, width = image.shape[:2]

        def extent(places: np.ndarray, margin: int) -> tuple[int, int, int, int]:
            """Left, top, right and bottom pixel of places `(N, 2)` in fractions of the crop."""
            corners = transform_points((places * size).astype(np.float32), invert_matrix(matrix))
            low, high = np.floor(corners.min(0)) - margin, np.ceil(corners.max(0)) + margin + 1
            return max(0, int(low[0])), max(0, int(low[1])), min(width, int(high[0])), min(height, int(high[1]))

        # Where the face mesh can move pixels, and the part of the picture where anything can: that, or the whole head.
        mesh = add_fade_rings(landmarks.cpu())[0].numpy()
        head = HeadRegion.of_landmarks(landmarks[0].cpu().numpy())
        face = part = extent(mesh, MARGIN)
        if moving_head:
            face = extent(mesh, MARGIN + int(np.ceil(HEAD_REACH * size / scale)))
            part = extent(np.concatenate([mesh, head.box()]), MARGIN)
        self.left, self.top, right, bottom = part
        self.rows = slice(max(0, face[1] - self.top), max(0, min(face[3], bottom) - self.top))
        self.columns = slice(max(0, face[0] - self.left), max(0, min(face[2], right) - self.left))
        pixels = torch.from_numpy(np.ascontiguousarray(image[self.top : bottom, self.left : right]))
        self.part = pixels.permute(2, 0, 1)[None].to(device, dtype)  # (1, 3, h, w)
        ys, xs = np.mgrid[self.top : bottom, self.left : right]
        shape = ys.shape
        places = transform_points(np.stack([xs, ys], -1).reshape(-1, 2).astype(np.float32), matrix)
        places = 2 * ((places + 0.5) / size).reshape(*shape, 2) - 1  # (h, w, 2), the crop is [-1, 1]
        # Flow in cells → in grid_sample's units of the part: where a pixel of the part is taken from.
        to_picture = np.linalg.inv(matrix[:, :2].astype(np.float64)) / self.detail
        to_grid = np.diag([2 / shape[1], 2 / shape[0]]) @ to_picture
        self.to_grid = torch.from_numpy(to_grid).to(device, dtype)
        grid = np.stack([2 * (xs - self.left + 0.5) / shape[1] - 1, 2 * (ys - self.top + 0.5) / shape[0] - 1], -1)
        self.grid = torch.from_numpy(grid).to(device, dtype)[None]  # (1, h, w, 2)
        # A pixel of the face → its place in the crop.
        self.lookup = torch.from_numpy(places[self.rows, self.columns]).to(device, dtype)[None]
        # A dropping jaw moves the neck beyond the crop's edge, where the flow is not known: it fades out before.
        to_edge = ((1 - self.lookup.abs().amax(-1)) / (2 * EDGE_FADE)).clamp(0, 1)
        self.fade = (to_edge * to_edge * (3 - 2 * to_edge))[:, None]  # (1, 1, h', w')
        self.moving_head = moving_head
        if moving_head:
            to_border = np.minimum(np.minimum(xs, width - 1 - xs), np.minimum(ys, height - 1 - ys)) * scale / size
            share = head.share((places + 1) / 2) * _smooth(to_border / PICTURE_FADE)
            shifts = head_shifts(places, 2 * head.pivot - 1, share)  # (3, h, w, 2) in [-1, 1] of the crop
            in_grid = shifts * (size * self.detail / 2) @ to_grid.T
            self.head_grid = torch.from_numpy(in_grid).to(device, dtype).flatten(1)
            face_shifts = np.ascontiguousarray(shifts[:, self.rows, self.columns])
            self.head_lookup = torch.from_numpy(face_shifts).to(device, dtype).flatten(1)

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
        lookup, grid = self.lookup.expand(batch, -1, -1, -1), self.grid.repeat(batch, 1, 1, 1)
        if head_poses is not None:
            lookup = lookup + (head_poses @ self.head_lookup).view_as(lookup)
            grid += (head_poses @ self.head_grid).view_as(grid)
        fields = torch.cat([decoded.flow, decoded.mask, decoded.line], 1).float()
        sampled = F.grid_sample(fields, lookup, padding_mode="zeros", align_corners=False)
        flow, mask, line = sampled[:, :2], sampled[:, 2:3], sampled[:, 3:]
        keep_lips_apart(flow, decoded.flow.float(), lookup)
        flow *= self.fade
        grid[:, self.rows, self.columns] += torch.einsum("ij,bjhw->bhwi", self.to_grid, flow)
        part = self.part.expand(batch, -1, -1, -1)
        drawn = F.grid_sample(part, grid, mode="bicubic", padding_mode="border", align_corners=False)
        face = drawn[:, :, self.rows, self.columns]
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
            face[here] += mask[here] * ((paint + 1) * 127.5 - face[here])
        rows, columns = _extent(line > STILL_MASK)
        if rows is not None:
            here = (slice(None), slice(None), rows, columns)
            face[here] = darken(face[here], line[here], 0.0)
        # Where nothing moves, pixels are sampled at their own places, and rounding gives them back exactly.
        drawn = drawn.round_().clamp_(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        frames = np.repeat(self.image[None], batch, axis=0)
        height, width = drawn.shape[1:3]
        frames[:, self.top : self.top + height, self.left : self.left + width] = drawn
        return frames


@dataclass
class HeadRegion:
    """The head as an ellipse, in the units of its landmarks.

    Attributes:
        centre, half: `(2,)` of the face oval.
        pivot: `(2,)`, what the head rolls about, below the chin.
    """

    centre: np.ndarray
    half: np.ndarray
    pivot: np.ndarray

    @classmethod
    def of_landmarks(cls, landmarks: np.ndarray) -> "HeadRegion":
        """The head of an upright face, landmarks `(468, 2)`."""
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

    def distance(self, places: np.ndarray) -> np.ndarray:
        """Distance of places `(h, w, 2)` from the centre: 1 on the ellipse, `HEAD_FADE` where motion ends."""
        across, down = ((places - self.centre) / self.half).transpose(2, 0, 1)
        return np.hypot(across / HEAD_SIDE, np.where(down < 0, down / HEAD_ABOVE, down / HEAD_BELOW))

    def share(self, places: np.ndarray) -> np.ndarray:
        """How far places `(h, w, 2)` go along with the head: 1 on it, 0 far from it, smoothly."""
        return _smooth((HEAD_FADE - self.distance(places)) / (HEAD_FADE - 1))


def head_shifts(places: np.ndarray, pivot: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Where the pixels of a head that moves a little are fetched from, for each of its three directions.

    Args:
        places: `(h, w, 2)`, where the crop is [-1, 1].
        pivot: `(2,)`, what the head rolls about.
        share: `(h, w)`, how far each place goes along.

    Returns:
        `(3, h, w, 2)`: times a pose's x, y (fractions of the crop's side) and roll (radians; so small that its sine is
        the angle) and summed, they are to be added to `places`.
    """
    across, down = (places - pivot).transpose(2, 0, 1)
    nothing = np.zeros_like(share)
    shifts = [(-2 * share, nothing), (nothing, -2 * share), (share * down, -share * across)]
    return np.stack([np.stack(pair, -1) for pair in shifts])


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
