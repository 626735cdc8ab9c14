"""What is seen inside the mouth of one portrait: painted by the decoder, or drawn.

The painter works at the crop's resolution, which is enough for a face of its size. In larger ones the inside of the
mouth is drawn (`mouth_interior.py`), in those between some of both; and where all is drawn, nothing is painted. What
the painter's shading does about such lips, one to three grey levels in nine tenths of the pixels that it changes,
nobody sees, and painting takes 7 ms a frame.
"""

from collections.abc import Callable

import numpy as np
import torch

from .expression_transfer import RESTING_WIDTH
from .lip_edges import mouth_width
from .lip_seam import marked_extent
from .modeling_visual_tokenizer import DecoderOutput, Reference
from .mouth_interior import MouthInterior
from .own_teeth import OwnTeeth
from .picture_tone import PictureTone
from .smooth_step import smooth_step
from .teeth_colour import limit_yellow, shaded
from .warping import look_up, soften

# Faces enlarged by the first value have the insides of their mouths painted, from the second on drawn.
DRAWN_SCALES = (1.3, 1.5)
# Paint that is enlarged looks blurred between lips that are not: its detail within a cell or so is drawn so much
# stronger, the whole of it for faces enlarged by the second value and nothing below the first. Stronger, teeth glint;
# on faces of the crop's size, where nothing is enlarged, it would cost 0.1 dB and gain nothing.
PAINT_SHARPENING, SHARPENED_SCALES = 1.2, (1.1, 1.6)
SHARPENED_DETAIL = 1.0  # cells
# Rounded lips keep the light from what is behind them (`MouthInterior.rounded`), and the painter knows that of the man
# of the videos alone: so much light is lost on everybody's paint, and behind the lips of broad smiles, whose teeth are
# painted as bright as they are. These lose it from their edge upwards, as they go out of sight: half of it gone, they
# were grey.
ROUNDED_DARK, SMILES_DARK = 0.4, 0.75
# Mouths up to the first width are at rest, from the second on they smile, of the crop's side. With a broad smile
# everything would be said like /i/.
SMILING_WIDTHS = (RESTING_WIDTH, 0.335)


class MouthColours:
    """The inside of one portrait's mouth at any place of the crop.

    Args:
        image: portrait `(H, W, 3) uint8`.
        reference, landmarks: of this portrait; landmarks `(1, 468, 2)` in fractions of the crop, as they were found.
        matrix: `(2, 3)`, portrait → crop.
        only_paint: whether to paint however large the face is, by a painter that knows this mouth, and to change
            nothing about it.
        articulation: how far lips and jaw will go, 1 as far as codes say.

    Attributes:
        drawn: how much of it is drawn, 0 to 1; the rest is painted.
        smiling: how broad a smile it is at rest, 0 to 1.
        lips: `(4,)`, how far lips do what phonemes ask for (`articulators.py`): as far as the inside is drawn; but
            those of broad smiles are pursed and parted even if it is painted, and all but known ones are opened.
        tone: of the portrait, which what is laid over it takes.
    """

    def __init__(
        self,
        image: np.ndarray,
        reference: Reference,
        landmarks: torch.Tensor,
        matrix: np.ndarray,
        only_paint: bool = False,
        articulation: float = 1.0,
    ):
        self.size = reference.pixels.shape[-1]
        self.pixel = float(np.sqrt(np.linalg.det(matrix[:, :2])))  # of the portrait, in the crop's
        self.sharpening = PAINT_SHARPENING * self._share_between(SHARPENED_SCALES)
        self.own_teeth = OwnTeeth.of_portrait(image, reference, matrix) if self.sharpening else None
        self.only_paint = only_paint
        self.drawn = 0.0 if only_paint else self._share_between(DRAWN_SCALES)
        least, most = SMILING_WIDTHS
        self.smiling = 0.0 if only_paint else float(smooth_step((mouth_width(landmarks) - least) / (most - least)))
        self.rounded_dark = ROUNDED_DARK + self.smiling * (SMILES_DARK - ROUNDED_DARK)
        rounding = max(self.drawn, self.smiling)
        self.lips = landmarks.new_tensor([rounding, self.drawn, rounding, 0.0 if only_paint else 1.0])
        own = reference.pixels.float() + 1, landmarks * self.size, self.size
        self.tone = PictureTone.of(own[0][0])
        self.interior = MouthInterior(*own, white=2.0, articulation=articulation)

    def _share_between(self, scales: tuple[float, float]) -> float:
        """0 for faces that are enlarged by the first of two scales or less, 1 from the second on."""
        least, most = scales
        return float(np.clip((1 / self.pixel - least) / (most - least), 0, 1))

    def lay_over(
        self,
        pixels: torch.Tensor,
        drawing: torch.Tensor,
        paint: torch.Tensor | None,
        lookup: torch.Tensor,
        decoded: DecoderOutput,
        tongue_heights: torch.Tensor | None,
    ) -> None:
        """Lay the insides of mouths over pixels `(B, 3, h, w)`, 0 to 255, in place.

        Args:
            drawing, paint: `(B, 1, h, w)`, how much of each pixel is drawn and painted; no paint where all is drawn.
            lookup: places `(B, h, w, 2)` in the crop, which is [-1, 1].
            tongue_heights: `(B,)`, as `MouthInterior.draw` takes them.
        """
        before = pixels.clone()

        def lay(share: torch.Tensor, inside_at: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
            # Most frames have their lips shut, and heads move by more than lips are apart: what is not seen takes
            # longer than what is.
            rows, columns = marked_extent(share > 0)
            if rows is None:
                return
            frames = torch.nonzero(share.flatten(1).amax(1) > 0).flatten()
            here = (frames, slice(None), rows, columns)
            inside = inside_at(lookup[frames, rows, columns].contiguous(), frames)  # (B', 3, h', w')
            pixels[here] += share[here] * (self.tone.toned(inside + 1) * 127.5 - before[here])

        landmarks = decoded.landmarks
        if paint is not None:
            lay(paint, lambda places, of: self.painted_at(places, landmarks[of], decoded.paint[of]))
        if self.drawn:

            def drawn_at(places: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
                heights = None if tongue_heights is None else tongue_heights[of]
                return self.drawn_at(places, landmarks[of], heights)

            lay(drawing, drawn_at)

    def painted_at(self, lookup: torch.Tensor, landmarks: torch.Tensor, paint: torch.Tensor) -> torch.Tensor:
        """The inside of the mouth, painted: `(B, 3, h, w)` in [-1, 1].

        Args:
            lookup: places `(B, h, w, 2)` in the crop, which is [-1, 1].
            landmarks: `(B, 468, 2)` in fractions of the crop, of the face as it speaks.
            paint: the decoder's `(B, 3, S, S)`.
        """
        copies = None if self.own_teeth is None else self.own_teeth.copies(paint)
        paint = look_up(self._sharpened(paint.float(), copies), lookup, "bicubic", "border")
        if copies is not None:
            paint = paint + look_up(copies, lookup) * self.own_teeth.at(lookup)
        if self.only_paint:
            return paint
        paint = limit_yellow(paint + 1, self.interior.teeth) - 1
        points = landmarks.float() * self.size
        dark = self.interior.rounded(points)[:, None]
        if self.smiling:
            dark = torch.lerp(dark, self.interior.out_of_sight(self._places(lookup), points), self.smiling)
        return shaded(paint + 1, 1 - self.rounded_dark * dark) - 1

    def drawn_at(
        self, lookup: torch.Tensor, landmarks: torch.Tensor, tongue_heights: torch.Tensor | None
    ) -> torch.Tensor:
        """The same, drawn, with what the portrait shows between its lips; `tongue_heights` as `MouthInterior.draw`
        takes them."""
        places, points = self._places(lookup), landmarks.float() * self.size
        drawn = self.interior.draw(places, points, self.pixel, tongue_heights) - 1
        if self.own_teeth is None or not self.interior.own.any():
            return drawn
        return self.own_teeth.lay_before(drawn, self.interior.kept(places, points, tongue_heights))

    def _places(self, lookup: torch.Tensor) -> torch.Tensor:
        """Places in the crop, which is [-1, 1], in its pixels."""
        return (lookup + 1) * (self.size / 2) - 0.5

    def _sharpened(self, paint: torch.Tensor, copies: torch.Tensor | None = None) -> torch.Tensor:
        """Paint `(B, 3, S, S)` with as much more detail as its enlargement asks for, where it is none of the
        portrait's own teeth: see `OwnTeeth.copies`."""
        if not self.sharpening:
            return paint
        blurred = soften(paint.flatten(0, 1)[:, None], SHARPENED_DETAIL).view_as(paint)
        strength = self.sharpening if copies is None else self.sharpening * (1 - copies)
        return (paint + strength * (paint - blurred)).clamp(-1, 1)
