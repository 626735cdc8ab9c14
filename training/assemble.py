"""Put trained stages together into one model folder, weights in half precision.

    python training/assemble.py --face_aligner DIR --visual_tokenizer DIR --keyframe_generator DIR \
        --interpolation DIR --out avatarsync/weights/base

The weights are stored as fp16 to keep the wheel small, and run in fp32: the config says so.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

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

STAGES = {
    "face_aligner": FaceAlignerModel,
    "visual_tokenizer": VisualTokenizerModel,
    "keyframe_generator": KeyframeGeneratorModel,
    "interpolation": InterpolationModel,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in STAGES:
        parser.add_argument(f"--{name}", type=Path, required=True, help="folder of the trained stage")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    stages = {name: stage.from_pretrained(getattr(args, name)) for name, stage in STAGES.items()}
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
    main()
