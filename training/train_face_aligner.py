"""Train `FaceAlignerModel`: distil the labels' landmarks into a small detector and two small regressors.

    python training/train_face_aligner.py --data DATA --out DETECTOR --head detector --max_train_steps 3000
    python training/train_face_aligner.py --data DATA --out LANDMARKS --head landmarks --init_from DETECTOR
    python training/train_face_aligner.py --data DATA --out ALIGNER --head lips --init_from LANDMARKS

or on several devices: accelerate launch --config_file training/accelerate/multi_gpu.yaml training/train_….py …

Each head is trained alone, the others keep their weights. DATA is what `prepare_data.py` wrote; landmark and lip head
also learn from the portraits of `reenact_portraits.py` where there are any, whose lips are known exactly. Held-out
figures and the sheet of the worst cover all heads together, but in `--head detector`.

Samples per second of one core of an AMD EPYC (Zen 4), bf16: landmarks 51 in training, 317 by the loader alone;
detector 134 and 179. Where several cores train the detector, give the loader its own with --num_workers.

`--measure` only measures the weights of --init_from and writes OUT/held_out.png.
"""

import argparse
import json

import torch
from command_line import run_script
from face_aligner_data import DetectorBatches, FacePictures, LandmarkBatches, LipBatches
from face_aligner_metrics import HeldOut
from model_card import dataset_facts
from PIL import Image
from trained_stages import load_trained
from training_options import build_config, sizes, training_parser
from training_utils import TrainingRun, start_accelerator

from avatarsync.configuration_avatarsync import FaceAlignerConfig
from avatarsync.data.dataset import load
from avatarsync.errors import InvalidArgumentError
from avatarsync.modeling_face_aligner import FaceAlignerModel

# Running statistics of batch normalisation are averaged about as long as the weights are, which they go with.
BATCH_NORM_MOMENTUM = 0.01


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = training_parser(
        __doc__, batch_size=32, learning_rate=2e-3, ema_decay=0.998, warmup_steps=200, max_grad_norm=5.0
    )
    parser.add_argument("--head", choices=("detector", "landmarks", "lips"), required=True)
    parser.add_argument("--measure", action="store_true", help="measure the weights of --init_from, train nothing")
    args = parser.parse_args(argv)
    if args.measure and args.init_from is None:
        raise InvalidArgumentError("--measure needs weights: give their folder with --init_from")
    sizes(args, FaceAlignerConfig)
    return args


def build_model(args: argparse.Namespace) -> FaceAlignerModel:
    if args.init_from is not None:
        return load_trained(FaceAlignerModel, args.init_from)
    return FaceAlignerModel(build_config(FaceAlignerConfig, args))


def measure(args: argparse.Namespace, model: FaceAlignerModel, held_out: HeldOut) -> None:
    """Print the held-out figures of a model and draw its worst cases."""
    print(json.dumps({name: round(value, 3) for name, value in held_out.evaluate(model.eval()).items()}))
    args.out.mkdir(parents=True, exist_ok=True)
    Image.fromarray(held_out.sheet(model)).save(args.out / "held_out.png")


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    data = load(args.data)
    held_out = HeldOut(FacePictures(data, args.data, "test"), args.head)
    if args.measure:
        measure(args, build_model(args), held_out)
        return
    accelerator = start_accelerator(args)
    model = build_model(args)
    pictures = FacePictures(data, args.data, "train")
    if args.head == "detector":
        head, batches = (
            model.detector,
            DetectorBatches(pictures, args.batch_size, model.config.detector_size, args.seed),
        )
    elif args.head == "landmarks":
        head = model.landmarker
        batches = LandmarkBatches(pictures, args.batch_size, model.config.landmark_size, args.seed)
    else:
        head, batches = model.lips, LipBatches(pictures, args.batch_size, model.config.lip_size, args.seed)
    model.requires_grad_(False).train()
    head.requires_grad_(True)
    for module in head.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = BATCH_NORM_MOMENTUM
    optimizer = torch.optim.AdamW(head.parameters(), args.learning_rate, weight_decay=args.weight_decay)
    prepared, prepared_optimizer = accelerator.prepare(model, optimizer)
    facts = dataset_facts(args.data, len(data.clips["train"] if data.clips else ()),
                          len(data.portraits["train"] if data.portraits else ()), data.settings)  # fmt: skip
    counts = ", ".join(f"{count} of {kind}" for kind, count in pictures.counts.items())
    stage = f"Face aligner, {args.head} head, on whole pictures: {counts}."
    run = TrainingRun(accelerator, args, model, optimizer, facts | {"Stage": stage})

    for batch in run.micro_batches(batches):
        with accelerator.accumulate(prepared):
            output = prepared(**batch)
            accelerator.backward(output.loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(head.parameters(), args.max_grad_norm)
            prepared_optimizer.step()
            prepared_optimizer.zero_grad()
        if accelerator.sync_gradients:
            losses = {name: value for name, value in output.items() if name.endswith("_loss")}
            run.step_done(losses, lambda: held_out.evaluate(model), lambda: held_out.sheet(model))
    run.finish(lambda: held_out.evaluate(model), lambda: held_out.sheet(model))


if __name__ == "__main__":
    run_script(main)
