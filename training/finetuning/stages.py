"""What each stage learns from a person's footage, and how it is judged on frames that it does not learn from.

1. Look: painter and expression decoder, from pairs of frames. The reference is moved by its codes to the other frame's
   expression and painted; the loss is that of the tokenizer (L1 and gradients about the mouth, landmarks, gaps and
   widths) and a perceptual one.
2. Keyframes: the codes of the person's own frames under the units of what is said (Eq. 6).
3. Interpolation: the person's frames between keyframes that the generator, now adapted, predicts.
"""

import copy

import numpy as np
import torch
from keyframe_data import KeyframeBatches
from motion_data import Clip
from train_interpolation import FrameBatches, predict_keyframes, real_keyframes, where_frames_lie

from avatarsync import AvatarSyncModel
from avatarsync.face_mesh import LIP_RINGS
from avatarsync.lip_edges import inset_open_lips, lip_gaps
from avatarsync.modeling_visual_tokenizer import (
    WIDTH_WEIGHT,
    Reference,
    VisualTokenizerModel,
    cut,
    mouth_widths,
    paint_loss,
)
from avatarsync.perceptual import PerceptualDistance
from avatarsync.schedule import locate
from avatarsync.warping import mesh_flow

from .adapting import INTERPOLATION, KEYFRAMES, LOOK, Stage
from .faces import Faces, LookBatches

# Weights of the look's losses.
PIXEL_WEIGHT, EXPRESSION_WEIGHT, PERCEPTUAL_WEIGHT = 10.0, 1.0, 2.0
AROUND_MOUTH = 0.3  # of pixels beside the painted ones
CONTEXT_NOISE = 0.2  # as train_keyframes.py has it
VALIDATION_FRAMES = 48
MIN_CLIPS = 4  # with fewer there is nothing to validate speech with
LIPS = [point for ring in LIP_RINGS for point in ring]


def reference_of(tokenizer: VisualTokenizerModel, batch: dict[str, torch.Tensor]) -> Reference:
    """The batch's references as `PersonReferences.personalise` makes them: their expression is known."""
    size = tokenizer.config.crop_size
    landmarks = inset_open_lips(batch["reference_landmarks"])
    _, mouth = mesh_flow(landmarks * size, landmarks * size, size)
    return Reference(
        batch["reference_pixel_values"], landmarks, batch["reference_codes"], batch["reference_expression"], mouth
    )


def look_loss(
    tokenizer: VisualTokenizerModel, perceptual: PerceptualDistance | None, batch: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Scalar; see the module's docstring."""
    continuous = batch["codes"]
    codes = torch.where(batch["quantize"][:, None, None], tokenizer.quantize(continuous).codes, continuous)
    expression, wanted = tokenizer.expression(codes).float(), batch["label_expression"]
    weights = tokenizer.landmark_weights[:, None]
    loss = ((expression - wanted).abs() * weights).mean()
    loss = loss + (lip_gaps(expression) - lip_gaps(wanted)).abs().mean()
    loss = loss + WIDTH_WEIGHT * (mouth_widths(expression) - mouth_widths(wanted)).abs().mean()
    reference = reference_of(tokenizer, batch)
    landmarks = tokenizer.transfer(reference.landmarks, expression, reference.expression)
    decoded = tokenizer.paint(codes, reference, landmarks, expression)
    window, side = tokenizer.mouth_window(reference.landmarks), tokenizer.config.painter_size
    drawn, real = cut(decoded.pixels, window, side), cut(batch["labels"], window, side)
    weight = cut(decoded.mask, window, side) + AROUND_MOUTH
    loss = 100 * EXPRESSION_WEIGHT * loss + PIXEL_WEIGHT * paint_loss(drawn.float(), real, weight.float())
    if perceptual is not None:
        loss = loss + PERCEPTUAL_WEIGHT * perceptual(drawn.float(), real).mean()
    return loss


def look_stage(
    model: AvatarSyncModel, learn: Faces, judge: Faces, perceptual: PerceptualDistance | None, args
) -> Stage:
    """Painter and expression decoder."""
    tokenizer = model.visual_tokenizer
    held = LookBatches(judge, VALIDATION_FRAMES, seed=1)[0] | {"quantize": torch.ones(VALIDATION_FRAMES).bool()}
    held = {name: value.to(model.device) for name, value in held.items()}

    @torch.no_grad()
    def validate() -> float:
        return look_loss(tokenizer, perceptual, held).item()

    batches = LookBatches(learn, args.batch_size, args.seed)
    return Stage(
        "look: teeth, lips, lids",
        LOOK,
        batches,
        lambda batch: look_loss(tokenizer, perceptual, batch),
        args.steps,
        args.learning_rate,
        validate,
    )


def split_clips(clips: list[Clip]) -> tuple[list[Clip], list[Clip]]:
    """Those to learn from, and those by which it is decided what pays: the last eighth."""
    count = max(1, len(clips) // 8)
    return clips[:-count], clips[-count:]


@torch.no_grad()
def lip_error(model: AvatarSyncModel, clips: list[Clip], codes: list[torch.Tensor]) -> float:
    """Mean distance, in % of the crop's side, of the lips that codes `(T, K, D)` of each clip say, from the real."""
    errors = []
    for clip, value in zip(clips, codes, strict=True):
        found = model.visual_tokenizer.expression(value.to(model.device)).cpu()
        errors.append((found - clip.expressions)[:, LIPS].norm(dim=-1).mean())
    return 100 * float(torch.stack(errors).mean())


def keyframe_stage(model: AvatarSyncModel, clips: list[Clip], references: torch.Tensor, args) -> Stage:
    """The keyframe generator; references `(N, K, D)` are the codes of the adapter's."""
    quantizer = copy.deepcopy(model.visual_tokenizer.quantizer).cpu()
    learn, judge = split_clips(clips)
    generator = model.keyframe_generator
    batches = KeyframeBatches(
        learn, quantizer, references, generator.config.num_units, args.batch_size, CONTEXT_NOISE, args.seed
    )

    def validate() -> float:
        generator.eval()
        keyframes = predict_keyframes(generator, model.visual_tokenizer, judge, references)
        codes = []
        for clip, own in zip(judge, keyframes, strict=True):
            left, right, t, _ = locate(np.arange(len(clip.codes)) / clip.fps, clip.keyframes)
            t = torch.from_numpy(t).float()[:, None, None]
            codes.append(own[left] * (1 - t) + own[right] * t)
        generator.train()
        return lip_error(model, judge, codes)

    return Stage(
        "keyframes: how the lips speak",
        KEYFRAMES,
        batches,
        lambda batch: generator(**batch).loss,
        args.keyframe_steps,
        args.keyframe_learning_rate,
        validate,
    )


def interpolation_stage(model: AvatarSyncModel, clips: list[Clip], references: torch.Tensor, args) -> Stage:
    """The interpolator, between keyframes that the generator predicts."""
    tokenizer, interpolation = model.visual_tokenizer, model.interpolation
    learn, judge = split_clips(clips)
    model.keyframe_generator.eval()
    predicted = [predict_keyframes(model.keyframe_generator, tokenizer, part, references) for part in (learn, judge)]
    batches = FrameBatches(
        learn, real_keyframes(tokenizer, learn), predicted[0], 0.7, 0, 4 * args.batch_size, args.seed
    )
    weights = tokenizer.landmark_weights[:, None]

    def loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        true = batch.pop("expressions")
        result = interpolation(**batch)
        expression = tokenizer.expression(result.codes[:, 0])
        landmarks = ((expression - true).abs() * weights).mean()
        widths = (mouth_widths(expression) - mouth_widths(true)).abs().mean()
        return result.loss + 20 * landmarks + 20 * widths

    @torch.no_grad()
    def validate() -> float:
        codes = []
        for clip, own in zip(judge, predicted[1], strict=True):
            left, right, t, interval = (torch.from_numpy(values) for values in where_frames_lie(clip))
            start, end = own[left].to(model.device), own[right].to(model.device)
            units = clip.unit_ids[left].to(model.device), clip.unit_ids[right].to(model.device)
            times = t.float().to(model.device)[:, None]
            codes.append(interpolation(start, end, *units, interval.float().to(model.device), times).codes[:, 0])
        return lip_error(model, judge, codes)

    return Stage(
        "interpolation: how they get there",
        INTERPOLATION,
        batches,
        loss,
        args.interpolation_steps,
        args.interpolation_learning_rate,
        validate,
    )
