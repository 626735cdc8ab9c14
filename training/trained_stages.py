"""What earlier training runs left behind, as the input of later ones."""

import json
from pathlib import Path

from transformers import PreTrainedModel

from avatarsync.errors import CheckpointError


def model_type(folder: str | Path) -> str | None:
    """What kind of model a folder holds, as its config.json says; None where it holds none."""
    try:
        return json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def load_trained(model_class: type[PreTrainedModel], folder: str | Path) -> PreTrainedModel:
    """The stage that a training run left in `folder`.

    Raises:
        CheckpointError: there is none, or it is another stage's.
    """
    found = model_type(folder)
    if found is None:
        raise CheckpointError(f"{folder} holds no trained model: give the --out of an earlier run")
    wanted = model_class.config_class.model_type
    if found != wanted:
        raise CheckpointError(f"{folder} holds an {found}, not an {wanted}: give the --out of its run")
    return model_class.from_pretrained(folder)
