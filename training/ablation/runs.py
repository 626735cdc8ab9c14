"""Running a variant: its training scripts, one after the other, then a result file; what is finished is skipped."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from avatarsync.errors import AvatarSyncError, CheckpointError, InvalidArgumentError

from .studies import Variant

TRAINING = Path(__file__).resolve().parents[1]
RESULT = "result.json"
STARTED = "settings.json"  # of a run that goes on
LAMBDAS = ("--lambda_lpips", "--lambda_identity", "--lambda_facial")
COMMON = ("batch_size", "learning_rate", "ema_decay", "mixed_precision")


class StageFailedError(AvatarSyncError):
    """A training script ended with an error."""


def write_whole(path: Path, text: str) -> None:
    """A file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def read_result(path: Path, settings: dict) -> dict | None:
    """What a file says of a run, finished or not; None if there is no such file.

    Raises:
        InvalidArgumentError: it was run with other settings: rows of one table have equal budgets and the same data.
    """
    if not path.exists():
        return None
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        found = result["settings"]
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is no result of ablate.py: remove it, and it is made again") from error
    if found != settings:
        differing = sorted(name for name in found.keys() | settings.keys() if found.get(name) != settings.get(name))
        raise InvalidArgumentError(
            f"{path} was run with other settings ({', '.join(differing)}): give the same, or another --out"
        )
    return result


def stage_commands(variant: Variant, run: Path, places: dict[str, Path | None], settings: dict, seed: int) -> list:
    """The command lines of a variant's stages."""
    names = settings | {name: str(place) for name, place in places.items()} | {"run": str(run)}
    commands = []
    for stage in variant.stages:
        steps = max(1, round(settings["steps"] * stage.steps))
        options = {
            "--data": variant.data,
            "--out": f"{{run}}/{stage.folder}",
            "--resume": "latest",
            "--max_train_steps": steps,
            "--warmup_steps": steps // 10,
            "--eval_steps": steps,
            "--checkpoint_steps": max(1, steps // 2),
            "--log_steps": max(1, steps // 10),
            "--keep": 1,
            "--seed": seed,
        }
        options |= {f"--{name}": settings[name] for name in COMMON}
        words = [str(word).format(**names) for pair in options.items() for word in pair]
        # A stage's own options come last, so that they win.
        words += [word.format(**names) for word in stage.options]
        for name, scale in zip(LAMBDAS, settings.get("lambda_scale", ()), strict=False):
            place = words.index(name) + 1
            words[place] = str(scale * float(words[place]))
        sizes = settings["sizes"].get(stage.script, [])
        commands.append([stage.script, *words, *(["--config", *sizes] if sizes else [])])
    return commands


def run_variant(
    variant: Variant,
    run: Path,
    places: dict[str, Path | None],
    settings: dict,
    seed: int,
    measure: Callable[[Path], dict[str, float]],
) -> dict:
    """Train what is not trained yet, measure, and write RUN/result.json.

    Args:
        places: the folders that stages name in braces.
        settings: what all variants of a study have in common.
        measure: run folder → figures.

    Raises:
        StageFailedError: a training script failed; its own message is above.
    """
    result = read_result(run / RESULT, settings)
    if result is not None:
        print(f"{run}: finished already")
        return result
    read_result(run / STARTED, settings)  # its checkpoints are of these settings
    write_whole(run / STARTED, json.dumps({"settings": settings}, indent=1, ensure_ascii=False) + "\n")
    begun = time.monotonic()
    for script, *options in stage_commands(variant, run, places, settings, seed):
        print(f"== {run}: {script} {' '.join(options)}", flush=True)
        status = subprocess.run([sys.executable, str(TRAINING / script), *options]).returncode
        if status:
            raise StageFailedError(f"{script} ended with status {status} in {run}: see above; call again to go on")
    trained = time.monotonic()
    figures = measure(run)
    result = {
        "variant": variant.name,
        "seed": seed,
        "settings": settings,
        "figures": figures,
        "minutes_of_training": (trained - begun) / 60,
    }
    write_whole(run / RESULT, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    (run / STARTED).unlink()
    return result


def last_held_out(run: Path) -> dict[str, float]:
    """The last held-out figures of a training run."""
    lines = (run / "history.jsonl").read_text(encoding="utf-8").splitlines()
    for line in reversed(lines):
        entry = json.loads(line)
        figures = {name.removeprefix("held_out/"): v for name, v in entry.items() if name.startswith("held_out/")}
        if figures:
            return figures
    raise CheckpointError(f"{run} has no held-out figures: it was cut off; remove it, and it is made again")
