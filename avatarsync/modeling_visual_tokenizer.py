"""Visual tokenizer: a face crop becomes K discrete codes, and codes move and paint a reference ("Tokenization (3)").

Encoder: crop `(B, 3, S, S)` → grid of K code vectors in [-1, 1] → LFQ or VQ codes. Decoder: the codes say an
*expression* of the neutral face; `ExpressionTransfer` puts it on the reference's own landmarks, the face mesh turns it
into a flow, and a small painter draws the inside of the opened mouth and what moving lips change about them:

    out = warp(reference, flow) + mask · (paint - warp(reference, flow)) + shading

Appearance therefore comes from the reference alone. The design's first sketch learned the flow with convolutions; here
codes predict landmarks and the flow is rasterised from the reference's own mesh, because that moves unseen faces
exactly and keeps lips sharp at any resolution.
"""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_avatarsync import VisualTokenizerConfig
from .expression_transfer import ExpressionTransfer
from .face_mesh import (
    INNER_LIPS,
    LEFT_EYE_CONTOUR,
    LIP_RINGS,
    OUTER_LIPS,
    RIGHT_EYE_CONTOUR,
)
from .lip_edges import darken, hide_teeth, inset_open_lips, lip_gaps, lip_line
from .precision import has_fast_bfloat16
from .quantizers import LookupFreeQuantizer, QuantizerOutput, VectorQuantizer
from .teeth_colour import greenest_teeth, limit_green
from .visual_tokenizer_layers import Encoder, ExpressionDecoder, Painter, fading_rim
from .warping import mesh_flow, shrink, soften, warp
from .windows import cut, paste

MOUTH_SOFTNESS = 0.006  # blur of the mouth mask, of the crop's side
EDGE_WEIGHT = 2.0  # of the paint's gradients against its colours: teeth are edges
AROUND_MOUTH_WEIGHT = 0.35  # of pixels beside the painted ones
# Blur of the shading, of the crop's side. What is learned from L1 evens out fine detail that cannot be foretold, pores
# and noise: without blur the mouth was 0.63 instead of 0.74 as sharp as real ones, with it 0.71.
SHADING_SOFTNESS = 0.009
# How far the lips' outline must have moved for all of the shading, of the crop's side: a face at rest has none.
SHADED_MOTION = 0.015
# Lips and lids carry what people look at; the rest of the face only follows.
LIP_WEIGHT, LID_WEIGHT = 6.0, 4.0
# Rounding and spreading move the corners by little; without a term of its own their width is lost among 468 points.
WIDTH_WEIGHT = 1.5


@dataclass
class Reference:
    """What the decoder needs of one or more reference faces; made once per portrait."""

    pixels: torch.Tensor  # (B, 3, S, S) in [-1, 1]
    landmarks: torch.Tensor  # (B, 468, 2) in fractions of S
    codes: torch.Tensor  # (B, K, D), its own codes
    expression: torch.Tensor  # (B, 468, 2), its own expression on the neutral face
    mouth: torch.Tensor  # (B, 1, S, S), 1 inside its own inner lips

    def expand(self, batch: int) -> "Reference":
        """The one reference repeated for `batch` frames, without copying."""
        return Reference(*(value.expand(batch, *value.shape[1:]) for value in vars(self).values()))


@dataclass
class DecoderOutput(ModelOutput):
    """Flow, mask, line and mouth have R = `detail` · S cells a side, the flow more rows where it is asked for what is
    below the crop; pictures have S; landmarks are fractions of S."""

    pixels: torch.Tensor | None = None  # (B, 3, S, S) in [-1, 1]
    landmarks: torch.Tensor | None = None  # (B, 468, 2)
    expression: torch.Tensor | None = None  # (B, 468, 2)
    flow: torch.Tensor | None = None  # (B, 2, R, R) in cells of R
    mask: torch.Tensor | None = None  # (B, 1, R, R), opacity of the paint
    paint: torch.Tensor | None = None  # (B, 3, S, S)
    line: torch.Tensor | None = None  # (B, 1, R, R), strength of the line between closed lips
    shading: torch.Tensor | None = None  # (B, 3, S, S), added to everything else
    mouth: torch.Tensor | None = None  # (B, 1, R, R), 1 inside the opened mouth, with soft edges


@dataclass
class VisualTokenizerOutput(ModelOutput):
    loss: torch.Tensor | None = None
    expression_loss: torch.Tensor | None = None
    pixel_loss: torch.Tensor | None = None
    quantizer_loss: torch.Tensor | None = None
    decoded: DecoderOutput | None = None
    codes: torch.Tensor | None = None  # (B, K, D)
    ids: torch.Tensor | None = None  # (B, K)


class VisualTokenizerModel(PreTrainedModel):
    """Encoder, quantizer and reference-conditioned decoder. See the module's docstring."""

    config_class = VisualTokenizerConfig
    base_model_prefix = "visual_tokenizer"
    main_input_name = "pixel_values"

    def __init__(self, config: VisualTokenizerConfig):
        super().__init__(config)
        self.encoder = Encoder(config)
        if config.quantizer == "lfq":
            self.quantizer = LookupFreeQuantizer(config.code_bits, config.entropy_weight, config.commitment_weight)
        else:
            self.quantizer = VectorQuantizer(config.code_bits, config.commitment_weight)
        self.expression_decoder = ExpressionDecoder(config)
        self.painter = Painter(config)
        self.transfer = ExpressionTransfer()
        self.register_buffer("landmark_weights", _landmark_weights(), persistent=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # PyTorch's own initialisation suits convolutions with group norm; tables are computed, never loaded.
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.GroupNorm, VectorQuantizer)):
            module.reset_parameters()
        elif isinstance(module, ExpressionTransfer):
            fresh = ExpressionTransfer()
            for name, buffer in module.named_buffers():
                buffer.copy_(getattr(fresh, name))
        elif isinstance(module, VisualTokenizerModel):
            module.landmark_weights.copy_(_landmark_weights())
        elif isinstance(module, Painter):
            module.shading_fade.copy_(fading_rim(len(module.shading_fade)))

    def encode(self, pixel_values: torch.Tensor, reference_pixel_values: torch.Tensor | None = None) -> torch.Tensor:
        """Crops `(B, 3, S, S)` in [-1, 1] → continuous code vectors `(B, K, D)` in [-1, 1].

        Args:
            reference_pixel_values: `(B, 3, S, S)`, other pictures of the same people, or one for all: beside them, an
                expression is told from a person's proportions. None: each picture is its own reference.
        """
        return self.encoder(pixel_values, reference_pixel_values)

    def quantize(self, continuous_codes: torch.Tensor) -> QuantizerOutput:
        """Code vectors → discrete codes and ids (straight-through)."""
        return self.quantizer(continuous_codes)

    def expression(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes `(B, K, D)`, discrete or soft → expression `(B, 468, 2)` on the neutral face."""
        return self.expression_decoder(codes, self.transfer.neutral)

    def prepare_reference(self, pixel_values: torch.Tensor, landmarks: torch.Tensor) -> Reference:
        """Reference crops `(B, 3, S, S)` in [-1, 1] with landmarks `(B, 468, 2)` in fractions of S."""
        codes = self.encode(pixel_values)
        size = self.config.crop_size
        landmarks = inset_open_lips(landmarks)
        _, mouth = mesh_flow(landmarks * size, landmarks * size, size)
        return Reference(pixel_values, landmarks, codes, self.expression(codes), mouth)

    def decode(
        self,
        codes: torch.Tensor,
        reference: Reference,
        detail: int = 1,
        foretold: bool = False,
        articulation: float = 1.0,
        painted: bool = True,
        lips: torch.Tensor | None = None,
        below: float = 0.0,
    ) -> DecoderOutput:
        """Codes `(B, K, D)` applied to a reference.

        Args:
            detail: flow and mask get `detail` cells per pixel of the crop, so that lips keep sharp edges in a large
                picture.
            foretold, articulation, lips: as `ExpressionTransfer` takes them.
            painted: whether to paint. Without, half of a frame's arithmetic is saved, and the output has landmarks,
                expression, flow, line and mouth alone.
            below: how far beyond the crop's lower edge the flow is told as well, of its side: it has so many more rows
                of cells. Chins lie at that edge.
        """
        expression = self.expression(codes)
        how = foretold, articulation, lips
        landmarks = self.transfer(reference.landmarks, expression, reference.expression, *how)
        if not painted:
            return self._move(reference, landmarks, expression, detail, below)[0]
        return self.paint(codes, reference, landmarks, expression, detail, below)

    def _move(
        self, reference: Reference, landmarks: torch.Tensor, expression: torch.Tensor | None, detail: int, below: float
    ) -> tuple[DecoderOutput, torch.Tensor, torch.Tensor]:
        """Where everything goes, and in the painter's window what is inside the lips, with hard and with soft edges
        `(B, 1, s, s)`."""
        cells, side = self.config.crop_size * detail, self.config.painter_size
        source = hide_teeth(reference.landmarks, landmarks)
        # Landmarks count from the centre of the crop's first pixel; in cells, from the first cell's.
        first = (detail - 1) / 2
        rows = cells + round(below * cells)
        flow, mouth = mesh_flow(source * cells + first, landmarks * cells + first, (rows, cells))
        mouth = mouth[:, :, :cells]
        window = self.mouth_window(reference.landmarks) * detail
        own_mouth = cut(mouth, window, side * detail)
        fine_mask = (1.5 * soften(own_mouth, MOUTH_SOFTNESS * cells)).clamp(max=1)
        moved = DecoderOutput(
            landmarks=landmarks,
            expression=expression,
            flow=flow,
            line=lip_line(reference.landmarks, landmarks, cells, first),
            mouth=paste(fine_mask, torch.zeros_like(mouth), window),
        )
        return moved, own_mouth, fine_mask

    def paint(
        self,
        codes: torch.Tensor,
        reference: Reference,
        landmarks: torch.Tensor,
        expression: torch.Tensor | None = None,
        detail: int = 1,
        below: float = 0.0,
    ) -> DecoderOutput:
        """The picture of a reference whose landmarks are to be `landmarks` `(B, 468, 2)`."""
        size, side = self.config.crop_size, self.config.painter_size
        motion, own_mouth, fine_mask = self._move(reference, landmarks, expression, detail, below)
        moved = warp(reference.pixels, shrink(motion.flow[:, :, : size * detail], detail) / detail)
        window = self.mouth_window(reference.landmarks)
        known = (cut(fields, window, side) for fields in (moved, reference.pixels, reference.mouth))
        inputs = torch.cat([next(known), next(known), shrink(own_mouth, detail), next(known)], 1)
        # Half of a frame's arithmetic is here. Channels last and, where nothing is to be learned, bfloat16 more than
        # halve its time, and are off by less than a grey level.
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        fast = inputs.device.type == "cpu" and not torch.is_grad_enabled() and has_fast_bfloat16()
        with torch.autocast("cpu", torch.bfloat16) if fast else nullcontext():
            difference, opacity, shading = self.painter(inputs.to(codes.dtype), codes)
        opacity = opacity.to(moved.dtype)
        greenest = greenest_teeth(reference.pixels + 1, reference.landmarks * size, reference.mouth)
        below = inputs[:, :3] + 1
        paint = limit_green(below + difference.to(moved.dtype), below, greenest) - 1
        painted = inputs[:, :3] + shrink(fine_mask, detail) * opacity * (paint - inputs[:, :3])
        outline = list(OUTER_LIPS)
        distance = (landmarks[:, outline] - reference.landmarks[:, outline]).norm(dim=-1).amax(1)  # (B,)
        moving = (distance / SHADED_MOTION).clamp(max=1)[:, None, None, None]
        shading = soften(shading.to(moved.dtype), SHADING_SOFTNESS * size) * moving
        shading = paste(shading, torch.zeros_like(moved), window)
        pixels = darken(paste(painted, moved, window), shrink(motion.line, detail), -1.0) + shading
        if detail > 1:
            opacity = F.interpolate(opacity, scale_factor=detail, mode="bilinear")
        mask = paste(fine_mask * opacity, torch.zeros_like(motion.mouth), window * detail)
        paint = paste(paint, moved, window)
        return DecoderOutput(
            pixels, landmarks, expression, motion.flow, mask, paint, motion.line, shading, motion.mouth
        )

    def mouth_window(self, landmarks: torch.Tensor) -> torch.Tensor:
        """Upper left corner `(B, 2)`, whole pixels, of the painter's window about the mouth."""
        size, side = self.config.crop_size, self.config.painter_size
        centre = landmarks[:, list(OUTER_LIPS)].mean(1) * size
        # A dropping jaw needs more room below than above.
        corner = centre - side * centre.new_tensor([0.5, 0.4])
        return corner.round().long().clamp(0, size - side)

    def forward(
        self,
        pixel_values: torch.Tensor,
        reference_pixel_values: torch.Tensor | None = None,
        reference_landmarks: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        label_landmarks: torch.Tensor | None = None,
        label_expression: torch.Tensor | None = None,
        quantize: torch.Tensor | None = None,
        own_reference_pixel_values: torch.Tensor | None = None,
        led: torch.Tensor | None = None,
    ) -> VisualTokenizerOutput:
        """Tokenize `pixel_values`, apply the codes to the reference, and measure the losses that have labels.

        Args:
            pixel_values: `(B, 3, S, S)` in [-1, 1], the face whose expression is encoded (of anybody).
            reference_pixel_values, reference_landmarks: `(B, 3, S, S)` and `(B, 468, 2)`; without them no pixels are
                decoded and only expression and quantizer learn.
            labels: `(B, 3, S, S)`, the reference's person with that expression.
            label_landmarks: `(B, 468, 2)` of `labels`; given them, the painter paints at the true landmarks, else
                where the codes put them.
            label_expression: `(B, 468, 2)`, the expression of `pixel_values` on the neutral face.
            quantize: `(B,)` bool, which items decode from discrete codes; None: all.
            own_reference_pixel_values: `(B, 3, S, S)`, another picture of whoever `pixel_values` shows; see `encode`.
            led: `(B,)` bool, which items are painted where the codes put them although `label_landmarks` are given.
        """
        continuous = self.encode(pixel_values, own_reference_pixel_values)
        quantized = self.quantize(continuous)
        codes = quantized.codes
        if quantize is not None:
            codes = torch.where(quantize[:, None, None], codes, continuous)
        expression = self.expression(codes)
        loss = quantized.loss
        expression_loss = pixel_loss = None
        if label_expression is not None:
            weights = self.landmark_weights[:, None]
            expression_loss = ((expression - label_expression).abs() * weights).mean() * 100
            gap_error = (lip_gaps(expression) - lip_gaps(label_expression)).abs().mean() * 100
            width_error = (mouth_widths(expression) - mouth_widths(label_expression)).abs().mean() * 100
            expression_loss = expression_loss + gap_error + WIDTH_WEIGHT * width_error
            loss = loss + expression_loss
        if reference_pixel_values is None:
            return VisualTokenizerOutput(
                loss, expression_loss, None, quantized.loss, None, quantized.codes, quantized.ids
            )
        reference = self.prepare_reference(reference_pixel_values, reference_landmarks)
        landmarks = label_landmarks
        if label_landmarks is None or led is not None:
            landmarks = self.transfer(reference.landmarks, expression, reference.expression)
        if label_landmarks is not None and led is not None:
            landmarks = torch.where(led[:, None, None], landmarks, label_landmarks)
        decoded = self.paint(codes, reference, landmarks, expression)
        if labels is not None:
            window = self.mouth_window(reference.landmarks)
            side = self.config.painter_size
            weight = cut(decoded.mask, window, side) + AROUND_MOUTH_WEIGHT
            pixel_loss = paint_loss(cut(decoded.pixels, window, side), cut(labels, window, side), weight)
            loss = loss + pixel_loss
        return VisualTokenizerOutput(loss, expression_loss, pixel_loss, quantized.loss, decoded, codes, quantized.ids)


def _landmark_weights() -> torch.Tensor:
    """`(468,)` weights of the expression loss, mean 1."""
    weights = torch.ones(468)
    weights[list(RIGHT_EYE_CONTOUR + LEFT_EYE_CONTOUR)] = LID_WEIGHT
    for ring in LIP_RINGS:
        weights[list(ring)] = LIP_WEIGHT
    return weights / weights.mean()


def mouth_widths(landmarks: torch.Tensor) -> torch.Tensor:
    """Distance `(B, 2)` between the corners of the outer and of the inner lips."""
    right, left = ([ring[0] for ring in (OUTER_LIPS, INNER_LIPS)], [ring[10] for ring in (OUTER_LIPS, INNER_LIPS)])
    return (landmarks[:, left] - landmarks[:, right]).norm(dim=-1)


def paint_loss(painted: torch.Tensor, real: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """L1 and L1 of gradients over the painted pixels (both in [-1, 1]), in which the mouth decides."""
    weight = mask.detach().clamp(0, 1)
    norm = weight.sum() + 1.0
    error = ((painted - real).abs() * weight).sum() / (3 * norm)
    for axis in (2, 3):
        edges = torch.diff(painted, dim=axis) - torch.diff(real, dim=axis)
        error = error + EDGE_WEIGHT * (edges.abs() * weight.narrow(axis, 1, weight.shape[axis] - 1)).sum() / (3 * norm)
    return error
