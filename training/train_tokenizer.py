"""Train the visual tokenizer.

    python training/train_tokenizer.py --data DATA --out CODES --phase expression
    python training/train_tokenizer.py --data DATA --init_from CODES --out ENCODED --phase encoder
    python training/train_tokenizer.py --data DATA --init_from ENCODED --out PAINTED --phase paint
    python training/train_tokenizer.py --data DATA --init_from PAINTED --out TOKENIZER --phase joint

or on several devices: accelerate launch --config_file training/accelerate/multi_gpu.yaml training/train_tokenizer.py …

Phase `expression` trains encoder, quantizer and expression decoder by the landmarks that each picture's expression is
known to have (cheap: no pixels are drawn). Phase `encoder` goes on with the encoder alone, beside another picture of
the same person and mostly on portraits; what codes mean stays, and with it every keyframe generator. Phase `paint`
trains the painter alone, at the true landmarks. Phase `joint` trains encoder and painter by the pixels that the codes
lead to, through transfer, mesh and warp, beside the losses of phase `encoder`; here, too, what codes mean stays. Which
codes an encoder finds does not, and a keyframe generator has learned those: once there is one, `--keep_encoder`. With
`--adversarial_weight`, opened mouths are judged by an adversary (`adversarial.py`): last of all, in phase `paint`.
DATA is what `prepare_data.py` and `reenact_portraits.py` wrote.

Measured on two cores of an AMD EPYC with AVX512-BF16, --mixed_precision bf16, batches of 32: see training/README.md.
"""

import argparse

import numpy as np
import torch
from adversarial import Adversary
from command_line import run_script
from model_card import dataset_facts
from tokenizer_data import TokenizerBatches, load_rows
from trained_stages import load_trained
from training_options import build_config, sizes, training_parser
from training_utils import TrainingRun, start_accelerator

from avatarsync.configuration_avatarsync import VisualTokenizerConfig
from avatarsync.data.dataset import load
from avatarsync.errors import InvalidArgumentError
from avatarsync.expression_transfer import UPPER_LIP_SHARE
from avatarsync.face_mesh import LIP_RINGS
from avatarsync.lip_edges import LOWER, UPPER, lip_gaps
from avatarsync.modeling_visual_tokenizer import VisualTokenizerModel, mouth_widths
from avatarsync.perceptual import load_perceptual
from avatarsync.quantizers import VectorQuantizer
from avatarsync.windows import cut

MODEL_INPUTS = (
    "pixel_values",
    "reference_pixel_values",
    "reference_landmarks",
    "labels",
    "label_landmarks",
    "label_expression",
    "quantize",
    "own_reference_pixel_values",
)
# Phase → beginnings of the parameters that it trains.
TRAINED = {
    "expression": ("encoder.", "quantizer.", "expression_decoder."),
    "encoder": ("encoder.",),
    "paint": ("painter.",),
    "joint": ("encoder.", "painter."),
}
LIPS = [13, 14, 61, 291, 0, 17]
RESTART_STEPS = 100  # of dead VQ codes
GIVEN_SIZES = ("crop_size", "quantizer")
# Of phases encoder and joint: they will meet strangers, in crops that landmarks align.
ENCODER_OWN_SHARE, ENCODER_PLACE_JITTER = 0.9, 0.5


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = training_parser(__doc__, batch_size=32, learning_rate=5e-4, ema_decay=0.998)
    parser.add_argument("--phase", choices=tuple(TRAINED), required=True)
    parser.add_argument("--quantizer", choices=("lfq", "vq"), default="lfq")
    parser.add_argument("--portrait_share", type=float, default=0.6, help="share of reenacted portraits in a batch")
    parser.add_argument(
        "--smile_share", type=float, default=0.3, help="of the portraits in phase paint: toothy smiles"
    )
    parser.add_argument(
        "--own_share",
        type=float,
        help="of the other portraits: the portrait itself is encoded, not its driver (0.35; encoder and joint 0.9)",
    )
    parser.add_argument("--perceptual", help="network of phase paint's or joint's perceptual loss: st-lpips-alexnet …")
    parser.add_argument("--perceptual_weight", type=float, default=1.0)
    parser.add_argument("--pixel_weight", type=float, default=10.0, help="of the pixels' loss in phase joint")
    parser.add_argument(
        "--keep_encoder", action="store_true", help="phase joint trains the painter alone: a generator knows the codes"
    )
    parser.add_argument(
        "--adversarial_weight", type=float, default=0.0, help="of an adversary in phase paint or joint, 1: as the rest"
    )
    parser.add_argument(
        "--adversary_alone", type=int, default=200, help="steps before the painter learns of the adversary"
    )
    parser.add_argument(
        "--judged",
        choices=("all", "portraits"),
        default="all",
        help="by the adversary: videos may be dull and blurred",
    )
    parser.add_argument(
        "--led_share", type=float, default=0.0, help="of phase paint, painted where codes lead, not at true landmarks"
    )
    parser.add_argument("--continuous_share", type=float, default=0.5, help="of phase expression, before quantising")
    args = parser.parse_args(argv)
    before = {"encoder": "expression", "paint": "expression", "joint": "paint"}.get(args.phase)
    if args.perceptual and args.phase not in ("paint", "joint"):
        raise InvalidArgumentError("--perceptual belongs to --phase paint or joint: the others draw no pictures")
    if args.adversarial_weight and args.phase not in ("paint", "joint"):
        raise InvalidArgumentError("--adversarial_weight belongs to --phase paint or joint: others draw no pictures")
    if args.led_share and args.phase != "paint":
        raise InvalidArgumentError("--led_share belongs to --phase paint: joint is led by codes alone")
    if args.adversarial_weight < 0:
        raise InvalidArgumentError(f"--adversarial_weight {args.adversarial_weight}: give 0 (no adversary) or more")
    if args.judged == "portraits" and not args.portrait_share:
        raise InvalidArgumentError("--judged portraits, and --portrait_share 0: there is none; give a share, or all")
    if args.keep_encoder and args.phase != "joint":
        raise InvalidArgumentError("--keep_encoder belongs to --phase joint: of the others each trains what it says")
    if before and args.init_from is None:
        raise InvalidArgumentError(f"--phase {args.phase} goes on: --init_from the folder of phase {before}")
    sizes(args, VisualTokenizerConfig, GIVEN_SIZES)
    return args


def build_model(args: argparse.Namespace, crop_size: int) -> VisualTokenizerModel:
    if args.init_from is not None:
        return load_trained(VisualTokenizerModel, args.init_from)
    return VisualTokenizerModel(
        build_config(VisualTokenizerConfig, args, crop_size=crop_size, quantizer=args.quantizer)
    )


def references_as_inputs(
    batch: dict[str, torch.Tensor], model: VisualTokenizerModel | None
) -> dict[str, torch.Tensor]:
    """What the encoder learns from: every fourth picture is a reference, whose expression it must know too.

    Args:
        model: given it, the other pictures come beside one of the same person, and their expressions are asked for
            relative to what it takes that one's to be: a decoder moves the reference's lips by the difference.
    """
    every_fourth = torch.arange(len(batch["pixel_values"]), device=batch["quantize"].device) % 4 == 0
    known = batch["reference_expression_known"]
    swap = every_fourth & known
    pixels, expression, beside = batch["pixel_values"], batch["label_expression"], batch["own_reference_pixel_values"]
    if model is not None:
        expression = expression_beside_reference(batch, model)
    pixels = torch.where(swap[:, None, None, None], batch["reference_pixel_values"], pixels)
    expression = torch.where(swap[:, None, None], batch["reference_expression"], expression)
    inputs = {"pixel_values": pixels, "label_expression": expression, "quantize": batch["quantize"]}
    if model is not None:
        inputs["own_reference_pixel_values"] = torch.where(swap[:, None, None, None], pixels, beside)
    return inputs


@torch.no_grad()
def expression_beside_reference(batch: dict[str, torch.Tensor], model: VisualTokenizerModel) -> torch.Tensor:
    """Expressions `(B, 468, 2)` relative to what the model takes the references' to be, where these are known."""
    expression, beside = batch["label_expression"], batch["own_reference_pixel_values"]
    relative = relative_expression(expression, model.expression(model.encode(beside)), batch["reference_expression"])
    comparable = batch["reference_expression_known"] & batch["compared"]
    return torch.where(comparable[:, None, None], relative, expression)


def relative_expression(expression: torch.Tensor, taken: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """An expression `(B, 468, 2)` beside a reference that is taken to have the expression `taken` and has `known`.

    `ExpressionTransfer` adds differences of expressions, so it is as wrong as the reference's; but the gap between
    the lips is the expression's own, and changes by moving the lips as there.
    """
    error = taken - known
    gap = lip_gaps(taken) - lip_gaps(known)  # (B, 9)
    for ring in LIP_RINGS:
        upper, lower = ([ring[i] for i in positions] for positions in (UPPER, LOWER))
        error[:, upper, 1] += UPPER_LIP_SHARE * gap
        error[:, lower, 1] -= (1 - UPPER_LIP_SHARE) * gap
    return expression + error


class HeldOut:
    """Held-out metrics: speakers' frames and reenacted portraits, each in one batch that never changes."""

    def __init__(self, rows: tuple, portrait_share: float, device: torch.device, count: int = 64, **options):
        self.batches = {"speakers": TokenizerBatches(rows[0], None, None, count, 1, portrait_share=0.0, **options)[0]}
        self.shown = TokenizerBatches(*rows, 12, 3, portrait_share=0.75 if portrait_share else 0.0)[0]
        if portrait_share:
            self.batches["portraits"] = TokenizerBatches(*rows, count, 1, portrait_share=1.0, **options)[0]
        self.device = device

    def inputs(self, batch: dict[str, torch.Tensor], without: tuple[str, ...]) -> dict[str, torch.Tensor]:
        return {name: batch[name].to(self.device) for name in MODEL_INPUTS if name not in without}

    def evaluate(self, model: VisualTokenizerModel) -> dict[str, float]:
        """From discrete codes: lip landmarks' error in % of the crop, r of opening and width, mouth PSNR over copy."""
        out = {}
        for name, batch in self.batches.items():
            inputs = self.inputs(batch, without=("quantize",))
            result = model(**inputs)
            window, side = model.mouth_window(inputs["reference_landmarks"]), model.config.painter_size
            real = cut(inputs["labels"], window, side)

            def psnr(pixels, real=real, window=window, side=side):
                error = ((cut(pixels, window, side) - real) / 2).square().mean((1, 2, 3)).clamp_min(1e-8)
                return -10 * torch.log10(error)

            found, wanted = model.expression(result.codes), inputs["label_expression"]
            gain = psnr(result.decoded.pixels) - psnr(inputs["reference_pixel_values"])
            openings = torch.stack([face[:, 14, 1] - face[:, 13, 1] for face in (found, wanted)])
            widths = torch.stack([mouth_widths(face)[:, 0] for face in (found, wanted)])
            out[f"{name}_lip_error"] = (found - wanted)[:, LIPS].norm(dim=-1).mean().item() * 100
            out[f"{name}_opening_r"] = torch.corrcoef(openings)[0, 1].item()
            out[f"{name}_width_r"] = torch.corrcoef(widths)[0, 1].item()
            out[f"{name}_psnr_gain"] = gain.mean().item()
            out[f"{name}_codes_used"] = len(result.ids.unique()) / result.ids.numel()
        return out

    def sheet(self, model: VisualTokenizerModel) -> np.ndarray:
        """Columns of encoded | reference | wanted | decoded, held-out faces."""
        inputs = self.inputs(self.shown, without=("labels", "label_landmarks", "label_expression", "quantize"))
        decoded = model(**inputs).decoded.pixels.cpu()
        columns = [self.shown[name] for name in ("pixel_values", "reference_pixel_values", "labels")] + [decoded]
        rows = torch.cat([torch.cat(list(column), 1) for column in columns], 2)  # (3, 12·S, 4·S)
        rows = torch.cat(rows.chunk(2, 1), 2)
        return ((rows + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    accelerator = start_accelerator(args)
    if args.adversarial_weight and accelerator.state.deepspeed_plugin is not None:
        raise InvalidArgumentError(
            "--adversarial_weight trains two networks in turns, which DeepSpeed does not: use multi_gpu.yaml"
        )
    data = load(args.data)
    train, held = load_rows(data, "train", args.data), load_rows(data, "test", args.data)
    smile_share = args.smile_share if args.phase == "paint" else 0.0
    options = {}
    if args.phase in ("encoder", "joint"):
        options = {"own_share": ENCODER_OWN_SHARE, "place_jitter": ENCODER_PLACE_JITTER}
    if args.own_share is not None:
        options["own_share"] = args.own_share
    batches = TokenizerBatches(
        *train, args.batch_size, args.seed, args.portrait_share, smile_share=smile_share, **options
    )
    held_out = HeldOut(held, args.portrait_share, accelerator.device, **options)

    model = build_model(args, data.settings["crop_size"])
    paint, joint = args.phase == "paint", args.phase == "joint"
    for name, parameter in model.named_parameters():
        kept = args.keep_encoder and name.startswith("encoder.")
        parameter.requires_grad_(name.startswith(TRAINED[args.phase]) and not kept)
    perceptual = load_perceptual(args.perceptual).to(accelerator.device) if args.perceptual else None
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, args.learning_rate, weight_decay=args.weight_decay, betas=(0.9, 0.98))
    prepared, prepared_optimizer = accelerator.prepare(model, optimizer)
    adversary = Adversary(accelerator, args.adversarial_weight) if args.adversarial_weight else None
    facts = dataset_facts(args.data, len(train[0]), len(train[1] or ()), data.settings)
    if perceptual is not None:
        facts["Losses"] = f"perceptual: {perceptual.name}, weight {args.perceptual_weight}"
    if adversary is not None:
        facts["Adversary"] = f"of opened mouths, weight {args.adversarial_weight} of all other losses' gradient"
    run = TrainingRun(accelerator, args, model, optimizer, facts | {"Stage": f"Visual tokenizer, phase {args.phase}."})

    usage = torch.zeros(model.config.codebook_size, dtype=torch.long, device=accelerator.device)
    for batch in run.micro_batches(batches):
        if paint or joint:
            inputs = {name: batch[name] for name in MODEL_INPUTS}
            if paint and args.led_share:
                # Never from a reference whose expression nobody knows, as an open smile's: far beside the label.
                known = batch["reference_expression_known"]
                inputs["led"] = known & (torch.rand(len(known), device=known.device) < args.led_share)
        else:
            inputs = references_as_inputs(batch, model if args.phase == "encoder" else None)
        if joint:
            inputs["label_expression"] = expression_beside_reference(batch, model)
            del inputs["label_landmarks"]
        # Quantisation, and its entropy and commitment terms, before the codes carry motion would collapse them.
        continuous = args.phase == "expression" and run.step < args.continuous_share * args.max_train_steps
        if continuous:
            inputs["quantize"] = torch.zeros_like(inputs["quantize"])
        with accelerator.accumulate(prepared):
            result = prepared(**inputs)
            # With frozen codes only the painter's loss has a gradient.
            loss = result.pixel_loss if paint else result.expression_loss if continuous else result.loss
            if perceptual is not None or adversary is not None:
                window, side = model.mouth_window(inputs["reference_landmarks"]), model.config.painter_size
                pictures = (result.decoded.pixels, inputs["labels"], inputs["reference_pixel_values"])
                painted, real, reference = (cut(each, window, side) for each in pictures)
            if perceptual is not None:
                perceptual_loss = perceptual(painted, real).mean()
                loss = loss + args.perceptual_weight * perceptual_loss
            if joint:
                loss = loss + (args.pixel_weight - 1) * result.pixel_loss
            if adversary is not None:
                mask = cut(result.decoded.mask.detach(), window, side)
                if args.judged == "portraits":
                    mask = mask * batch["portrait"][:, None, None, None]
                if run.step >= args.adversary_alone:
                    loss = loss + adversary.loss(painted, reference, mask, loss, model.painter.head.weight)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(trained, args.max_grad_norm)
            prepared_optimizer.step()
            prepared_optimizer.zero_grad()
        if accelerator.sync_gradients:
            losses = {"loss": loss, "expression_loss": result.expression_loss}
            if result.pixel_loss is not None:
                losses["pixel_loss"] = result.pixel_loss
            if perceptual is not None:
                losses["perceptual_loss"] = perceptual_loss
            if adversary is not None:
                losses["adversary_loss"] = adversary.learn(painted, real, reference, mask)
            if isinstance(model.quantizer, VectorQuantizer) and not paint:
                usage += torch.bincount(result.ids.flatten(), minlength=len(usage))
                if (run.step + 1) % RESTART_STEPS == 0:
                    restart_dead_codes(accelerator, model, inputs["pixel_values"], usage)
            run.step_done(losses, lambda: held_out.evaluate(model), lambda: held_out.sheet(model))
    run.finish(lambda: held_out.evaluate(model), lambda: held_out.sheet(model))


@torch.no_grad()
def restart_dead_codes(accelerator, model: VisualTokenizerModel, pixels: torch.Tensor, usage: torch.Tensor) -> None:
    """Move unused VQ codes onto data, the same in all processes, and start counting anew."""
    used = accelerator.reduce(usage, "sum")
    model.quantizer.restart_dead_codes(model.encode(pixels), used)
    if accelerator.num_processes > 1:
        torch.distributed.broadcast(model.quantizer.codebook.data, 0)
    usage.zero_()


if __name__ == "__main__":
    run_script(main)
