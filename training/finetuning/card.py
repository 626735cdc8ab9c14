"""The card of an adapter, and its upload."""

import argparse
import platform
from pathlib import Path

import torch
from hub_uploads import hub_name
from huggingface_hub import HfApi

from avatarsync.adapters import CONFIG_FILE, REFERENCES_FILE, WEIGHTS_FILE
from avatarsync.version import __version__

from .footage import Footage

# Whose folders and names nobody needs to know.
PRIVATE = ("videos", "pictures", "out", "base", "work", "landmarker", "lpips", "hub_model_id", "push_to_hub")


def adapter_name(args: argparse.Namespace) -> str:
    return hub_name(args).split("/")[-1]


def write_card(
    name: str,
    made_for: str,
    film: Footage,
    frames: int,
    said: dict[str, str],
    figures: list[str],
    distance: str,
    minutes: float,
    args: argparse.Namespace,
) -> str:
    """README.md of an adapter."""
    footage = f"{film.seconds:.0f} s of video" if film.seconds else f"{frames} pictures"
    arguments = {key: value for key, value in vars(args).items() if key not in PRIVATE}
    lines = [
        "---",
        "library_name: peft",
        "pipeline_tag: image-to-video",
        "tags: [talking-head, avatarsync, lora]",
        "---",
        "",
        f"# {name}",
        "",
        f"An adapter of one person for AvatarSync, made for {made_for}.",
        "",
        "```python",
        f'talk.load_identity("PATH OR HUB ID", name="{name}")',
        "```",
        "",
        "![reference, real, base, adapted](comparison.png)",
        "",
        "## Measured",
        "",
        f"On the last fifth of {footage}, which was not learned from, base → adapted:",
        "",
        *(f"- {line}" for line in figures),
        "",
        "*Reconstructed*: from each frame's own codes, which the base's encoder saw beside the clip's first frame and "
        "the adapted model beside the resting face; *spoken*: the whole system, from the phonemes. In crops that "
        f"follow the head, the mouth with a quarter of its width around it. LPIPS is {distance}. The correlation is "
        "that of the landmarks that are drawn; identity is dlib's cosine to the clip's first frame, which is the "
        "reference, and to the real frames of the same moments.",
        "",
        "## Learned",
        "",
        f"{frames} frames, {minutes:.1f} minutes on {args.device} ({platform.machine()}).",
        "",
        *(f"- {stage}: {text}" for stage, text in said.items()),
        "",
        f"Options: {', '.join(f'{key} {value}' for key, value in sorted(arguments.items()))}. "
        f"avatarsync {__version__}, torch {torch.__version__}.",
        "",
        "## Consent",
        "",
        "Only for videos to which this person agreed. Every video says that it is synthetic; leave that in. The "
        f"folder holds pictures of the person ({REFERENCES_FILE}, comparison.png): publish it only if that is agreed "
        "to as well.",
        "",
    ]
    return "\n".join(lines)


def push_to_hub(folder: Path, name: str) -> str:
    """Upload an adapter in one commit; returns the repository's full name."""
    api = HfApi()
    name = api.create_repo(name, exist_ok=True).repo_id
    files = [CONFIG_FILE, WEIGHTS_FILE, REFERENCES_FILE, "README.md", "comparison.png"]
    api.upload_folder(repo_id=name, folder_path=folder, allow_patterns=files, commit_message="Adapter of a person")
    return name
