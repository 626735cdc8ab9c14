"""Put trained stages together into one model folder, weights in half precision.

    python training/assemble.py --face_aligner DIR --visual_tokenizer DIR --keyframe_generator DIR \
        --interpolation DIR --out MODEL

MODEL is a new folder, which appears whole or not at all; with --replace it may be an earlier model, whose other files
stay. The weights are stored as fp16 to keep the wheel small, and run in fp32: the config says so. Of a stage that is
given several folders, one run and its continuation, the mean of their weights is taken (README.md says what for).
"""

import argparse
from pathlib import Path

import torch
from command_line import run_script
from output_folders import check_new, check_writable, whole_folder
from safetensors.torch import save_file
from trained_stages import load_trained, model_type
from transformers import PreTrainedModel

from avatarsync import (
    AvatarSyncConfig,
    AvatarSyncModel,
    AvatarSyncProcessor,
    FaceAlignerModel,
    InterpolationModel,
    KeyframeGeneratorModel,
    VisualMapping,
    VisualTokenizerModel,
)
from avatarsync.errors import CheckpointError, OutputError

STAGES = {
    "face_aligner": FaceAlignerModel,
    "visual_tokenizer": VisualTokenizerModel,
    "keyframe_generator": KeyframeGeneratorModel,
    "interpolation": InterpolationModel,
}


def mean_of_runs(stage: type[PreTrainedModel], folders: list[Path]) -> PreTrainedModel:
    """The stage with the mean of the weights in `folders`.

    Raises:
        CheckpointError: a folder holds no such stage, or one of another size.
    """
    models = [load_trained(stage, folder) for folder in folders]
    states = [model.state_dict() for model in models]
    shapes = [{name: value.shape for name, value in state.items()} for state in states]
    for folder, shape in zip(folders, shapes, strict=True):
        if shape != shapes[0]:
            raise CheckpointError(f"{folder} and {folders[0]} differ in size: give one run and its continuation")
    mean = {
        name: torch.stack([state[name] for state in states]).mean(0) if value.is_floating_point() else value
        for name, value in states[0].items()
    }
    models[0].load_state_dict(mean)
    return models[0]


def check_out(args: argparse.Namespace) -> None:
    """Make sure that --out is new, or with --replace a model, and none of what it is made from.

    Raises:
        OutputError: it is not, or cannot be written.
    """
    out = args.out.resolve()
    for name in STAGES:
        for folder in getattr(args, name):
            if out in (folder.resolve(), *folder.resolve().parents):
                raise OutputError(f"--out {args.out} holds --{name} {folder}: give another folder")
    if out.is_dir() and not any(out.iterdir()):
        return check_writable(args.out, "--out")
    if not args.replace:
        if (out / "config.json").exists():
            raise OutputError(f"{args.out} holds a model already: give a new --out, or --replace")
        return check_new(args.out, "--out")
    if out.exists() and model_type(out) != AvatarSyncConfig.model_type:
        raise OutputError(f"--replace: {args.out} holds no model that was assembled: give a new --out")
    check_writable(args.out.parent, "--out")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in STAGES:
        parser.add_argument(
            f"--{name}", type=Path, nargs="+", required=True, help="folder of the trained stage, or several to average"
        )
    parser.add_argument("--out", type=Path, required=True, help="folder of the model, new")
    parser.add_argument("--replace", action="store_true", help="a model that is in --out already")
    args = parser.parse_args(argv)
    check_out(args)

    stages = {name: mean_of_runs(stage, getattr(args, name)) for name, stage in STAGES.items()}
    for stage in stages.values():
        stage.config._name_or_path = ""  # a folder of this machine, of no use elsewhere
    config = AvatarSyncConfig(**{f"{name}_config": stage.config for name, stage in stages.items()})
    model = AvatarSyncModel(config)
    for name, stage in stages.items():
        getattr(model, name).load_state_dict(stage.state_dict())
    config.dtype = torch.float32
    config.architectures = [type(model).__name__]
    state = {
        name: value.half().contiguous() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    with whole_folder(args.out, args.replace) as partial:
        config.save_pretrained(partial)
        save_file(state, partial / "model.safetensors", metadata={"format": "pt"})
        # The table goes along: these weights understand these units.
        AvatarSyncProcessor(visual_mapping=VisualMapping.default().to_dict()).save_pretrained(partial)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    size = (args.out / "model.safetensors").stat().st_size
    print(f"{args.out}: {parameters / 1e6:.2f} M parameters, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_script(main)
