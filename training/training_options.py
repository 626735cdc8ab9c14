"""The flags that all training scripts have, and the sizes that --config gives a model."""

import argparse
import difflib
import inspect
import math
from collections.abc import Collection
from pathlib import Path

from transformers import PreTrainedConfig

from avatarsync.errors import InvalidArgumentError


def training_parser(description: str, dataset: bool = True, **defaults) -> argparse.ArgumentParser:
    """The flags that all training scripts have; `defaults` override what a stage wants otherwise.

    Args:
        dataset: whether it trains on what prepare_data.py wrote.
    """
    parser = argparse.ArgumentParser(
        description=description.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    if dataset:
        add("--data", type=Path, required=True, help="dataset that prepare_data.py wrote")
    add("--out", type=Path, required=True, help="folder of the run")
    add("--init_from", type=Path, help="weights to start from: a folder that save_pretrained wrote")
    add("--config", nargs="*", default=[], metavar="NAME=NUMBER", help="sizes, as the model's config names them")
    add("--resume", metavar="latest|FOLDER", help="go on from a checkpoint; latest: OUT's newest, or from the start")
    add("--max_train_steps", type=int, default=10_000, help="optimizer steps, over which the cosine schedule runs")
    add("--max_minutes", type=float, help="stop and save when the time is up; --resume latest goes on")
    add("--batch_size", type=int, default=16, help="per process")
    add("--gradient_accumulation_steps", type=int, default=1)
    add("--learning_rate", type=float, default=2e-4, help="of Adam, the paper's by default")
    add("--warmup_steps", type=int, default=100)
    add("--weight_decay", type=float, default=0.01)
    add("--max_grad_norm", type=float, default=1.0)
    add("--ema_decay", type=float, default=0.999, help="of the moving average of the weights, which is what is saved")
    add("--mixed_precision", choices=("no", "bf16", "fp16"), help="default: what the accelerate config says")
    add("--seed", type=int, default=0)
    add("--num_workers", type=int, default=0, help="processes that prepare batches; 0: the training process")
    add("--log_steps", type=int, default=50)
    add("--eval_steps", type=int, default=500, help="held-out metrics, and a sample grid, every so many steps")
    add("--checkpoint_steps", type=int, default=500)
    add("--keep", type=int, default=2, help="checkpoints to keep")
    add("--report_to", choices=("none", "tensorboard"), default="none")
    add("--push_to_hub", action="store_true", help="upload weights and card when done")
    add("--hub_model_id", help="name on the Hub, such as me/avatarsync-mine; default: OUT's name")
    parser.set_defaults(**defaults)
    return parser


def sizes(
    args: argparse.Namespace, config_class: type[PreTrainedConfig], given: Collection[str] = ()
) -> dict[str, int | float]:
    """The entries of --config.

    Args:
        config_class: whose sizes they are; those that it inherits are none.
        given: its sizes that follow from the data, from other stages or from other options.

    Raises:
        InvalidArgumentError: an entry is no number, or of a size that the class does not have or that is given.
    """
    declared = inspect.get_annotations(config_class) or inspect.get_annotations(config_class.__init__)
    numbers = {name: kind for name, kind in declared.items() if kind in (int, float) and name not in given}
    found = {}
    for entry in args.config:
        name, _, value = entry.partition("=")
        if name in given:
            raise InvalidArgumentError(f"--config {entry}: {name} follows from data, stages or other options: omit it")
        if name not in numbers:
            near = difflib.get_close_matches(name, numbers, 3, 0.5) or sorted(numbers)
            raise InvalidArgumentError(f"--config {entry}: no such size; give one of {', '.join(near)}")
        try:
            found[name] = numbers[name](value)
        except ValueError as error:
            raise InvalidArgumentError(f"--config {entry}: give NAME=NUMBER, as {name}=64") from error
        if not (math.isfinite(found[name]) and found[name] >= 0):
            raise InvalidArgumentError(f"--config {entry}: give 0 or more")
    return found


def build_config(config_class: type[PreTrainedConfig], args: argparse.Namespace, **given) -> PreTrainedConfig:
    """The config of a new model, with the sizes of --config beside those that are given.

    Raises:
        InvalidArgumentError: see `sizes`; or the sizes contradict each other.
    """
    chosen = sizes(args, config_class, given)
    try:
        return config_class(**given, **chosen)
    except ValueError as error:
        raise InvalidArgumentError(f"--config {' '.join(args.config)}: {error}") from error
