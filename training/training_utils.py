"""What the training scripts share: the accelerator, exact resume, atomic checkpoints, logs.

The scripts keep their loop in sight; a `TrainingRun` only counts steps, feeds batches, and writes files:

    OUT/config.json, model.safetensors   the averaged weights, as `from_pretrained` reads them
    OUT/checkpoints/checkpoint-000200/   Accelerate's state: weights, optimizer, schedule, average, random generators
    OUT/history.jsonl, curves.png        every logged figure, and a picture of them
    OUT/samples/step-000200.png          what the model makes of held-out faces
    OUT/README.md                        a model card of the run

Batches are numbered: batch i is the same whoever asks for it, so a resumed run sees exactly what it would have seen.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import set_seed
from checkpoints import complete_checkpoints, set_aside
from curves import History
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from hub_uploads import check_upload, uploading
from model_card import push_to_hub, write_model_card
from numbered_batches import EveryNth, NumberedBatches
from output_folders import check_writable
from PIL import Image
from safetensors import SafetensorError
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PreTrainedModel

from avatarsync.errors import CheckpointError, InvalidArgumentError, OutputError

LOADER_PROBE = 6  # batches
# What does not belong to the architecture: other versions may write them otherwise.
VOLATILE_CONFIG_KEYS = {"transformers_version", "architectures", "dtype", "_name_or_path"}
# Whoever changes one of these goes on from a checkpoint, but not exactly.
EXACTNESS_ARGUMENTS = ("batch_size", "gradient_accumulation_steps", "learning_rate", "max_train_steps", "seed")


def start_accelerator(args: argparse.Namespace) -> Accelerator:
    """The accelerator of a run, seeded; refuses options out of range and an OUT that holds another run."""
    for name in ("max_train_steps", "batch_size", "gradient_accumulation_steps", "log_steps", "eval_steps",
                 "checkpoint_steps", "keep"):  # fmt: skip
        if getattr(args, name) < 1:
            raise InvalidArgumentError(f"--{name} {getattr(args, name)}: give at least 1")
    if not 0 <= args.ema_decay < 1:
        raise InvalidArgumentError(f"--ema_decay {args.ema_decay}: give 0 (no averaging) to less than 1")
    check_upload(args)
    if args.resume is None and any((args.out / name).exists() for name in ("config.json", "checkpoints")):
        raise OutputError(f"{args.out} holds a run already: --resume latest goes on with it, or give another --out")
    check_writable(args.out, "--out")
    # NCCL, the default, is for GPUs alone; a single process has no group to initialise.
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    handlers = [InitProcessGroupKwargs(backend="gloo")] if several and not torch.cuda.is_available() else []
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true" and not torch.cuda.is_available():
        import deepspeed

        # Gloo does without it; DeepSpeed would compile it, which needs a C++ compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    accelerator = Accelerator(
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        log_with=None if args.report_to == "none" else args.report_to,
        project_dir=args.out,
        kwargs_handlers=handlers,
    )
    if accelerator.state.deepspeed_plugin is not None:
        config = accelerator.state.deepspeed_plugin.deepspeed_config
        config["train_micro_batch_size_per_gpu"] = args.batch_size
    args.out.mkdir(parents=True, exist_ok=True)
    set_seed(args.seed, device_specific=True)
    return accelerator


class TrainingRun:
    """Counts steps, feeds batches, and writes what a run leaves behind. Made after `accelerator.prepare`.

    Args:
        model: the bare model, whose weights and config are saved.
        optimizer: the bare optimizer; the cosine schedule steers its learning rate.
        facts: what the model card says of the data and the stage, {heading: text}.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        args: argparse.Namespace,
        model: PreTrainedModel,
        optimizer: torch.optim.Optimizer,
        facts: dict[str, str],
    ):
        self.accelerator, self.args, self.model, self.facts = accelerator, args, model, facts
        # Not prepared: Accelerate would step it once per process, DeepSpeed once in all.
        self.scheduler = get_scheduler(
            "cosine", optimizer, num_warmup_steps=args.warmup_steps, num_training_steps=args.max_train_steps
        )
        self.ema = EMAModel(model.parameters(), decay=args.ema_decay)
        self.ema.to(accelerator.device)
        accelerator.register_for_checkpointing(self.scheduler, self.ema)
        self.step = 0
        self.history = History(args.out, accelerator.is_main_process)
        self.sums, self.counted = {}, 0
        self.interrupted = False
        if args.report_to != "none":
            accelerator.init_trackers(args.out.name)
        self._resume()

    # Batches -----------------------------------------------------------------------------------------------------

    def loader(self, batches: NumberedBatches) -> DataLoader:
        """Batches from where the run stands, each process its own."""
        processes = self.accelerator.num_processes
        first = self.step * self.args.gradient_accumulation_steps * processes + self.accelerator.process_index
        return DataLoader(
            batches,
            batch_size=None,
            sampler=EveryNth(first, processes),
            num_workers=self.args.num_workers,
            persistent_workers=self.args.num_workers > 0,
            pin_memory=self.accelerator.device.type == "cuda",
            generator=torch.Generator(),  # or starting it would move the global generator
        )

    def micro_batches(self, batches: NumberedBatches) -> Iterator[dict[str, torch.Tensor]]:
        """Batches on the device until --max_train_steps or --max_minutes; a signal stops it after the step."""
        args, started = self.args, time.monotonic()
        if self.step < args.max_train_steps:
            self._probe(batches)
        handlers = {name: signal.signal(name, self._interrupt) for name in (signal.SIGTERM, signal.SIGINT)}
        bar = tqdm(total=args.max_train_steps, initial=self.step, disable=None if self._main else True)
        self.since, self.since_step = time.monotonic(), self.step
        try:
            if self.step >= args.max_train_steps:
                return
            for batch in self.loader(batches):
                yield {name: value.to(self.accelerator.device) for name, value in batch.items()}
                bar.update(self.step - bar.n)
                if self.step >= args.max_train_steps:
                    break
                late = args.max_minutes is not None and time.monotonic() - started > args.max_minutes * 60
                if self.accelerator.sync_gradients and self._anywhere(late or self.interrupted):
                    break
        finally:
            bar.close()
            for name, handler in handlers.items():
                signal.signal(name, handler)

    def _probe(self, batches: NumberedBatches) -> None:
        """How fast the loader is when nobody trains: it must not be what training waits for."""
        feed = iter(self.loader(batches))
        next(feed)
        start = time.monotonic()
        for _ in range(LOADER_PROBE):
            next(feed)
        rate = LOADER_PROBE * self.args.batch_size / (time.monotonic() - start)
        self.print(f"loader alone: {rate:.0f} samples/s")
        self.history.loader_rate = rate

    def _interrupt(self, signum, frame) -> None:
        self.interrupted = True

    def _anywhere(self, condition: bool) -> bool:
        """Whether it holds in any process: all must stop at the same step."""
        if self.accelerator.num_processes == 1:
            return condition
        flag = torch.tensor(float(condition), device=self.accelerator.device)
        return self.accelerator.reduce(flag, "sum").item() > 0

    # After a step ------------------------------------------------------------------------------------------------

    def step_done(
        self,
        losses: dict[str, torch.Tensor],
        evaluate: Callable[[], dict[str, float]],
        sample: Callable[[], np.ndarray] | None = None,
    ) -> None:
        """To be called when the optimizer has stepped: schedule, average, logs, and what is due.

        Args:
            losses: scalars of this process.
            evaluate: held-out metrics of the bare model, called with the averaged weights in it, in one process.
            sample: a picture `(H, W, 3)` uint8 for people to look at, likewise.
        """
        args = self.args
        self.scheduler.step()
        self.ema.step(self.model.parameters())
        self.step += 1
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().float()
        self.counted += 1
        if self.step % args.log_steps == 0:
            self._log_losses()
        if self.step % args.eval_steps == 0 and self.step < args.max_train_steps:
            self.evaluate(evaluate, sample)
        if self.step % args.checkpoint_steps == 0:
            self.save()

    def finish(self, evaluate: Callable[[], dict[str, float]], sample: Callable[[], np.ndarray] | None = None) -> None:
        """Last evaluation, checkpoint, weights, curves and card; and the upload, where asked for."""
        if self.step == 0:
            raise InvalidArgumentError("no step was made within --max_minutes: give more time")
        if self.counted:
            self._log_losses()
        metrics = self.evaluate(evaluate, sample)
        if not self._folder(self.step).exists():
            self.save()
        if self._main:
            write_model_card(self, metrics)
        self.accelerator.wait_for_everyone()
        done = "done" if self.step >= self.args.max_train_steps else "stopped; --resume latest goes on"
        self.print(f"{self.args.out}: step {self.step} of {self.args.max_train_steps}, {done}")
        main = self._main
        self.accelerator.end_training()
        if main and self.args.push_to_hub:
            with uploading(self.args, exclude="checkpoints/*"):
                push_to_hub(self)

    def _log_losses(self) -> None:
        names = sorted(self.sums)
        means = torch.stack([torch.as_tensor(self.sums[name]) for name in names]) / self.counted
        means = self.accelerator.reduce(means, "mean")
        self.sums, self.counted = {}, 0
        now = time.monotonic()
        steps = self.step - self.since_step
        samples = steps * self.args.batch_size * self.args.gradient_accumulation_steps * self.accelerator.num_processes
        figures = dict(zip(names, means.tolist(), strict=True))
        figures |= {
            "learning_rate": self.scheduler.get_last_lr()[0],
            "steps_per_second": steps / (now - self.since),
            "samples_per_second": samples / (now - self.since),
        }
        self.since, self.since_step = now, self.step
        self._record(figures)

    def evaluate(self, evaluate, sample) -> dict[str, float]:
        """Held-out metrics and sample grid with the averaged weights, in the main process; {} in others."""
        metrics = {}
        if self._main:
            begun = time.monotonic()
            self.ema.store(self.model.parameters())
            self.ema.copy_to(self.model.parameters())
            self.model.eval()
            # Whatever is drawn here, training goes on as if nobody had looked.
            with torch.random.fork_rng(), torch.no_grad():
                metrics = evaluate()
                picture = None if sample is None else sample()
            self.model.train()
            self.ema.restore(self.model.parameters())
            if picture is not None:
                folder = self.args.out / "samples"
                folder.mkdir(exist_ok=True)
                Image.fromarray(picture).save(folder / f"step-{self.step:06d}.png")
            self._record(metrics, prefix="held_out/")
            self.since += time.monotonic() - begun
        self.accelerator.wait_for_everyone()
        return metrics

    def _record(self, figures: dict[str, float], prefix: str = "") -> None:
        figures = {prefix + name: value for name, value in figures.items()}
        self.accelerator.log(figures, step=self.step)
        if self._main:
            self.history.add(self.step, figures)
            self.print(json.dumps({"step": self.step} | {name: round(v, 5) for name, v in figures.items()}))

    @property
    def _main(self) -> bool:
        return self.accelerator.is_main_process

    def print(self, text: str) -> None:
        if self._main:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    # Checkpoints -------------------------------------------------------------------------------------------------

    def _folder(self, step: int) -> Path:
        return self.args.out / "checkpoints" / f"checkpoint-{step:06d}"

    def save(self) -> None:
        """A checkpoint, whole or not at all, and the averaged weights; older ones than the last --keep go.

        Raises:
            OutputError: the disk is full or not writable; the checkpoints that were there still are.
        """
        begun = time.monotonic()
        target = self._folder(self.step)
        partial = target.with_name(f".{target.name}.partial")
        failure = None
        try:
            if self._main:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
            self.accelerator.wait_for_everyone()
            self.accelerator.save_state(partial)
            if self._main:
                (partial / "training_state.json").write_text(json.dumps(self._state(), indent=1))
        except (OSError, RuntimeError, SafetensorError) as error:
            failure = error
        if self._anywhere(failure is not None):
            shutil.rmtree(partial, ignore_errors=True)
            raise self._not_saved(failure)
        if self._main:
            try:
                os.replace(partial, target)
            except OSError as error:
                raise self._not_saved(error) from error
            for old in complete_checkpoints(self.args.out)[: -self.args.keep]:
                shutil.rmtree(old)
            self._save_weights()
            self.history.draw()
        self.accelerator.wait_for_everyone()
        self.since = getattr(self, "since", begun) + time.monotonic() - begun

    def _save_weights(self) -> None:
        partial = self.args.out / ".weights.partial"
        self.ema.store(self.model.parameters())
        self.ema.copy_to(self.model.parameters())
        try:
            self.model.save_pretrained(partial)
            for file in partial.iterdir():
                os.replace(file, self.args.out / file.name)
        except (OSError, SafetensorError) as error:
            raise self._not_saved(error) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            self.ema.restore(self.model.parameters())

    def _not_saved(self, error: Exception | None) -> OutputError:
        left = complete_checkpoints(self.args.out)
        newest = f"{left[-1].name} is whole" if left else "there is none yet"
        free = shutil.disk_usage(self.args.out).free / 1e6
        return OutputError(
            f"step {self.step} could not be saved to {self.args.out} ({error}; {free:.0f} MB free): make room, then "
            f"--resume latest ({newest})"
        )

    def _state(self) -> dict:
        arguments = {name: getattr(self.args, name) for name in EXACTNESS_ARGUMENTS}
        arguments["num_processes"] = self.accelerator.num_processes
        return {"step": self.step, "config": plain_config(self.model), "arguments": arguments}

    def _resume(self) -> None:
        found = complete_checkpoints(self.args.out)
        if self.args.resume is None or (self.args.resume == "latest" and not found):
            if self.args.resume is not None:
                self.print(f"{self.args.out} has no checkpoint yet: starting from the beginning")
            self.history.truncate(0)  # of a run that ended before its first checkpoint
            return
        folder = found[-1] if self.args.resume == "latest" else Path(self.args.resume)
        try:
            state = json.loads((folder / "training_state.json").read_text())
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{folder} is no checkpoint of a training run: give one of OUT/checkpoints, or latest"
            ) from error
        mine = self._state()
        differences = {
            name: (state["config"].get(name), mine["config"].get(name))
            for name in state["config"].keys() | mine["config"].keys()
            if state["config"].get(name) != mine["config"].get(name)
        }
        if differences:
            listed = ", ".join(f"{name} was {old}, is {new}" for name, (old, new) in sorted(differences.items()))
            raise CheckpointError(f"{folder} is of another configuration ({listed}): give the same options")
        for name, value in mine["arguments"].items():
            if state["arguments"].get(name) != value:
                self.print(f"not exact: {name} was {state['arguments'].get(name)}, is {value}")
        try:
            self.accelerator.load_state(folder)
        except (OSError, RuntimeError, KeyError, ValueError, SafetensorError) as error:
            raise CheckpointError(f"{folder} cannot be read ({error}): give an earlier one with --resume") from error
        self.step = state["step"]
        self.accelerator.wait_for_everyone()  # all have looked for the newest
        for line in set_aside(self.args.out, self.step, folder) if self._main else ():
            self.print(line)
        self.history.truncate(self.step)
        self.print(f"resumed from {folder.name}")


def plain_config(model: PreTrainedModel) -> dict:
    """A model's config as JSON gives it back, without what is not architecture."""
    config = json.loads(json.dumps(model.config.to_dict(), default=str))
    return {name: value for name, value in config.items() if name not in VOLATILE_CONFIG_KEYS}
