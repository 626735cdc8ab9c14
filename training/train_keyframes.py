"""Train the keyframe generator (FKG) in the paper's two phases (section Facial training strategy), and in a third.

    python training/train_keyframes.py --data DATA --tokenizer TOKENIZER --out PHASE1 --phase 1
    python training/train_keyframes.py --data DATA --tokenizer TOKENIZER --init_from PHASE1 --out PHASE2 --phase 2 \
        --learning_rate 5e-5 --max_train_steps 1000
    python training/train_keyframes.py --data DATA --tokenizer TOKENIZER --init_from PHASE2 --out PHASE3 --phase 3 \
        --learning_rate 5e-4 --max_train_steps 1000

Phase 1: cross-entropy of the tokens (Eq. 6). Phase 2: Eq. 10, that is the same plus perceptual, identity and facial
similarity losses (Eq. 7–9) of pictures that the frozen decoder makes from straight-through soft codes. Their networks
are named in logs and card for what they are; by default those that work offline, the paper's own by path
(docs/feature_networks.md).

Phase 3 is not the paper's. The pipeline shows each keyframe as its mean code; this phase makes that the face which is
on average nearest to people's. Most clips are given the model's own mean embeddings in the place of the true tokens,
and what the expression of the mean codes leaves unexplained is added to the cross-entropy. With --interpolation the
same is asked of the frames between, as that frozen interpolator draws them. It may widen the window of attention:
positions are offsets, so what was learned stays.

Prints the held-out clips' correlation of lip opening and mouth width, keyframes joined by straight lines.
"""

import argparse
import copy

import numpy as np
import torch
from command_line import run_script
from expression_loss import UnexplainedExpression, frames_between
from keyframe_data import KeyframeBatches, Quantizer, collate
from model_card import dataset_facts
from motion_data import Clip, correlations, load_clips, portrait_codes
from tokenizer_data import load_rows
from trained_stages import load_trained
from training_options import build_config, sizes, training_parser
from training_utils import TrainingRun, start_accelerator

from avatarsync.configuration_avatarsync import KeyframeGeneratorConfig
from avatarsync.data.dataset import Rows, load
from avatarsync.errors import CheckpointError, InvalidArgumentError
from avatarsync.expected_keyframes import expected_keyframes
from avatarsync.identity import load_face_embedding
from avatarsync.lip_edges import lip_gaps
from avatarsync.losses import CompositeLoss, LossWeights
from avatarsync.modeling_interpolation import InterpolationModel
from avatarsync.modeling_keyframes import KeyframeGeneratorModel
from avatarsync.modeling_visual_tokenizer import VisualTokenizerModel
from avatarsync.perceptual import load_perceptual
from avatarsync.phonemes import VisualMapping, speak
from avatarsync.quantizers import digits_to_ids
from avatarsync.schedule import locate, timed_units
from avatarsync.text_frame_attention import EncodedUnits

UNSEEN_SENTENCES = (
    "Papa map. Bob, mama, mop.",
    "Many people came to my mother's apple farm before the morning.",
    "The quick brown fox jumps over the lazy dog.",
    "Hello, it is good to see you. A moment ago I was only a picture.",
)
OPEN_UNITS = ("AA", "AE", "AO", "AW", "AY", "EH")
PICTURE_INPUTS = (
    "picture_places",
    "reference_pixel_values",
    "reference_landmarks",
    "real_pixel_values",
    "real_landmarks",
)
FRAME_INPUTS = ("frame_left", "frame_right", "frame_time", "frame_interval", "frame_expressions")
SHOWN_CLIPS, SHOWN_KEYFRAMES = 4, 10
REACH = ("past_units", "future_units")
GIVEN_SIZES = ("codebook_size", "num_tokens")  # the tokenizer's


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = training_parser(__doc__, weight_decay=0.05)
    parser.add_argument("--tokenizer", required=True, help="trained visual tokenizer")
    parser.add_argument("--phase", type=int, choices=(1, 2, 3), default=1)
    modes = ("full", "causal", "limited_history", "one_to_one", "window")
    parser.add_argument("--attention_mode", choices=modes, default="window", help="of a new model's mask")
    parser.add_argument("--past_units", type=int, help="of mode window (2; with --init_from: as it was)")
    parser.add_argument("--future_units", type=int, help="of mode window (2; with --init_from: as it was)")
    parser.add_argument("--context_noise", type=float, help="share of units replaced in training (0.2, phase 3: 0.3)")
    parser.add_argument("--noisy_share", type=float, help="of the clips: units are replaced at all (1, phase 3: 0.5)")
    parser.add_argument("--means_share", type=float, default=0.6, help="of phase 3's clips: given mean embeddings")
    parser.add_argument("--expression_weight", type=float, default=1.0, help="of phase 3's unexplained expression")
    parser.add_argument("--interpolation", help="trained interpolator: phase 3 also learns from the frames between")
    parser.add_argument("--frames_per_clip", type=int, default=24, help="of phase 3 with --interpolation")
    parser.add_argument("--lambda_reconstruction", type=float, default=1.0, help="λ1 of Eq. 10")
    parser.add_argument("--lambda_lpips", type=float, default=1.0, help="λ2")
    parser.add_argument("--lambda_identity", type=float, default=1.0, help="λ3")
    parser.add_argument("--lambda_facial", type=float, default=1.0, help="λ4")
    parser.add_argument("--perceptual", default="st-lpips", help="network of λ2")
    parser.add_argument("--identity", default="dlib", help="network of λ3; the paper's: arcface:FILE")
    parser.add_argument("--facial", default="dlib", help="network of λ4; the paper's: facenet512:FILE")
    parser.add_argument("--pictures_per_clip", type=int, default=2, help="keyframes of a clip that phase 2 decodes")
    args = parser.parse_args(argv)
    if args.phase > 1 and args.init_from is None:
        raise InvalidArgumentError(f"--phase {args.phase} goes on from phase {args.phase - 1}: --init_from its folder")
    third = args.phase == 3
    if third and not 0 < args.means_share <= 1:
        raise InvalidArgumentError(f"--means_share is {args.means_share}: phase 3 needs more than 0, and at most 1")
    if args.interpolation and not third:
        raise InvalidArgumentError("--interpolation belongs to --phase 3: the others look at keyframes alone")
    if args.interpolation and args.frames_per_clip < 1:
        raise InvalidArgumentError(f"--frames_per_clip is {args.frames_per_clip}: give at least 1")
    if args.context_noise is None:
        args.context_noise = 0.3 if third else 0.2
    if args.noisy_share is None:
        args.noisy_share = 0.5 if third else 1.0
    sizes(args, KeyframeGeneratorConfig, GIVEN_SIZES)
    return args


def build_model(args: argparse.Namespace, tokenizer: VisualTokenizerModel) -> KeyframeGeneratorModel:
    wanted = {name: getattr(tokenizer.config, name) for name in GIVEN_SIZES}
    reach = {name: getattr(args, name) for name in REACH if getattr(args, name) is not None}
    if args.init_from is not None:
        model = load_trained(KeyframeGeneratorModel, args.init_from)
        for name, value in wanted.items():
            if getattr(model.config, name) != value:
                raise CheckpointError(
                    f"{args.init_from} has {name} {getattr(model.config, name)}, the tokenizer {value}: give its own"
                )
        if reach and model.config.attention_mode == "window":
            config = KeyframeGeneratorConfig(**(model.config.to_dict() | reach))
            widened = KeyframeGeneratorModel(config)
            widened.load_state_dict(model.state_dict())
            return widened
        return model
    attention = {"attention_mode": args.attention_mode} | reach
    return KeyframeGeneratorModel(build_config(KeyframeGeneratorConfig, args, **wanted, **attention))


def build_composite_loss(args: argparse.Namespace) -> CompositeLoss:
    """Eq. 10 with the networks that its weights ask for."""
    weights = LossWeights(args.lambda_reconstruction, args.lambda_lpips, args.lambda_identity, args.lambda_facial)
    identity = load_face_embedding(args.identity) if weights.identity else None
    facial = identity
    if weights.facial_similarity and (identity is None or args.facial != args.identity):
        facial = load_face_embedding(args.facial)
    perceptual = load_perceptual(args.perceptual) if weights.lpips else None
    return CompositeLoss(weights, perceptual, identity, facial)


def loss_networks(composite: CompositeLoss) -> list[str]:
    """What measures each term of Eq. 10, by its own name."""
    networks = {"λ2": composite.perceptual, "λ3": composite.identity, "λ4": composite.facial_similarity}
    return ["λ1: cross-entropy"] + [f"{term}: {network.name}" for term, network in networks.items() if network]


def decode_straight_through(
    tokenizer: VisualTokenizerModel, logits: torch.Tensor, pictures: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures `(P, 3, S, S)` and landmarks `(P, 468, 2)` of the likeliest codes, with the mean codes' gradient.

    Args:
        logits: `(B, T, K, F, V_f)` of the generator.
    """
    item, frame = pictures["picture_places"].unbind(-1)
    logits = logits[item, frame].float()  # (P, K, F, V_f)
    soft = tokenizer.quantizer.expected_codes_factorised(logits)
    hard = tokenizer.quantizer.ids_to_codes(digits_to_ids(logits.argmax(-1), logits.shape[-1]))
    codes = hard + soft - soft.detach()
    reference = tokenizer.prepare_reference(pictures["reference_pixel_values"], pictures["reference_landmarks"])
    decoded = tokenizer.decode(codes, reference)
    return decoded.pixels, decoded.landmarks


def frames_that_count(frames: dict[str, torch.Tensor], counted: torch.Tensor) -> torch.Tensor:
    """Which frames `(B, M)` lie between two keyframes that both count, of `(B, T)`."""
    return counted.gather(1, frames["frame_left"]) & counted.gather(1, frames["frame_right"])


class HeldOut:
    """Held-out clips, each with a portrait's codes for its reference; eyes are steered, so the condition is open."""

    def __init__(
        self,
        tokenizer: VisualTokenizerModel,
        quantizer: Quantizer,
        clips: list[Clip],
        rows: Rows,
        portraits: torch.Tensor,
    ):
        self.tokenizer, self.quantizer, self.clips, self.rows = tokenizer, quantizer, clips, rows
        self.portraits, self.device = portraits, tokenizer.device

    def inputs(self, index: int) -> dict[str, torch.Tensor]:
        reference = self.portraits[index % len(self.portraits)][None]
        batch = collate([self.clips[index]], self.quantizer, reference)
        return {name: value.to(self.device) for name, value in batch.items()}

    def encode(self, model: KeyframeGeneratorModel, batch: dict[str, torch.Tensor]) -> EncodedUnits:
        inputs = {name: batch[name] for name in ("unit_ids", "durations", "reference_codes")}
        return model.encode(condition=torch.ones_like(batch["condition"]), **inputs)

    def evaluate(self, model: KeyframeGeneratorModel) -> dict[str, float]:
        quantizer, losses = self.tokenizer.quantizer, []
        expressions = {"greedy": [], "expected": []}
        for index, clip in enumerate(self.clips):
            batch = self.inputs(index)
            losses.append(model(**batch).loss.item())
            encoded = self.encode(model, batch)
            left, right, t, _ = locate(np.arange(len(clip.codes)) / clip.fps, clip.keyframes)
            t = torch.from_numpy(t).float().to(self.device)[:, None, None]
            for name, codes in (
                ("greedy", quantizer.ids_to_codes(model.decode(encoded).codes[0])),
                ("expected", expected_keyframes(model, self.tokenizer, encoded)),
            ):
                expression = self.tokenizer.expression(codes[left] * (1 - t) + codes[right] * t)
                expressions[name].append(expression.cpu())
        out = {"loss": float(np.mean(losses))}
        for name, values in expressions.items():
            out |= {f"{name}_{key}": value for key, value in correlations(values, self.clips).items()}
        return out | self.unseen_words(model)

    def unseen_words(self, model: KeyframeGeneratorModel) -> dict[str, float]:
        """Inner-lip gap, in % of the crop's side, per kind of unit in sentences whose words a corpus may not have."""
        mapping = VisualMapping.default()
        gaps = {"closed": [], "silent": [], "open": []}
        for sentence in UNSEEN_SENTENCES:
            speech = speak(sentence)
            units = timed_units(speech.track, mapping, speech.duration)
            ids = torch.tensor([[unit.unit_id for unit in units]], device=self.device)
            durations = torch.tensor([[unit.duration for unit in units]], device=self.device)
            reference = self.quantizer.codes_to_ids(self.portraits[:1]).to(self.device)
            condition = torch.ones(*ids.shape, 1, device=self.device)
            codes = expected_keyframes(model, self.tokenizer, model.encode(ids, durations, condition, reference))
            opening = lip_gaps(self.tokenizer.expression(codes))[:, 4] * 100
            for index, gap in zip(ids[0].tolist(), opening.tolist(), strict=True):
                name = mapping.units[index]
                kind = {"M": "closed", "SIL": "silent"}.get(name, "open" if name in OPEN_UNITS else None)
                if kind:
                    gaps[kind].append(gap)
        return {f"unseen_{kind}_gap": float(np.mean(values)) for kind, values in gaps.items()}

    def sheet(self, model: KeyframeGeneratorModel) -> np.ndarray:
        """Two rows a clip: real keyframes, and the generated ones on the clip's first frame."""
        rows = []
        for index, clip in list(enumerate(self.clips))[:SHOWN_CLIPS]:
            chosen = np.linspace(0, len(clip.unit_ids) - 1, SHOWN_KEYFRAMES).round().astype(int)
            crops = [self.rows.crop(clip.row, frame) for frame in clip.keyframe_indices[chosen]]
            rows.append(np.concatenate(crops, 1))
            pixels = torch.from_numpy(self.rows.crop(clip.row, 0)).permute(2, 0, 1)[None].to(self.device) / 127.5 - 1
            landmarks = torch.from_numpy(np.array(self.rows.landmarks(clip.row)[:1])).float().to(self.device)
            reference = self.tokenizer.prepare_reference(pixels, landmarks).expand(SHOWN_KEYFRAMES)
            codes = expected_keyframes(model, self.tokenizer, self.encode(model, self.inputs(index)))
            decoded = self.tokenizer.decode(codes[torch.from_numpy(chosen).to(self.device)], reference).pixels
            pictures = ((decoded + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
            rows.append(np.concatenate(list(pictures), 1))
        return np.concatenate(rows)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    accelerator = start_accelerator(args)
    data = load(args.data)
    train_rows, portraits, _ = load_rows(data, "train", args.data)
    held_rows = load_rows(data, "test", args.data)[0]
    tokenizer = load_trained(VisualTokenizerModel, args.tokenizer).eval().requires_grad_(False)
    composite = build_composite_loss(args).to(accelerator.device) if args.phase == 2 else None
    model = build_model(args, tokenizer)

    tokenizer.to(accelerator.device)
    cache = args.data / "cache"
    with accelerator.main_process_first():
        clips, held = (load_clips(tokenizer, rows, name, cache) for rows, name in ((train_rows, "train"),
                                                                                   (held_rows, "test")))  # fmt: skip
        references = portrait_codes(tokenizer, portraits, clips, cache)
    quantizer = copy.deepcopy(tokenizer.quantizer).cpu()  # where batches are made
    batches = KeyframeBatches(
        clips,
        quantizer,
        references,
        model.config.num_units,
        args.batch_size,
        args.context_noise,
        args.seed,
        rows=train_rows if args.phase == 2 else None,
        pictures_per_clip=args.pictures_per_clip,
        noisy_share=args.noisy_share,
        means_share=args.means_share if args.phase == 3 else 0.0,
        frames_per_clip=args.frames_per_clip if args.interpolation else 0,
    )
    unexplained = interpolation = None
    if args.phase == 3:
        unexplained = UnexplainedExpression(tokenizer, torch.cat(batches.expressions))
    if args.interpolation:
        interpolation = load_trained(InterpolationModel, args.interpolation).eval().requires_grad_(False)
        interpolation.to(accelerator.device)
    held_out = HeldOut(tokenizer, quantizer, held, held_rows, references)
    optimizer = torch.optim.AdamW(model.parameters(), args.learning_rate, weight_decay=args.weight_decay,
                                  betas=(0.9, 0.98))  # fmt: skip
    prepared, prepared_optimizer = accelerator.prepare(model, optimizer)
    facts = dataset_facts(args.data, len(train_rows), len(portraits or ()), data.settings)
    mode = model.config.attention_mode
    facts["Stage"] = f"Keyframe generator (FKG), phase {args.phase}, attention mode `{mode}`."
    if mode == "window":
        facts["Stage"] += f" Window: {model.config.past_units} units before, {model.config.future_units} after."
    if composite is not None:
        facts["Losses"] = ", ".join(loss_networks(composite))
    if unexplained is not None:
        facts["Losses"] = f"cross-entropy, unexplained expression of the mean codes (weight {args.expression_weight})"
    run = TrainingRun(accelerator, args, model, optimizer, facts)

    for batch in run.micro_batches(batches):
        pictures = {name: batch.pop(name) for name in PICTURE_INPUTS if name in batch}
        wanted, shut = batch.pop("expressions", None), batch.pop("shut", None)
        frames = {name: batch.pop(name) for name in FRAME_INPUTS if name in batch}
        with accelerator.accumulate(prepared):
            result = prepared(**batch)
            loss, losses = result.loss, {"loss": result.loss}
            if unexplained is not None:
                counted = batch["label_mask"] & batch["from_means"][:, None]
                expression = 0 * loss
                codes = unexplained.mean_codes(result.logits)
                if counted.any():
                    expression = unexplained(codes[counted], wanted[counted], shut[counted])
                loss = loss + args.expression_weight * expression
                losses = {"loss": loss, "cross_entropy": result.loss, "unexplained_expression": expression}
                if interpolation is not None:
                    between = frames_that_count(frames, counted)
                    unexplained_frames = 0 * loss
                    if between.any():
                        moving = frames_between(interpolation, codes, frames | batch, between)
                        anyhow = torch.zeros(len(moving), dtype=torch.bool, device=moving.device)
                        unexplained_frames = unexplained(moving, frames["frame_expressions"][between], anyhow)
                    loss = loss + args.expression_weight * unexplained_frames
                    losses |= {"loss": loss, "unexplained_frames": unexplained_frames}
            if composite is not None:
                generated, landmarks = decode_straight_through(tokenizer, result.logits, pictures)
                real = pictures["real_pixel_values"], landmarks, pictures["real_landmarks"]
                out = composite(result.loss, generated, *real)
                loss, losses = out.total, {"loss": out.total} | out.terms
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm)
            prepared_optimizer.step()
            prepared_optimizer.zero_grad()
        if accelerator.sync_gradients:
            run.step_done(losses, lambda: held_out.evaluate(model), lambda: held_out.sheet(model))
    run.finish(lambda: held_out.evaluate(model), lambda: held_out.sheet(model))


if __name__ == "__main__":
    run_script(main)
