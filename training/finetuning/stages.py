"""What each stage learns from a person's footage, and how it is judged on frames that it does not learn from.

1. Painter, from pairs of frames: the reference is moved by its codes to the other frame's expression and painted. The
   loss is that of the tokenizer (L1 and gradients about the mouth) and a perceptual one.
2. Keyframes: the codes of the person's own frames under the units of what is said (Eq. 6).
3. Interpolation: the person's frames between the keyframes that the generator, now adapted, predicts.
4. Lips, that is the expression decoder: the landmarks of the person's frames, from their own codes and from those that
   are spoken in their place.

Stages 2 to 4 are judged by how well the lips that are spoken go with the real ones: 1 - r, of opening and width.
"""

import copy

import numpy as np
import torch
from keyframe_data import KeyframeBatches
from motion_data import Clip, correlations
from train_interpolation import FrameBatches, predict_keyframes, real_keyframes

from avatarsync import AvatarSyncModel
from avatarsync.adapters import LANDMARKS_SAY
from avatarsync.lip_edges import inset_open_lips, lip_gaps
from avatarsync.modeling_visual_tokenizer import (
    WIDTH_WEIGHT,
    Reference,
    VisualTokenizerModel,
    mouth_widths,
    paint_loss,
)
from avatarsync.perceptual import PerceptualDistance
from avatarsync.warping import mesh_flow
from avatarsync.windows import cut

from .adapting import INTERPOLATION, KEYFRAMES, LIPS, PAINTER, Stage
from .faces import Faces, LookBatches

# Against the pixels' L1 and gradients. With more, a person's few frames are learned by heart: on held-out ones LPIPS
# was lower by 9.7, 12.0, 10.3 and 7.4 % with 0.1, 0.3, 0.6 and 1.2.
PERCEPTUAL_WEIGHT = 0.3
AROUND_MOUTH = 0.3  # of pixels beside the painted ones
CONTEXT_NOISE = 0.2  # as train_keyframes.py has it
PREDICTED_SHARE = 0.7  # of the keyframes that interpolation learns between
FRAMES_A_CLIP = 4  # interpolation and lips see so many times more examples a batch than the painter
VALIDATION_FRAMES = 48
MIN_CLIPS = 4  # with fewer there is nothing to validate speech with
# What speaks must be better by this share of its error: less is chance, on the few clips that it is judged by.
LEAST_SPEAKING_GAIN = 0.05


def reference_of(tokenizer: VisualTokenizerModel, batch: dict[str, torch.Tensor]) -> Reference:
    """The batch's references as `PersonReferences.personalise` makes them."""
    size = tokenizer.config.crop_size
    landmarks = inset_open_lips(batch["reference_landmarks"])
    _, mouth = mesh_flow(landmarks * size, landmarks * size, size)
    with torch.no_grad():
        guessed = tokenizer.expression(batch["reference_codes"]).float()
    expression = torch.lerp(guessed, batch["reference_expression"], LANDMARKS_SAY)
    return Reference(batch["reference_pixel_values"], landmarks, batch["reference_codes"], expression, mouth)


def painter_loss(
    tokenizer: VisualTokenizerModel, perceptual: PerceptualDistance, batch: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Scalar; see the module's docstring."""
    continuous = batch["codes"]
    codes = torch.where(batch["quantize"][:, None, None], tokenizer.quantize(continuous).codes, continuous)
    reference = reference_of(tokenizer, batch)
    with torch.no_grad():
        expression = tokenizer.expression(codes).float()
        landmarks = tokenizer.transfer(reference.landmarks, expression, reference.expression)
    decoded = tokenizer.paint(codes, reference, landmarks, expression)
    window, side = tokenizer.mouth_window(reference.landmarks), tokenizer.config.painter_size
    drawn, real = cut(decoded.pixels, window, side).float(), cut(batch["labels"], window, side)
    weight = cut(decoded.mask, window, side).float() + AROUND_MOUTH
    return paint_loss(drawn, real, weight) + PERCEPTUAL_WEIGHT * perceptual(drawn, real).mean()


def painter_stage(model: AvatarSyncModel, learn: Faces, judge: Faces, perceptual: PerceptualDistance, args) -> Stage:
    """Judged by its loss on discrete codes of frames that it does not learn from."""
    tokenizer = model.visual_tokenizer
    held = LookBatches(judge, VALIDATION_FRAMES, seed=1)[0] | {"quantize": torch.ones(VALIDATION_FRAMES).bool()}
    held = {name: value.to(model.device) for name, value in held.items()}

    @torch.no_grad()
    def validate() -> float:
        return painter_loss(tokenizer, perceptual, held).item()

    batches = LookBatches(learn, args.batch_size, args.seed)
    loss = lambda batch: painter_loss(tokenizer, perceptual, batch)  # noqa: E731
    return Stage("painter: own teeth", PAINTER, batches, loss, args.steps, args.learning_rate, validate)


def split_clips(clips: list[Clip]) -> tuple[list[Clip], list[Clip]]:
    """Those to learn from, and those by which it is decided what pays: the last sixth."""
    count = max(1, len(clips) // 6)
    return clips[:-count], clips[-count:]


@torch.no_grad()
def interpolate(model: AvatarSyncModel, clip: Clip, keyframes: torch.Tensor) -> torch.Tensor:
    """Codes `(T, K, D)` of every frame of a clip between keyframes `(T_s, K, D)`."""
    left, right, t, interval = (torch.from_numpy(values) for values in clip.located_frames)
    start, end = keyframes[left].to(model.device), keyframes[right].to(model.device)
    units = clip.unit_ids[left].to(model.device), clip.unit_ids[right].to(model.device)
    times = t.float().to(model.device)[:, None]
    return model.interpolation(start, end, *units, interval.float().to(model.device), times).codes[:, 0]


@torch.no_grad()
def speaking_error(model: AvatarSyncModel, clips: list[Clip], keyframes: list[torch.Tensor]) -> float:
    """1 - r of the lips that are spoken through given keyframes with the real ones, mean of opening and width."""
    model.interpolation.eval()
    codes = [interpolate(model, clip, own) for clip, own in zip(clips, keyframes, strict=True)]
    measured = correlations([model.visual_tokenizer.expression(value).cpu() for value in codes], clips)
    return 1 - (measured["opening_r"] + measured["width_r"]) / 2


def predict(model: AvatarSyncModel, clips: list[Clip], references: torch.Tensor) -> list[torch.Tensor]:
    """Keyframes `(T_s, K, D)` of each clip, as the generator makes them told reference codes `(N, K, D)` in turn."""
    training = model.keyframe_generator.training
    model.keyframe_generator.eval()
    keyframes = predict_keyframes(model.keyframe_generator, model.visual_tokenizer, clips, references)
    model.keyframe_generator.train(training)
    return keyframes


def choose_speaking_reference(model: AvatarSyncModel, clips: list[Clip], references: torch.Tensor) -> int | None:
    """Told of which reference `(N, K, D)` the generator speaks best; None: of the portrait itself."""
    _, judge = split_clips(clips)
    own = torch.stack([clip.told for clip in judge])
    candidates = [own, *(codes[None] for codes in references)]
    errors = [speaking_error(model, judge, predict(model, judge, codes)) for codes in candidates]
    best = int(np.argmin(errors))
    return best - 1 if errors[best] < (1 - LEAST_SPEAKING_GAIN) * errors[0] else None


def keyframe_stage(model: AvatarSyncModel, clips: list[Clip], references: torch.Tensor, args) -> Stage:
    """The keyframe generator, told codes `(N, K, D)` of the adapter's references."""
    quantizer = copy.deepcopy(model.visual_tokenizer.quantizer).cpu()
    learn, judge = split_clips(clips)
    generator = model.keyframe_generator.train()
    batches = KeyframeBatches(
        learn, quantizer, references, generator.config.num_units, args.batch_size, CONTEXT_NOISE, args.seed
    )
    return Stage(
        "keyframes: own way of speaking",
        KEYFRAMES,
        batches,
        lambda batch: generator(**batch).loss,
        args.keyframe_steps,
        args.keyframe_learning_rate,
        lambda: speaking_error(model, judge, predict(model, judge, references)),
        least_gain=LEAST_SPEAKING_GAIN,
    )


def landmark_loss(tokenizer: VisualTokenizerModel, codes: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The tokenizer's, of expressions: all landmarks, lip gaps, mouth widths."""
    expression = tokenizer.expression(codes).float()
    loss = ((expression - wanted).abs() * tokenizer.landmark_weights[:, None]).mean()
    loss = loss + (lip_gaps(expression) - lip_gaps(wanted)).abs().mean()
    return loss + WIDTH_WEIGHT * (mouth_widths(expression) - mouth_widths(wanted)).abs().mean()


def frame_stages(model: AvatarSyncModel, clips: list[Clip], references: torch.Tensor, args) -> list[Stage]:
    """Interpolation and lips, between the keyframes that are predicted told `references`."""
    tokenizer, (learn, judge) = model.visual_tokenizer, split_clips(clips)
    keyframes, judged = (predict(model, part, references) for part in (learn, judge))
    count = FRAMES_A_CLIP * args.batch_size
    batches = FrameBatches(learn, real_keyframes(tokenizer, learn), keyframes, PREDICTED_SHARE, 0, count, args.seed)

    def interpolation_loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        true = batch.pop("expressions")
        result = model.interpolation(**batch)
        return result.loss + 20 * landmark_loss(tokenizer, result.codes[:, 0], true)

    def lips_loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        true, own = batch.pop("expressions"), batch["labels"][:, 0]
        with torch.no_grad():
            spoken = model.interpolation(**batch).codes[:, 0]
        return 100 * (landmark_loss(tokenizer, own, true) + landmark_loss(tokenizer, spoken, true))

    def validate() -> float:
        return speaking_error(model, judge, judged)

    steps, rate = args.interpolation_steps, args.interpolation_learning_rate
    judged_by = {"steps": steps, "learning_rate": rate, "validate": validate, "least_gain": LEAST_SPEAKING_GAIN}
    return [
        Stage("interpolation: own movements", INTERPOLATION, batches, interpolation_loss, **judged_by),
        Stage("expression decoder: own lips", LIPS, batches, lips_loss, **judged_by),
    ]
