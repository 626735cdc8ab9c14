"""Put trained stages together into one model folder, weights in half precision.

    python training/assemble.py --face_aligner DIR --visual_tokenizer DIR --keyframe_generator DIR \
        --interpolation DIR --out avatarsync/weights/base

The weights are stored as fp16 to keep the wheel small, and run in fp32: the config says so. Of a stage that is given
several folders, one run and its continuation, the mean of their weights is taken (README.md says what for).
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from trained_stages import load_trained
from training_utils import run_script
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
from avatarsync.errors import CheckpointError

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


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in STAGES:
        parser.add_argument(
            f"--{name}", type=Path, nargs="+", required=True, help="folder of the trained stage, or several to average"
        )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)

    stages = {name: mean_of_runs(stage, getattr(args, name)) for name, stage in STAGES.items()}
    for stage in stages.values():
        stage.config._name_or_path = ""  # a folder of this machine, of no use elsewhere
    config = AvatarSyncConfig(**{f"{name}_config": stage.config for name, stage in stages.items()})
    model = AvatarSyncModel(config)
    for name, stage in stages.items():
        getattr(model, name).load_state_dict(stage.state_dict())
    args.out.mkdir(parents=True, exist_ok=True)
    config.dtype = torch.float32
    config.architectures = [type(model).__name__]
    config.save_pretrained(args.out)
    state = {
        name: value.half().contiguous() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    save_file(state, args.out / "model.safetensors", metadata={"format": "pt"})
    # The table goes along: these weights understand these units.
    AvatarSyncProcessor(visual_mapping=VisualMapping.default().to_dict()).save_pretrained(args.out)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    size = (args.out / "model.safetensors").stat().st_size
    print(f"{args.out}: {parameters / 1e6:.2f} M parameters, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_script(main)
