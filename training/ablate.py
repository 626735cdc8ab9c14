"""The paper's ablations, with equal budgets, several seeds, and the paper's tables filled with our figures.

    python training/ablate.py attention --data DATA --tokenizer TOKENIZER --out OUT
    python training/ablate.py interpolation --data DATA --tokenizer TOKENIZER --keyframes K --interpolation I --out OUT
    python training/ablate.py quantizer --data DATA --out OUT
    python training/ablate.py losses --data DATA --tokenizer TOKENIZER --keyframes K --out OUT --learning_rate 5e-5
    python training/ablate.py cropping --data DATA --face_centric_data DATA2 --out OUT

Studies: `attention` modes (Table 2), `cropping` strategies (Table 3), `losses` of phase 2 (Table 4), `quantizer` (LFQ
or VQ), `interpolation` (learned, straight lines, nearest). Every variant is a command line of the training scripts and
differs from the others in what the study compares alone. Each run leaves OUT/STUDY/VARIANT/seed-N/result.json; called
again, finished runs are skipped and a run that was cut off goes on at its last checkpoint. OUT/ablations.md holds the
tables of all that is finished, mean ± standard deviation over seeds, and the paper's own beside them.
"""

import argparse
import sys
from functools import cache
from pathlib import Path

from ablation.inputs import digest_of
from ablation.measures import (
    HeldOutClips,
    keyframe_figures,
    measure_interpolation,
    measure_keyframes,
    tokenizer_figures,
)
from ablation.runs import last_held_out, run_variant, write_whole
from ablation.studies import STUDIES
from ablation.tables import markdown

from avatarsync.errors import AvatarSyncError, InvalidArgumentError

FOLDERS = ("data", "face_centric_data", "tokenizer", "keyframes", "interpolation")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("study", choices=STUDIES)
    add("--data", type=Path, help="dataset that prepare_data.py wrote")
    add("--face_centric_data", type=Path, help="the same videos prepared with --crop face_centric")
    add("--tokenizer", type=Path, help="trained visual tokenizer")
    add("--keyframes", type=Path, help="trained keyframe generator")
    add("--interpolation", type=Path, help="trained interpolator")
    add("--out", type=Path, required=True, help="folder of runs and tables")
    add("--variants", nargs="+", metavar="NAME", help="of the study; default: all")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--steps", type=int, default=1000, help="of each training run")
    add("--batch_size", type=int, default=16)
    add("--learning_rate", type=float, default=1e-3)
    add("--ema_decay", type=float, default=0.99)
    add("--mixed_precision", choices=("no", "bf16", "fp16"), default="no")
    add("--keyframe_config", nargs="*", default=[], metavar="NAME=NUMBER", help="sizes of keyframe generators")
    add("--tokenizer_config", nargs="*", default=[], metavar="NAME=NUMBER", help="sizes of tokenizers")
    add("--portrait_share", type=float, default=0.6, help="of a batch, in study quantizer; 0: the speakers alone")
    add("--loss_perceptual", default="st-lpips", help="network of the LPIPS term, in study losses")
    add(
        "--lambda_scale", type=float, nargs=3, metavar=("λ2", "λ3", "λ4"),
        help="what the terms weigh where they are on, in study losses; default: 1 1 1",
    )  # fmt: skip
    add("--pictures_per_clip", type=int, default=2, help="keyframes of a clip that are decoded, in study losses")
    add(
        "--pictures",
        choices=("yes", "no"),
        default="yes",
        help="whether decoded pictures are measured, or motion alone",
    )
    add("--picture_clips", type=int, default=10, help="held-out clips whose pictures are measured")
    add("--perceptual", default="st-lpips-alexnet", help="network of LPIPS and of the Fréchet distances")
    add("--identity", default="dlib", help="network of ISS")
    args = parser.parse_args(arguments)
    study = STUDIES[args.study]
    for name in study.needs:
        if getattr(args, name) is None:
            raise InvalidArgumentError(f"--{name} is missing: {args.study} needs {' and '.join(study.needs)}")
    for name in FOLDERS:
        folder = getattr(args, name)
        if folder is not None and not folder.is_dir():
            raise InvalidArgumentError(f"--{name} {folder} is not a folder: give one that the earlier scripts wrote")
    known = [variant.name for variant in study.variants]
    for name in args.variants or []:
        if name not in known:
            raise InvalidArgumentError(f"--variants {name}: {args.study} has {', '.join(known)}")
    if not 0 <= args.portrait_share <= 1:
        raise InvalidArgumentError(f"--portrait_share {args.portrait_share}: give 0 to 1")
    if min(args.picture_clips, args.pictures_per_clip) < 1:
        raise InvalidArgumentError("give at least 1 for --picture_clips and --pictures_per_clip")
    if args.steps < 2 or min(args.seeds) < 0:
        raise InvalidArgumentError("give at least 2 --steps, and --seeds from 0")
    return args


def settings_of(args: argparse.Namespace) -> dict:
    """What all variants of a study have in common; folders by what they hold."""
    inputs = {name: digest_of(getattr(args, name)) for name in STUDIES[args.study].needs}
    networks = "none, pictures are not measured"
    if args.pictures == "yes":
        networks = f"{Path(args.perceptual).name} on {args.picture_clips} clips"
    if args.study == "interpolation":
        return inputs | {"networks": networks}
    sizes = {"train_keyframes.py": args.keyframe_config, "train_tokenizer.py": args.tokenizer_config}
    names = ("steps", "batch_size", "learning_rate", "ema_decay", "mixed_precision")
    settings = {name: getattr(args, name) for name in names} | {"sizes": sizes, "networks": networks} | inputs
    own = {"quantizer": ("portrait_share",), "losses": ("loss_perceptual", "pictures_per_clip")}
    settings |= {name: getattr(args, name) for name in own.get(args.study, ())}
    if args.study == "losses" and args.lambda_scale:
        settings["lambda_scale"] = args.lambda_scale
    return settings


def ablate(args: argparse.Namespace) -> None:
    study, settings = STUDIES[args.study], settings_of(args)
    places = {name: getattr(args, name) for name in FOLDERS}

    @cache
    def held_out(data: Path, tokenizer: Path) -> HeldOutClips:
        return HeldOutClips(data, tokenizer, args.perceptual, args.picture_clips)

    for seed in args.seeds if args.study != "interpolation" else [0]:
        for variant in study.variants:
            if args.variants and variant.name not in args.variants:
                continue

            def measure(run: Path, variant=variant) -> dict[str, float]:
                if args.study == "quantizer":
                    return tokenizer_figures(last_held_out(run / "tokenizer"))
                if args.study == "interpolation":
                    held = held_out(args.data, args.tokenizer)
                    stages = (args.keyframes, args.interpolation)
                    return measure_interpolation(held, *stages, variant.name, args.pictures == "yes")
                figures = keyframe_figures(last_held_out(run / "keyframes"))
                if args.pictures == "no":
                    return figures
                if args.study == "cropping":
                    data = args.data if variant.name == "pose_driven" else args.face_centric_data
                    return figures | measure_keyframes(held_out(data, run / "tokenizer"), run, args.identity)
                return figures | measure_keyframes(held_out(args.data, args.tokenizer), run)

            run = args.out / study.name / variant.name / f"seed-{seed}"
            run_variant(variant, run, places, settings, seed, measure)
            write_whole(args.out / "ablations.md", "# Ablations\n\n" + markdown(args.out))
    print(markdown(args.out))


def main(arguments: list[str] | None = None) -> None:
    try:
        ablate(parse_arguments(arguments))
    except AvatarSyncError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
