"""LoRA in an `AvatarSyncModel`: where it sits, how large it may be, and one stage's training."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numbered_batches import NumberedBatches
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from tqdm import tqdm

from avatarsync import AvatarSyncModel

# Where LoRA sits, one part a stage, and its largest rank there. Rank 16 of the painter is a sixth of its own size.
PAINTER, LIPS = "visual_tokenizer.painter", "visual_tokenizer.expression_decoder"
KEYFRAMES, INTERPOLATION = "keyframe_generator", "interpolation"
RANKS = {PAINTER: 16, LIPS: 8, KEYFRAMES: 4, INTERPOLATION: 4}
WEIGHT_BYTES = 2_300_000  # of the adapter's 3 MB; references, sheet and card take the rest
ADAPTER = "default"
WARM_UP = 0.05
PROBE_STEPS = 4


def target_layers(model: AvatarSyncModel) -> dict[str, nn.Module]:
    """Every linear and every convolutional layer of the adapted parts, by path."""
    return {
        path: layer
        for path, layer in model.named_modules()
        if path.startswith(tuple(f"{part}." for part in RANKS)) and isinstance(layer, (nn.Linear, nn.Conv2d))
    }


def ranks_that_fit(layers: dict[str, nn.Module]) -> dict[str, int]:
    """Rank of each layer: of `RANKS`, all made smaller by the same share until the weights fit."""
    part_of = {path: next(part for part in RANKS if path.startswith(f"{part}.")) for path in layers}
    for share in np.linspace(1, 0.05, 39):
        ranks = {path: max(1, int(RANKS[part] * share)) for path, part in part_of.items()}
        size = sum(ranks[path] * (layer.weight[0].numel() + len(layer.weight)) for path, layer in layers.items())
        if 4 * size <= WEIGHT_BYTES:
            break
    return ranks


def add_lora(model: AvatarSyncModel, seed: int) -> None:
    """Fresh LoRA layers that change nothing yet."""
    torch.manual_seed(seed)
    ranks = ranks_that_fit(target_layers(model))
    model.requires_grad_(False)
    config = LoraConfig(
        r=1,
        lora_alpha=1,
        target_modules=list(ranks),
        rank_pattern=ranks,
        alpha_pattern=dict(ranks),
        inference_mode=False,
    )
    model.add_adapter(config, ADAPTER)


def lora_parameters(model: AvatarSyncModel, part: str = "") -> dict[str, nn.Parameter]:
    """Of one part, or all."""
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if ".lora_" in name and name.startswith(part and f"{part}.")
    }


def take_out(model: AvatarSyncModel, part: str) -> None:
    """Remove the LoRA layers of a part, as if they had never been there."""
    config = model.peft_config[ADAPTER]
    for path, layer in list(model.named_modules()):
        if isinstance(layer, BaseTunerLayer) and path.startswith(f"{part}."):
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, layer.get_base_layer())
            for pattern in (config.rank_pattern, config.alpha_pattern):
                pattern.pop(path)
    config.target_modules = set(config.rank_pattern)


@dataclass
class Stage:
    """One part's training.

    Args:
        name: for the progress bar.
        part: whose LoRA layers learn.
        batches: what from.
        loss: batch → scalar.
        validate: how wrong it is on frames that it does not learn from.
        steps, learning_rate: of Adam, on a cosine.
        checks: how many times it is validated; the best state stays, which may be that of the base.
        least_gain: by what share of the base's validation it must be better to stay.
    """

    name: str
    part: str
    batches: NumberedBatches
    loss: Callable[[dict[str, torch.Tensor]], torch.Tensor]
    steps: int
    learning_rate: float
    validate: Callable[[], float]
    checks: int = 6
    least_gain: float = 0.0


def stop_time(minutes: float) -> float:
    return time.monotonic() + 60 * minutes


def train(model: AvatarSyncModel, stage: Stage, mixed_precision: str, until: float) -> tuple[int, float, float]:
    """Train one stage's LoRA layers; what pays by `validate` stays, else they are taken out.

    Args:
        until: `time.monotonic()` by which it must be done; where the steps do not fit, there are fewer.

    Returns:
        Steps made (0 where it did not pay), and the validation before and after.
    """
    device = model.device
    parameters = lora_parameters(model, stage.part)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in parameters)
    optimizer = torch.optim.AdamW(parameters.values(), stage.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    precision = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[mixed_precision]

    def step(index: int, share: float) -> float:
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate * min(1, share / WARM_UP) * (1 + np.cos(np.pi * share)) / 2
        batch = {name: value.to(device) for name, value in stage.batches[index].items()}
        with torch.autocast(device.type, precision, enabled=precision is not None):
            loss = stage.loss(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    def state() -> dict[str, torch.Tensor]:
        return {name: value.detach().clone() for name, value in parameters.items()}

    begun = time.monotonic()
    before = best = stage.validate()
    cost = time.monotonic() - begun
    best_state, best_step = state(), 0
    begun, steps = time.monotonic(), stage.steps
    bar = tqdm(total=steps, desc=stage.name, unit="step", disable=None)
    index = -1
    while (index := index + 1) < steps:
        step(index, (index + 0.5) / steps)
        if index + 1 == PROBE_STEPS:
            left = until - time.monotonic() - stage.checks * cost
            fitting = int(left / ((time.monotonic() - begun) / PROBE_STEPS)) + PROBE_STEPS
            if fitting < steps:
                steps = max(PROBE_STEPS + 1, fitting)
                bar.total = steps
                tqdm.write(f"{stage.name}: {steps} of {stage.steps} steps fit into the time")
        bar.update()
        late = index + 1 > PROBE_STEPS and time.monotonic() + cost > until
        if late or (index + 1) * stage.checks // steps > index * stage.checks // steps:
            value = stage.validate()
            bar.set_postfix_str(f"{before:.4f} → {value:.4f}")
            if value < best:
                best, best_state, best_step = value, state(), index + 1
        if late and index + 1 < steps:
            tqdm.write(f"{stage.name}: stopped after {index + 1} of {steps} steps, the time is up")
            break
    bar.close()
    with torch.no_grad():
        for name, value in best_state.items():
            parameters[name].copy_(value)
    if best_step == 0 or best > (1 - stage.least_gain) * before:
        take_out(model, stage.part)
        return 0, before, best
    return best_step, before, best
