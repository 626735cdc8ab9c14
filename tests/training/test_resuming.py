"""Going on with a run: from the newest checkpoint, from an older one, and after a kill. No data, a tiny model."""

import json

import pytest
import torch
from checkpoints import complete_checkpoints
from curves import History
from numbered_batches import NumberedBatches
from safetensors.torch import load_file
from training_options import training_parser
from training_utils import TrainingRun, start_accelerator

from avatarsync import InterpolationConfig, InterpolationModel
from avatarsync.errors import CheckpointError, OutputError


class Numbers(NumberedBatches):
    def make(self, random, generator):
        return {"x": torch.from_numpy(random.normal(size=3))}


def train(out, *options, until: int | None = None):
    """A run of as many steps as asked for; killed after step `until`."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    words = ["--data", "none", "--out", str(out), "--max_train_steps", "4", "--checkpoint_steps", "2", "--keep", "5",
             "--log_steps", "1", "--eval_steps", "100", "--warmup_steps", "0", "--mixed_precision", "no"]  # fmt: skip
    args = training_parser("x").parse_args([*words, *options])
    accelerator = start_accelerator(args)
    model = InterpolationModel(InterpolationConfig(hidden_size=8, num_layers=1, head_size=8))
    optimizer = torch.optim.AdamW(model.parameters(), args.learning_rate)
    prepared, prepared_optimizer = accelerator.prepare(model, optimizer)
    run = TrainingRun(accelerator, args, model, optimizer, {})
    for batch in run.micro_batches(Numbers(0)):
        loss = sum((parameter * batch["x"].mean()).pow(2).sum() for parameter in prepared.parameters())
        accelerator.backward(loss)
        prepared_optimizer.step()
        prepared_optimizer.zero_grad()
        run.step_done({"loss": loss}, dict)
        if run.step == until:
            return
    run.finish(dict)


def names(out) -> list[str]:
    return sorted(path.name for path in (out / "checkpoints").iterdir())


def steps(out) -> list[int]:
    return [json.loads(line)["step"] for line in (out / "history.jsonl").read_text().splitlines() if "loss" in line]


def test_a_run_goes_on_from_an_older_checkpoint_and_loses_none(tmp_path):
    out = tmp_path / "run"
    train(out)
    whole = load_file(out / "model.safetensors")
    last = (out / "checkpoints/checkpoint-000004/model.safetensors").read_bytes()
    train(out, "--resume", str(out / "checkpoints" / "checkpoint-000002"), "--keep", "2")
    again = load_file(out / "model.safetensors")
    assert all(torch.equal(again[name], value) for name, value in whole.items())
    assert names(out) == ["checkpoint-000002", "checkpoint-000004", "superseded-1-checkpoint-000004"]
    assert (out / "checkpoints/superseded-1-checkpoint-000004/model.safetensors").read_bytes() == last
    assert steps(out) == [1, 2, 3, 4]
    # Killed at once, it goes on where it had gone back to, and not at what was made before.
    train(out, "--resume", str(out / "checkpoints" / "checkpoint-000002"), until=3)
    train(out, "--resume", "latest", until=3)
    assert steps(out) == [1, 2, 3] and complete_checkpoints(out) == [out / "checkpoints" / "checkpoint-000002"]


@pytest.mark.parametrize("options", [[], ["--resume", "latest"]])
def test_a_run_that_was_killed_before_its_first_checkpoint_leaves_no_figures(options, tmp_path):
    train(tmp_path / "run", "--checkpoint_steps", "50", until=3)
    assert steps(tmp_path / "run") == [1, 2, 3]
    train(tmp_path / "run", *options, until=2)
    assert steps(tmp_path / "run") == [1, 2]


def test_a_last_line_that_was_cut_off_is_made_again(tmp_path):
    out = tmp_path / "run"
    train(out, until=3)
    history = out / "history.jsonl"
    history.write_text(history.read_text()[:-9])
    train(out, "--resume", "latest")
    assert steps(out) == [1, 2, 3, 4]
    lines = history.read_text().splitlines()
    history.write_text("\n".join([lines[0][:20], *lines[1:]]))
    with pytest.raises(CheckpointError, match="history.jsonl, line 1, is no JSON"):
        History(out, True).truncate(9)


def test_checkpoints_are_sorted_by_their_steps(tmp_path):
    for name in ("checkpoint-1000000", "checkpoint-999000", "checkpoint-best", "superseded-1-checkpoint-000004"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["checkpoint-999000", "checkpoint-1000000"]


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="--out .*file/run cannot be written"):
        train(tmp_path / "file" / "run")
