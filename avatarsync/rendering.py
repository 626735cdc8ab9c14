"""Rendering at the picture's own resolution.

The decoder works on a crop of S pixels; here its flow and mask are looked up for every pixel of the original picture
that may move, and applied to the original pixels; the inside of the mouth is painted or drawn (`mouth_colours.py`).
Whatever does not move is copied: outside the moved region the output equals the input bit for bit.

What takes the time is fetching pixels: bicubic interpolation reads sixteen for every one it draws. The portrait is
therefore enlarged once, bicubically, and read bilinearly, in strips of rows that stay in the processor's cache while
all frames of a batch are drawn from them. That takes a third of the time and differs by less than a grey level.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from .boxes import Box, counted_from, cut, overlap
from .eyelids import EYES, Eyelid
from .face_mesh import INNER_LIPS, OUTER_LIPS, add_fade_rings
from .head_region import HeadRegion, head_shifts
from .image_processing_face import invert_matrix, transform_points, warp_image
from .lip_edges import darken
from .lip_seam import Seam, keep_lips_apart, marked_extent, seams
from .modeling_face_aligner import FaceAlignment
from .modeling_visual_tokenizer import DecoderOutput, VisualTokenizerModel
from .mouth_colours import MouthColours
from .place_tables import PlaceTable, between, nodes_about, num_nodes
from .smooth_step import smooth_step
from .warping import look_up

# Paint below half a grey level cannot be seen.
STILL_MASK = 0.5 / 255
# Faces this much larger than the crop get flow and mask at twice its resolution.
DETAIL_SCALE = 1.4
MARGIN = 2  # pixels
EDGE_FADE = 0.06  # width of the crop's rim in which motion fades out, of its side
# Chins lie at the crop's lower edge, and what is below goes with them: so much of its side is moved beyond that edge.
BELOW = 0.25
HEAD_REACH = 0.04  # how far a moving head may carry the mesh, of the crop's side
# Nothing is fetched from beyond the picture: motion fades out towards its edges, over this share of the crop's side.
PICTURE_FADE = 0.08
# How often a side's pixels are enlarged, by the most pixels of the moving part for which that is affordable.
ENLARGEMENTS = ((3, 1_000_000), (2, 4_000_000))
# Products of other numbers of frames may be rounded otherwise (odd ones everywhere; eight and four, in bfloat16, on
# some CPUs), and a frame is not to depend on its neighbours.
BATCH_MULTIPLE = 4
STRIP_BYTES = 1_000_000  # of the enlarged picture: what a core's cache holds
# How far lips may go, beyond their outline to the left, up, right and down, in mouth widths: there each pixel has its
# own place in large pictures, too, whatever is drawn beside it.
LIPS_REACH = np.array([[-0.25, -0.25], [0.25, 0.6]])


@dataclass
class Strip:
    """Some rows of the moving part.

    Attributes:
        pixels: rows and columns of the part.
        nodes: rows and columns of the nodes about these.
    """

    pixels: Box
    nodes: Box


@dataclass
class FaceMotion:
    """What the face's own motion adds to the places that pixels of the moving part are fetched from.

    Attributes:
        nodes, at_nodes: rows and columns of nodes, and what is added there, `(B, 2, h', w')`; None where every pixel
            is a node.
        fine, at_fine: rows and columns of pixels, and what is added to them besides, `(B, 2, h, w)`; None where no
            pixel moves.
        seam: which of the fine pixels two lips share.
    """

    nodes: Box | None = None
    at_nodes: torch.Tensor | None = None
    fine: Box | None = None
    at_fine: torch.Tensor | None = None
    seam: Seam | None = None


class FaceRenderer:
    """Draws frames of one portrait; made once per portrait.

    Args:
        tokenizer: the trained visual tokenizer.
        image: portrait `(H, W, 3) uint8`.
        alignment: the face in it.
        crop_strategy: see `image_processing_face`.
        moving_head: whether `render` will be asked for head motion; the moved region is then larger.
        prepare: whether to make the tables that `render` needs at once; else whoever calls `prepare` does.
        articulation: how far lips and jaw go, 1 as far as codes say.
        only_paint: see `MouthColours`.

    Attributes:
        reference: the portrait as the decoder knows it.
        num_pixels: of the part of the picture in which anything can move.
    """

    def __init__(
        self,
        tokenizer: VisualTokenizerModel,
        image: np.ndarray,
        alignment: FaceAlignment,
        crop_strategy: str,
        moving_head: bool = False,
        prepare: bool = True,
        articulation: float = 1.0,
        only_paint: bool = False,
    ):
        self.tokenizer, self.image, self.moving_head = tokenizer, image, moving_head
        self.articulation = articulation
        self.size = size = tokenizer.config.crop_size
        device, dtype = tokenizer.device, torch.float32
        self.matrix = matrix = alignment.matrix(size, crop_strategy)
        self.to_picture = invert_matrix(matrix)
        crop = torch.from_numpy(warp_image(image, matrix, size)).to(device, tokenizer.dtype)
        landmarks = torch.from_numpy(transform_points(alignment.landmarks, matrix) / size).to(device, dtype)[None]
        with torch.inference_mode():
            self.reference = tokenizer.prepare_reference(crop.permute(2, 0, 1)[None] / 127.5 - 1, landmarks)
        self.scale = float(np.sqrt(np.linalg.det(matrix[:, :2])))
        self.detail = 2 if 1 / self.scale > DETAIL_SCALE else 1
        self.mouth = MouthColours(image, self.reference, landmarks, matrix, only_paint, articulation)
        # Where the face mesh can move pixels, and the part of the picture where anything can: that, or the whole head.
        mesh = add_fade_rings(landmarks.cpu())[0].numpy()
        self.head = HeadRegion.of_landmarks(landmarks[0].cpu().numpy())
        face = part = self._extent_in_picture(mesh, MARGIN)
        if moving_head:
            face = self._extent_in_picture(mesh, MARGIN + int(np.ceil(HEAD_REACH * size / self.scale)))
            part = self._extent_in_picture(np.concatenate([mesh, self.head.box()]), MARGIN)
        self.left, self.top, self.right, self.bottom = part
        self.rows = slice(max(0, face[1] - self.top), max(0, min(face[3], self.bottom) - self.top))
        self.columns = slice(max(0, face[0] - self.left), max(0, min(face[2], self.right) - self.left))
        self.lips = self._pixels_near(self._extent_in_picture(_around_lips(landmarks[0].cpu().numpy()), MARGIN))
        self.num_pixels = (self.bottom - self.top) * (self.right - self.left)
        self.step = max(1, round(1 / (self.scale * self.detail)))  # pixels to a cell of flow
        self.lids = [Eyelid(image, alignment.landmarks, eye, device) for eye in EYES]
        self.strips: list[Strip] | None = None
        if prepare:
            self.prepare()

    def prepare(self) -> None:
        """Make the tables of where pixels are fetched from."""
        device, size, step = self.tokenizer.device, self.size, self.step
        self._enlarge(self.image[self.top : self.bottom, self.left : self.right], device)
        sides = self.bottom - self.top, self.right - self.left
        ys, xs = step * np.mgrid[: num_nodes(sides[0], step), : num_nodes(sides[1], step)]
        # In units of grid_sample: places in the part, and places in the crop, which is [-1, 1].
        span = np.maximum(np.array(sides[::-1]) - 1, 1)
        grid = 2 * np.stack([xs, ys], -1) / span - 1  # (h', w', 2)
        xs, ys = xs + self.left, ys + self.top
        places = transform_points(np.stack([xs, ys], -1).reshape(-1, 2).astype(np.float32), self.matrix)
        places = 2 * ((places + 0.5) / size).reshape(grid.shape) - 1
        # Beyond the edges of the crop, and of what is below, no flow is known: motion fades out before.
        x, y = places[..., 0], places[..., 1]
        to_edge = np.minimum(1 - np.abs(x), np.minimum(1 + y, 1 + 2 * BELOW - y))
        fade = smooth_step(to_edge / (2 * EDGE_FADE))[None, None]  # (1, 1, h', w')
        self.fade = torch.from_numpy(fade).to(device, torch.float32)
        # Flow in cells → what it adds to places in the part.
        to_grid = np.diag(2 / span) @ np.linalg.inv(self.matrix[:, :2].astype(np.float64)) / self.detail
        self.to_grid = to_grid.tolist()
        moves = np.zeros(grid.shape[:2], bool)
        moves[nodes_about(self.rows, step), nodes_about(self.columns, step)] = True
        carried = carried_grid = None
        if self.moving_head:
            height, width = self.image.shape[:2]
            to_border = np.minimum(np.minimum(xs, width - 1 - xs), np.minimum(ys, height - 1 - ys))
            share = self.head.share((places + 1) / 2) * smooth_step(to_border * self.scale / size / PICTURE_FADE)
            moves |= share > 0
            centre, pivot = 2 * self.head.centre - 1, 2 * self.head.pivot - 1
            carried = head_shifts(places, centre, pivot, share)  # (4, h', w', 2)
            carried_grid = carried * (size * self.detail / 2) @ to_grid.T
        self.lookup = PlaceTable(places, carried, step, device)
        self.grid = PlaceTable(grid, carried_grid, step, device)
        self.strips = self._cut_into_strips(moves, sides, device)

    def _extent_in_picture(self, places: np.ndarray, margin: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom pixel of places `(N, 2)` in fractions of the crop."""
        height, width = self.image.shape[:2]
        corners = transform_points((places * self.size).astype(np.float32), self.to_picture)
        low, high = np.floor(corners.min(0)) - margin, np.ceil(corners.max(0)) + margin + 1
        return max(0, int(low[0])), max(0, int(low[1])), min(width, int(high[0])), min(height, int(high[1]))

    def _enlarge(self, part: np.ndarray, device: torch.device) -> None:
        """Keep the moving part `(h, w, 3)` as it is read: enlarged about its pixels' centres, where that fits."""
        self.enlargement = next((times for times, most in ENLARGEMENTS if self.num_pixels <= most), 1)
        pixels = torch.from_numpy(np.ascontiguousarray(part)).permute(2, 0, 1)[None].to(device, torch.float32)
        if self.enlargement > 1:
            # Every pixel itself is among the enlarged ones: where nothing moves, it is read as it was.
            sides = [(side - 1) * self.enlargement + 1 for side in pixels.shape[2:]]
            pixels = F.interpolate(pixels, sides, mode="bicubic", align_corners=True).clamp_(0, 255)
        self.pixels = pixels + 0.5  # (1, 3, h·n, w·n): cutting decimals off rounds

    def _cut_into_strips(self, moves: np.ndarray, sides: tuple[int, int], device: torch.device) -> list[Strip]:
        """The rows of the part, of so many pixels a side, in which any node `(h', w')` moves."""
        (height, width), step = sides, self.step
        deep = height if device.type != "cpu" else max(8, STRIP_BYTES // (12 * width * self.enlargement**2))
        deep += -deep % step
        strips = []
        for start in range(0, height, deep):
            rows = slice(start, min(start + deep, height))
            nodes = nodes_about(rows, step)
            moving = np.flatnonzero(moves[nodes].any(0))
            if len(moving) == 0:
                continue
            # As far as the next nodes, which do not move.
            columns = slice(max(0, int(moving[0] - (step > 1)) * step), min(width, int(moving[-1] + 1) * step))
            strips.append(Strip((rows, columns), (nodes, nodes_about(columns, step))))
        return strips

    @torch.inference_mode()
    def render(
        self,
        codes: torch.Tensor,
        eye_openness: torch.Tensor | None = None,
        head_poses: torch.Tensor | None = None,
        articulators: torch.Tensor | None = None,
    ) -> np.ndarray:
        """Frames `(B, H, W, 3) uint8`.

        Args:
            codes: `(B, K, D)`.
            eye_openness: `(B,)`, share of the portrait's own eye opening; None: as the portrait has them.
            head_poses: `(B, 4)` as `head_motion.head_poses` returns them, for a renderer made with `moving_head`.
            articulators: `(B, 5)` as `articulators.articulators_at` returns them, obeyed as far as `MouthColours.lips`
                says; None: the tongue is low, and lips do what codes say.
        """
        if self.strips is None:
            self.prepare()
        batch = len(codes)
        decoded = self._decode(codes, articulators)
        frames = np.repeat(self.image[None], batch, axis=0)
        height, width = frames.shape[1:3]
        part = frames[:, self.top : height, self.left : width]
        motion = self._face_motion(decoded, head_poses)
        for strip in self.strips:
            moved, fine = overlap(strip.nodes, motion.nodes), overlap(strip.pixels, motion.fine)
            if head_poses is None and moved is None and fine is None:
                continue
            nodes = self.grid.at_nodes(*strip.nodes, head_poses, batch)
            if moved is not None:
                cut(nodes, strip.nodes, moved).add_(cut(motion.at_nodes, motion.nodes, moved))
            places = between(nodes, self.step, *strip.pixels)  # (B, 2, h, w)
            if fine is not None:
                cut(places, strip.pixels, fine).add_(cut(motion.at_fine, motion.fine, fine))
            drawn = self._fetch(places.movedim(1, -1))
            if fine is not None and motion.seam is not None:
                down, across = (first.start - own.start for first, own in zip(motion.fine, strip.pixels, strict=True))
                shared = motion.seam.of_rows(fine[0].start - motion.fine[0].start, fine[0].stop - motion.fine[0].start)
                frame, row, column = shared.place
                row, column = row + down, column + across
                other = places[frame, :, row, column] + shared.change
                other = self._fetch(other[None, None])[0, :, 0].T  # (N, 3)
                drawn[frame, :, row, column] = torch.lerp(drawn[frame, :, row, column], other, shared.share[:, None])
            rows, columns = strip.pixels
            _put(part[:, rows, columns], drawn)
        tongue = None if articulators is None else articulators[:, 0]
        self._draw_mouth(part, decoded, head_poses, tongue)
        if eye_openness is not None:
            self._draw_lids(part, 1 - eye_openness, head_poses)
        return frames

    @torch.inference_mode()
    def landmarks(self, codes: torch.Tensor, articulators: torch.Tensor | None = None) -> torch.Tensor:
        """Where `render` draws the face for the same arguments, heads held still: `(B, 468, 2)` in fractions of the
        crop's side."""
        return self._decode(codes, articulators).landmarks.float()

    def _fetch(self, grid: torch.Tensor) -> torch.Tensor:
        """Pixels `(B, 3, h, w)`, 0.5 to 255.5, of the portrait's moving part at places `(B, h, w, 2)`."""
        fetched = F.grid_sample(
            self.pixels.expand(len(grid), -1, -1, -1),
            grid,
            mode="bilinear" if self.enlargement > 1 else "bicubic",
            padding_mode="border",
            align_corners=True,
        )
        # Bicubic interpolation overshoots.
        return fetched.clamp_(0.5, 255.5) if self.enlargement == 1 else fetched

    def _decode(self, codes: torch.Tensor, articulators: torch.Tensor | None) -> DecoderOutput:
        """What the decoder makes of codes `(B, K, D)`, the same whatever B: always BATCH_MULTIPLE at a
        time, the last ones filled up with copies."""
        batch, missing = len(codes), -len(codes) % BATCH_MULTIPLE
        lips = None if articulators is None else articulators[:, 1:] * self.mouth.lips
        if missing:
            codes = torch.cat([codes, codes[-1:].expand(missing, -1, -1)])
            lips = None if lips is None else torch.cat([lips, lips[-1:].expand(missing, -1)])
        # A generator cannot know to which side a head turned or a jaw slid: what its codes say of that is noise.
        how = {"foretold": True, "articulation": self.articulation, "painted": self.mouth.drawn < 1, "below": BELOW}
        reference, parts = self.reference.expand(BATCH_MULTIPLE), []
        for first in range(0, len(codes), BATCH_MULTIPLE):
            now = slice(first, first + BATCH_MULTIPLE)
            asked = None if lips is None else lips[now]
            parts.append(self.tokenizer.decode(codes[now], reference, self.detail, lips=asked, **how))
        return DecoderOutput(**{name: torch.cat([part[name] for part in parts])[:batch] for name in parts[0]})

    def _face_motion(self, decoded: DecoderOutput, head_poses: torch.Tensor | None) -> FaceMotion:
        """What the decoded flow moves, for each pose of the head."""
        box = self._box(_where_any(decoded.flow != 0))
        if box is None:
            return FaceMotion()
        cells, batch, motion = decoded.flow.float(), len(decoded.flow), FaceMotion(fine=box)
        if self.step > 1:
            motion.nodes = tuple(nodes_about(span, self.step) for span in box)
            lookup = self.lookup.at_nodes(*motion.nodes, head_poses, batch).movedim(1, -1)
            flow = look_up(cells, _from_above(lookup, cells))
            motion.at_nodes = self._to_grid(flow * self.fade[(..., *motion.nodes)])
            # Between the nodes, but not about lips: their flow leaps from one to the other.
            motion.fine = overlap(box, self.lips)
        if motion.fine is None:
            return motion
        lookup = self.lookup.places(*motion.fine, head_poses, batch)
        flow = look_up(cells, _from_above(lookup, cells))
        about = tuple(nodes_about(span, self.step) for span in motion.fine)
        fade = between(self.fade[(..., *about)], self.step, *motion.fine)
        leaping = overlap(motion.fine, self._box(F.pad(seams(cells), (0, 0, 0, 1))))
        if leaping is not None:
            down, across = counted_from(motion.fine, leaping)
            cell = 1 / (self.scale * self.detail)  # pixels
            # Landmarks count from the centre of the crop's first pixel, lookups from its edge.
            inner_lips = 2 * (decoded.landmarks[:, list(INNER_LIPS)].float() + 0.5 / self.size) - 1
            seam = keep_lips_apart(flow[:, :, down, across], cells, lookup[:, down, across], inner_lips, cell)
            if seam is not None:
                frame, row, column = seam.place
                row, column = row + down.start, column + across.start
                change = seam.change * fade[0, 0, row, column, None]
                motion.seam = Seam((frame, row, column), self._to_grid(change.T[None])[0].T, seam.share)
        motion.at_fine = self._to_grid(flow * fade)
        if motion.nodes is not None:
            motion.at_fine -= between(cut(motion.at_nodes, motion.nodes, about), self.step, *motion.fine)
        return motion

    def _to_grid(self, flow: torch.Tensor) -> torch.Tensor:
        """Flow `(B, 2, …)` in cells as what it adds to places in the moving part."""
        x, y = flow.unbind(1)
        return torch.stack([a * x + b * y for a, b in self.to_grid], 1)

    def _draw_mouth(self, part: np.ndarray, decoded: DecoderOutput, head_poses, tongue_heights) -> None:
        """Paint into the part `(B, h, w, 3) uint8`: the mouth's interior, the line between shut lips, the shading."""
        drawn = self.mouth.drawn
        masks, shaded = [drawn * decoded.mouth, decoded.line], None
        if drawn < 1:
            masks.append((1 - drawn) * decoded.mask)
            shading = self.mouth.tone.toned((1 - drawn) * decoded.shading)
            shaded = self._box(_where_any(shading != 0))
        masks = torch.cat(masks, 1)
        painted = self._box(_where_any(masks > STILL_MASK))
        if painted is None and shaded is None:
            return
        # Both boxes lie within this one.
        sides = zip(*(box for box in (painted, shaded) if box is not None), strict=True)
        rows, columns = (slice(min(one.start for one in pair), max(one.stop for one in pair)) for pair in sides)
        pixels = part[:, rows, columns]
        face = torch.from_numpy(np.stack([pixels[..., channel] for channel in range(3)], 1))
        face = face.to(decoded.flow.device, torch.float32)

        if painted is not None:
            lookup, mouth = self.lookup.places(*painted, head_poses, len(part)), cut(face, (rows, columns), painted)
            masks = look_up(masks, lookup)
            drawing, line, *paint = torch.where(masks > STILL_MASK, masks, 0.0).split(1, 1)
            self.mouth.lay_over(mouth, drawing, paint[0] if paint else None, lookup, decoded, tongue_heights)
            mouth.copy_(darken(mouth, line, 0.0, self.mouth.tone.colour))
        if shaded is not None:
            shading = look_up(shading, self.lookup.places(*shaded, head_poses, len(part)))
            cut(face, (rows, columns), shaded).add_(shading, alpha=127.5)
        _put(pixels, face.round_().clamp_(0, 255))

    def _draw_lids(self, part: np.ndarray, closing: torch.Tensor, head_poses: torch.Tensor | None) -> None:
        """Draw eyelids into the part `(B, h, w, 3) uint8`, come down by shares `(B,)`."""
        blinking = torch.nonzero(closing > 0).flatten()
        if len(blinking) == 0:
            return
        poses = None if head_poses is None else head_poses[blinking]
        frames = blinking.cpu().numpy()
        reach = int(np.ceil(HEAD_REACH * self.size / self.scale)) if self.moving_head else 0
        for lid in self.lids:
            left, top, right, bottom = lid.extent
            box = self._pixels_near((left - reach, top - reach, right + reach, bottom + reach))
            if box is None:
                continue
            # Pixels → where in the portrait what they show is.
            cells = (self.lookup.places(*box, poses, len(frames)) + 1) * (self.size / 2) - 0.5
            x, y = cells.unbind(-1)
            places = torch.stack([float(a) * x + float(b) * y + float(c) for a, b, c in self.to_picture], -1)
            pixels = part[:, box[0], box[1]]
            drawn = torch.from_numpy(pixels[frames]).to(places.device, torch.float32).movedim(3, 1).contiguous()
            lid.draw(drawn, places, closing[blinking])
            pixels[frames] = drawn.round_().clamp_(0, 255).byte().movedim(1, 3).cpu().numpy()

    def _box(self, cells: torch.Tensor) -> Box | None:
        """Rows and columns of the face that marked cells `(B, 1, R, R)` can reach; None where none is marked."""
        rows, columns = marked_extent(cells)
        if rows is None:
            return None
        # A cell reaches as far as its neighbours' centres, and as far as the head can carry it.
        reach = 1.0 / cells.shape[-1] + (HEAD_REACH if self.moving_head else 0.0)
        x = np.array([columns.start, columns.stop]) / cells.shape[-1] + (-reach, reach)
        y = np.array([rows.start, rows.stop]) / cells.shape[-1] + (-reach, reach)
        corners = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
        return self._pixels_near(self._extent_in_picture(corners, margin=1))

    def _pixels_near(self, extent: tuple[int, int, int, int]) -> Box | None:
        """Rows and columns, in the moving part, of the face's pixels in an extent of the picture; None where there are
        none."""
        left, top, right, bottom = extent
        near = slice(top - self.top, bottom - self.top), slice(left - self.left, right - self.left)
        return overlap(near, (self.rows, self.columns))


def _around_lips(landmarks: np.ndarray) -> np.ndarray:
    """Corners `(2, 2)` of what lips may reach, of landmarks `(468, 2)`."""
    lips = landmarks[list(OUTER_LIPS)]
    low, high = lips.min(0), lips.max(0)
    return np.stack([low, high]) + LIPS_REACH * (high - low)[0]


def _from_above(lookup: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Places `(B, h, w, 2)` in the crop, which is [-1, 1], as places among cells that begin with the crop's and have
    more rows."""
    x, y = lookup.unbind(-1)
    return torch.stack([x, (y + 1) * (cells.shape[-1] / cells.shape[-2]) - 1], -1)


def _put(pixels: np.ndarray, drawn: torch.Tensor) -> None:
    """Write what was drawn, `(B, 3, h, w)` from 0 to 255, into pixels `(B, h, w, 3)` uint8, decimals cut off."""
    drawn = drawn.byte().cpu().numpy()
    for channel in range(3):  # twice as fast as moving the axis
        pixels[..., channel] = drawn[:, channel]


def _where_any(cells: torch.Tensor) -> torch.Tensor:
    """`(B, 1, H, W)`, whether any channel of `(B, C, H, W)` bool is set; several times as fast as `any`."""
    return functools.reduce(torch.logical_or, cells.split(1, 1))
