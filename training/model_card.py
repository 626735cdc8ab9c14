"""A model card written from a run: what it was trained on, for how long, what it measured. OUT/README.md;
and the upload of weights and card."""

import json
import platform
from pathlib import Path

import torch
from hub_uploads import hub_name
from huggingface_hub import HfApi

from avatarsync.version import __version__

LICENCE_NOTE = "The licence of the weights follows from the data's: fill in what holds for yours."


def dataset_facts(folder: Path, clips: int, portraits: int, settings: dict) -> dict[str, str]:
    """What a card says of the training data; the folder's name stays out of it."""
    shown = ", ".join(f"{name}: {value}" for name, value in sorted(settings.items()))
    return {"Data": f"{clips} clips and {portraits} portraits of `{folder.name}` ({shown})."}


def write_model_card(run, metrics: dict[str, float]) -> None:
    """OUT/README.md of a finished or stopped run; see `TrainingRun`."""
    args, model = run.args, run.model
    name = type(model).__name__
    arguments = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    for key in ("data", "out", "init_from", "resume", "words", "recordings", "held_out"):  # nobody needs to know where
        arguments.pop(key, None)
    speed = run.history.last("samples_per_second")
    lines = [
        "---",
        "library_name: avatarsync",
        "pipeline_tag: image-to-video",
        "tags: [talking-head, avatarsync]",
        "---",
        "",
        f"# {name} ({args.out.name})",
        "",
        f"One stage of an AvatarSync model, {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters. "
        f"Load it with `avatarsync.{name}.from_pretrained`; `training/assemble.py` puts the stages together.",
        "",
    ]
    for heading, text in run.facts.items():
        lines += [f"## {heading}", "", text, ""]
    lines += [
        "## Training",
        "",
        f"{run.step} of {args.max_train_steps} optimizer steps of "
        f"{args.batch_size * args.gradient_accumulation_steps * run.accelerator.num_processes} samples, "
        f"mixed precision `{run.accelerator.mixed_precision}`, {run.accelerator.num_processes} process(es) on "
        f"{run.accelerator.device.type}, moving average {args.ema_decay}"
        + (f"; {speed:.1f} samples/s at the end" if speed else "")
        + (f", the loader alone {run.history.loader_rate:.0f}" if run.history.loader_rate else "")
        + ".",
        "",
        "![curves](curves.png)",
        "",
        "## Held-out metrics",
        "",
        "| metric | value |",
        "|---|---|",
        *(f"| {key} | {value:.4f} |" for key, value in sorted(metrics.items())),
        "",
        "Measured with the averaged weights on the dataset's `test` split, which training never saw.",
        "",
        "## Reproduce",
        "",
        "```json",
        json.dumps(arguments, indent=1, default=str),
        "```",
        "",
        f"avatarsync {__version__}, torch {torch.__version__}, Python {platform.python_version()}.",
        "",
        "## Licence and use",
        "",
        LICENCE_NOTE + " Animate only people who agreed to it; what is generated must stay marked as synthetic.",
        "",
    ]
    (args.out / "README.md").write_text("\n".join(lines), encoding="utf-8")


def push_to_hub(run) -> None:
    """Upload weights, card, curves and samples in one commit; checkpoints stay at home."""
    api = HfApi()
    name = api.create_repo(hub_name(run.args), exist_ok=True).repo_id
    api.upload_folder(
        repo_id=name,
        folder_path=run.args.out,
        allow_patterns=["*.json", "*.safetensors", "README.md", "curves.png", "samples/*.png"],
        ignore_patterns=["checkpoints/*"],
        commit_message=f"Step {run.step}",
    )
