"""Training runs: exact resume, atomic checkpoints, refusals; on real scripts, tiny models and a tiny dataset."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import train_interpolation
import train_keyframes
import train_tokenizer
from numbered_batches import EveryNth
from safetensors.torch import load_file
from tiny_dataset import write_tiny_dataset
from training_options import training_parser
from training_utils import complete_checkpoints

from avatarsync import KeyframeGeneratorModel, VisualTokenizerModel
from avatarsync.errors import CheckpointError, DatasetError, InvalidArgumentError, OutputError

TRAINING = Path(train_tokenizer.__file__).parent
LOOP = ["--max_train_steps", "4", "--batch_size", "2", "--log_steps", "1", "--eval_steps", "4",
        "--checkpoint_steps", "2", "--warmup_steps", "1", "--mixed_precision", "no"]  # fmt: skip
TOKENIZER = ["--config", "encoder_width=8", "motion_width=32", "painter_width=8", "painter_size=16"]
KEYFRAMES = ["--config", "hidden_size=32", "num_layers=1", "num_heads=2"]
INTERPOLATION = ["--config", "hidden_size=32", "num_layers=1", "head_size=16"]


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """Accelerate keeps its state for the life of a process; every run here is one of its own."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("data"))


def train_codes(data, out, *options):
    train_tokenizer.main(["--data", str(data), "--out", str(out), "--phase", "expression", "--portrait_share", "0",
                          *LOOP, *TOKENIZER, *options])  # fmt: skip


@pytest.fixture(scope="module")
def codes(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "codes"
    train_codes(data, out, "--eval_steps", "2")
    return out


def test_phase_encoder_leaves_what_codes_mean(data, codes, tmp_path):
    train_tokenizer.main(["--data", str(data), "--out", str(tmp_path / "run"), "--phase", "encoder", "--init_from",
                          str(codes), "--portrait_share", "0", *LOOP])  # fmt: skip
    before, after = load_file(codes / "model.safetensors"), load_file(tmp_path / "run" / "model.safetensors")
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"encoder"}
    assert not torch.equal(before["encoder.comparison.weight"], after["encoder.comparison.weight"])


def train_generator(data, codes, out, *options):
    train_keyframes.main(["--data", str(data), "--tokenizer", str(codes), "--out", str(out), *LOOP, *KEYFRAMES,
                          *options])  # fmt: skip


@pytest.fixture(scope="module")
def keyframes(data, codes, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "keyframes"
    train_generator(data, codes, out)
    return out


def equal(first: Path, second: Path) -> bool:
    first, second = load_file(first), load_file(second)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def halve(run: Path, out: Path) -> Path:
    """A run that was cut off after its second step."""
    shutil.copytree(run, out)
    shutil.rmtree(out / "checkpoints" / "checkpoint-000004")
    os.remove(out / "model.safetensors")
    return out


def test_a_run_leaves_weights_checkpoints_curves_samples_and_card(codes):
    assert [path.name for path in complete_checkpoints(codes)] == ["checkpoint-000002", "checkpoint-000004"]
    assert VisualTokenizerModel.from_pretrained(codes).config.painter_size == 16
    entries = [json.loads(line) for line in (codes / "history.jsonl").read_text().splitlines()]
    assert {entry["step"] for entry in entries} == {1, 2, 3, 4}
    assert any("held_out/speakers_opening_r" in entry for entry in entries)
    assert (codes / "curves.png").stat().st_size > 5000
    assert {path.name for path in (codes / "samples").iterdir()} == {"step-000002.png", "step-000004.png"}
    card = (codes / "README.md").read_text()
    assert "4 of 4 optimizer steps of 2 samples" in card and "speakers_lip_error" in card
    assert str(codes.parent) not in card


def test_the_learning_rate_warms_up_and_falls_as_a_cosine(codes):
    entries = [json.loads(line) for line in (codes / "history.jsonl").read_text().splitlines()]
    rates = [entry["learning_rate"] for entry in entries if "learning_rate" in entry]
    assert rates[0] == pytest.approx(5e-4) and rates[-1] == pytest.approx(0, abs=1e-9)
    assert all(a > b for a, b in zip(rates, rates[1:], strict=False))


@pytest.mark.parametrize("stage", ["tokenizer", "keyframes"])
def test_two_steps_resume_two_steps_are_four_steps_bit_for_bit(stage, data, codes, keyframes, tmp_path):
    whole = codes if stage == "tokenizer" else keyframes
    out = halve(whole, tmp_path / "run")
    if stage == "tokenizer":
        train_codes(data, out, "--eval_steps", "2", "--resume", "latest")
    else:
        train_generator(data, codes, out, "--resume", "latest")
    assert equal(out / "model.safetensors", whole / "model.safetensors")
    for name in ("model.safetensors",):
        last = "checkpoints/checkpoint-000004"
        assert equal(out / last / name, whole / last / name)
    optimizers = [torch.load(run / last / "optimizer.bin", weights_only=True)["state"] for run in (out, whole)]
    assert all(torch.equal(optimizers[0][i]["exp_avg"], optimizers[1][i]["exp_avg"]) for i in optimizers[0])
    steps = [json.loads(line)["step"] for line in (out / "history.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps.count(3) == 1


def test_accumulated_batches_count_as_one_step_and_resume_exactly(data, codes, tmp_path):
    options = ["--gradient_accumulation_steps", "2"]
    train_generator(data, codes, tmp_path / "whole", *options)
    out = halve(tmp_path / "whole", tmp_path / "run")
    train_generator(data, codes, out, "--resume", "latest", *options)
    assert equal(out / "model.safetensors", tmp_path / "whole" / "model.safetensors")


def test_the_average_is_what_is_saved(data, codes, tmp_path):
    train_generator(data, codes, tmp_path / "averaged", "--ema_decay", "0.9")
    saved = load_file(tmp_path / "averaged" / "model.safetensors")
    raw = load_file(tmp_path / "averaged" / "checkpoints" / "checkpoint-000004" / "model.safetensors")
    assert any(not torch.equal(saved[name], raw[name]) for name in saved)
    train_generator(data, codes, tmp_path / "raw", "--ema_decay", "0")
    saved = load_file(tmp_path / "raw" / "model.safetensors")
    for name, value in saved.items():
        torch.testing.assert_close(value, raw[name], atol=1e-6, rtol=1e-6)


def test_old_checkpoints_go(data, codes, tmp_path):
    train_generator(data, codes, tmp_path / "run", "--keep", "1", "--checkpoint_steps", "1")
    assert [path.name for path in complete_checkpoints(tmp_path / "run")] == ["checkpoint-000004"]


def test_phase_two_adds_named_losses_and_interpolation_trains_on_predictions(data, codes, keyframes, tmp_path):
    train_keyframes.main(["--data", str(data), "--tokenizer", str(codes), "--init_from", str(keyframes), "--phase",
                          "2", "--out", str(tmp_path / "two"), "--lambda_lpips", "0", "--lambda_identity", "0",
                          "--lambda_facial", "0", *LOOP])  # fmt: skip
    assert not equal(tmp_path / "two" / "model.safetensors", keyframes / "model.safetensors")
    assert "phase 2" in (tmp_path / "two" / "README.md").read_text()
    train_interpolation.main(["--data", str(data), "--tokenizer", str(codes), "--keyframes", str(keyframes), "--out",
                              str(tmp_path / "between"), *LOOP, *INTERPOLATION])  # fmt: skip
    assert "learned_opening_r" in (tmp_path / "between" / "README.md").read_text()
    third = ["--data", str(data), "--tokenizer", str(codes), "--init_from", str(keyframes), "--out",
             str(tmp_path / "three"), "--interpolation", str(tmp_path / "between"), *LOOP]  # fmt: skip
    with pytest.raises(InvalidArgumentError, match="--phase 3"):
        train_keyframes.main([*third, "--phase", "2"])
    train_keyframes.main([*third, "--phase", "3", "--frames_per_clip", "3", "--means_share", "1"])
    history = [json.loads(line) for line in (tmp_path / "three" / "history.jsonl").read_text().splitlines()]
    assert all(entry["unexplained_frames"] > 0 for entry in history if "cross_entropy" in entry)
    assert not equal(tmp_path / "three" / "model.safetensors", keyframes / "model.safetensors")


@pytest.mark.parametrize(("options", "trained"), [([], {"encoder", "painter"}), (["--keep_encoder"], {"painter"})])
def test_phase_joint_leaves_what_codes_mean(data, codes, tmp_path, options, trained):
    train_tokenizer.main(["--data", str(data), "--out", str(tmp_path / "run"), "--phase", "joint", "--init_from",
                          str(codes), "--portrait_share", "0", *options, *LOOP])  # fmt: skip
    before, after = (load_file(folder / "model.safetensors") for folder in (codes, tmp_path / "run"))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == trained


def test_only_phase_joint_can_keep_the_encoder(data, codes, tmp_path):
    with pytest.raises(InvalidArgumentError, match="belongs to --phase joint"):
        train_tokenizer.main(["--data", str(data), "--out", str(tmp_path / "run"), "--phase", "encoder",
                              "--init_from", str(codes), "--keep_encoder", *LOOP])  # fmt: skip


@pytest.mark.parametrize("phase", ["paint", "joint"])
def test_an_adversary_trains_the_painter_and_resumes_exactly(phase, data, codes, tmp_path):
    options = ["--data", str(data), "--phase", phase, "--init_from", str(codes), "--portrait_share", "0",
               *(["--keep_encoder"] if phase == "joint" else []), *LOOP]  # fmt: skip
    adversary = ["--adversarial_weight", "0.5", "--adversary_alone", "1"]
    train_tokenizer.main([*options, "--out", str(tmp_path / "alone")])
    train_tokenizer.main([*options, *adversary, "--out", str(tmp_path / "whole")])
    before, after = (load_file(folder / "model.safetensors") for folder in (codes, tmp_path / "whole"))
    assert {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])} == {"painter"}
    assert not equal(tmp_path / "whole" / "model.safetensors", tmp_path / "alone" / "model.safetensors")
    history = [json.loads(line) for line in (tmp_path / "whole" / "history.jsonl").read_text().splitlines()]
    # 0 where no mouth of a batch is open.
    assert any(entry["adversary_loss"] > 0 for entry in history if "loss" in entry)
    assert "Adversary" in (tmp_path / "whole" / "README.md").read_text()
    out = halve(tmp_path / "whole", tmp_path / "run")
    train_tokenizer.main([*options, *adversary, "--out", str(out), "--resume", "latest"])
    assert equal(out / "model.safetensors", tmp_path / "whole" / "model.safetensors")


def test_painting_where_codes_lead_is_another_training(data, codes, tmp_path):
    options = ["--data", str(data), "--phase", "paint", "--init_from", str(codes), "--portrait_share", "0", *LOOP]
    for share in ("0", "1"):
        train_tokenizer.main([*options, "--led_share", share, "--out", str(tmp_path / share)])
    before, true, led = (load_file(out / "model.safetensors") for out in (codes, tmp_path / "0", tmp_path / "1"))
    assert {name.split(".")[0] for name in before if not torch.equal(before[name], led[name])} == {"painter"}
    assert any(not torch.equal(true[name], led[name]) for name in true)


def test_an_adversary_belongs_where_pictures_are_drawn(data, codes, tmp_path):
    options = ["--data", str(data), "--out", str(tmp_path / "run"), "--init_from", str(codes), *LOOP]
    with pytest.raises(InvalidArgumentError, match="belongs to --phase paint or joint"):
        train_tokenizer.main([*options, "--phase", "encoder", "--adversarial_weight", "1"])
    with pytest.raises(InvalidArgumentError, match="give 0"):
        train_tokenizer.main([*options, "--phase", "paint", "--adversarial_weight", "-1"])
    with pytest.raises(InvalidArgumentError, match="there is none"):
        train_tokenizer.main([*options, "--phase", "paint", "--adversarial_weight", "1", "--judged", "portraits",
                              "--portrait_share", "0"])  # fmt: skip
    with pytest.raises(InvalidArgumentError, match="joint is led by codes alone"):
        train_tokenizer.main([*options, "--phase", "joint", "--led_share", "0.5"])


@pytest.mark.parametrize("quantizer", ["lfq", "vq"])
def test_both_quantizers_train(quantizer, data, tmp_path):
    train_codes(data, tmp_path / "run", "--quantizer", quantizer, "--continuous_share", "0")
    assert VisualTokenizerModel.from_pretrained(tmp_path / "run").config.quantizer == quantizer


@pytest.mark.parametrize("mode", ["full", "causal", "limited_history", "one_to_one"])
def test_every_attention_mode_trains(mode, data, codes, tmp_path):
    train_generator(data, codes, tmp_path / "run", "--attention_mode", mode, "--max_train_steps", "1")
    assert KeyframeGeneratorModel.from_pretrained(tmp_path / "run").config.attention_mode == mode


def test_batches_are_determined_by_their_number(data):
    from tokenizer_data import TokenizerBatches

    from avatarsync.data.dataset import Rows, load

    rows = Rows(load(data).clips["train"])
    first, again = (TokenizerBatches(rows, None, None, 3, 7, portrait_share=0.0) for _ in range(2))
    assert all(torch.equal(first[5][name], again[5][name]) for name in first[5])
    assert not torch.equal(first[5]["pixel_values"], first[6]["pixel_values"])
    indices = [next(iter(EveryNth(start, 2))) for start in (0, 1)]
    assert indices == [0, 1]


# What is refused ---------------------------------------------------------------------------------------------------


def test_an_occupied_folder_is_not_overwritten(data, codes):
    before = (codes / "model.safetensors").read_bytes()
    with pytest.raises(OutputError, match="--resume latest"):
        train_codes(data, codes)
    assert (codes / "model.safetensors").read_bytes() == before


def test_a_checkpoint_of_another_configuration_is_refused(data, codes, keyframes, tmp_path):
    out = halve(keyframes, tmp_path / "run")
    with pytest.raises(CheckpointError, match="num_layers was 1, is 2"):
        train_generator(data, codes, out, "--resume", "latest", "--config", "hidden_size=32", "num_layers=2",
                        "num_heads=2")  # fmt: skip


def test_what_is_no_checkpoint_is_refused(data, codes, tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        train_generator(data, codes, tmp_path / "run", "--resume", str(tmp_path))


def test_a_damaged_checkpoint_is_refused_by_name(data, codes, keyframes, tmp_path):
    out = halve(keyframes, tmp_path / "run")
    weights = out / "checkpoints" / "checkpoint-000002" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="checkpoint-000002 cannot be read"):
        train_generator(data, codes, out, "--resume", "latest")


def test_a_generator_of_another_codebook_is_refused(data, codes, keyframes, tmp_path):
    train_codes(data, tmp_path / "other", "--config", "code_bits=4", *TOKENIZER[1:])
    with pytest.raises(CheckpointError, match="codebook"):
        train_keyframes.main(["--data", str(data), "--tokenizer", str(tmp_path / "other"), "--init_from",
                              str(keyframes), "--phase", "2", "--out", str(tmp_path / "run"), "--lambda_lpips", "0",
                              "--lambda_identity", "0", "--lambda_facial", "0", *LOOP])  # fmt: skip


def test_a_missing_dataset_and_options_out_of_range_are_refused(data, tmp_path):
    with pytest.raises(DatasetError, match="prepare_data"):
        train_codes(tmp_path, tmp_path / "run")
    with pytest.raises(InvalidArgumentError, match="--batch_size 0"):
        train_codes(data, tmp_path / "run2", "--batch_size", "0")
    with pytest.raises(InvalidArgumentError, match="NAME=NUMBER"):
        train_codes(data, tmp_path / "run3", "--config", "encoder_width=wide")
    with pytest.raises(InvalidArgumentError, match="--init_from"):
        train_tokenizer.main(["--data", str(data), "--out", str(tmp_path / "run4"), "--phase", "paint"])
    with pytest.raises(InvalidArgumentError, match="--init_from the folder of phase expression"):
        train_tokenizer.main(["--data", str(data), "--out", str(tmp_path / "run5"), "--phase", "encoder"])
    with pytest.raises(DatasetError, match="reenact_portraits"):
        train_codes(data, tmp_path / "run5", "--portrait_share", "0.5")


def test_defaults_are_the_papers():
    args = training_parser("x").parse_args(["--data", "d", "--out", "o"])
    assert args.learning_rate == 2e-4 and args.max_train_steps == 10_000


# Whole processes ---------------------------------------------------------------------------------------------------


def start(script: str, *options, prefix=(), limit: int | None = None, environment=None):
    command = [*prefix, str(TRAINING / script), *map(str, options)]
    if not prefix:
        command.insert(0, sys.executable)
    if limit is not None:  # a writer's quota, as a full disk would stop it
        code = (
            f"import resource, os, sys, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
            f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); os.execv(sys.argv[1], sys.argv[1:])"
        )
        command = [sys.executable, "-c", code, *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_a_full_disk_is_told_in_one_line_and_costs_nothing(data, codes, keyframes, tmp_path):
    out = halve(keyframes, tmp_path / "run")
    options = ["--data", data, "--tokenizer", codes, "--out", out, "--resume", "latest", *LOOP, *KEYFRAMES]
    process = start("train_keyframes.py", *options, limit=20_000)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 2, errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith("error: step 4 could not be saved") and "checkpoint-000002 is whole" in last
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["checkpoint-000002"]
    train_generator(data, codes, out, "--resume", "latest")
    assert equal(out / "model.safetensors", keyframes / "model.safetensors")


def test_an_interrupted_run_saves_its_step(data, codes, tmp_path):
    options = ["--data", data, "--tokenizer", codes, "--out", tmp_path / "run", *LOOP, *KEYFRAMES,
               "--max_train_steps", "100000", "--eval_steps", "100000", "--checkpoint_steps", "100000"]  # fmt: skip
    process = start("train_keyframes.py", *options)
    history = tmp_path / "run" / "history.jsonl"
    deadline = time.monotonic() + 120
    while not history.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "stopped; --resume latest goes on" in output
    assert len(complete_checkpoints(tmp_path / "run")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
def test_two_processes_train_save_and_resume(launcher, data, codes, tmp_path):
    if launcher == "deepspeed":
        pytest.importorskip("deepspeed")
        prefix = [str(Path(sys.executable).with_name("accelerate")), "launch", "--config_file",
                  str(TRAINING / "accelerate" / "deepspeed_zero2.yaml")]  # fmt: skip
        environment = {"DS_ACCELERATOR": "cpu"}
    else:
        prefix = [str(Path(sys.executable).with_name("torchrun")), "--nproc_per_node", "2"]
        environment = {"ACCELERATE_USE_CPU": "true"}
    options = ["--data", data, "--tokenizer", codes, "--out", tmp_path / "run", *KEYFRAMES]
    loop = [option for option in LOOP if option not in ("--mixed_precision", "no")]
    for resume in ([], ["--resume", "latest"]):
        if resume:
            shutil.rmtree(tmp_path / "run" / "checkpoints" / "checkpoint-000004")
        process = start("train_keyframes.py", *options, *loop, *resume, prefix=prefix, environment=environment)
        output, errors = process.communicate(timeout=400)
        assert process.returncode == 0, errors[-3000:]
        assert "step 4 of 4, done" in output
        if resume:
            assert "resumed from checkpoint-000002" in output
    assert "of 4 samples" in (tmp_path / "run" / "README.md").read_text()
    KeyframeGeneratorModel.from_pretrained(tmp_path / "run")


def test_pushing_uploads_weights_and_card_but_no_checkpoint(data, codes, tmp_path, monkeypatch):
    """The Hub itself is out of reach: what would be sent is looked at instead."""
    import model_card
    from huggingface_hub.utils import filter_repo_objects

    sent = {}

    class Hub:
        def create_repo(self, name, exist_ok):
            return type("Url", (), {"repo_id": f"me/{name}"})

        def upload_folder(self, repo_id, folder_path, allow_patterns, ignore_patterns, commit_message):
            files = [str(path.relative_to(folder_path)) for path in Path(folder_path).rglob("*") if path.is_file()]
            sent[repo_id] = set(
                filter_repo_objects(files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)
            )

    monkeypatch.setattr(model_card, "HfApi", Hub)
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    train_generator(data, codes, tmp_path / "mine", "--max_train_steps", "1", "--push_to_hub")
    files = sent["me/mine"]
    assert {"README.md", "config.json", "model.safetensors", "curves.png", "samples/step-000001.png"} == files


def test_what_is_no_trained_stage_or_another_one_is_refused(data, codes, keyframes, tmp_path):
    with pytest.raises(CheckpointError, match="holds no trained model"):
        train_generator(data, tmp_path / "nowhere", tmp_path / "run")
    with pytest.raises(CheckpointError, match="avatarsync_keyframe_generator, not an avatarsync_visual_tokenizer"):
        train_generator(data, keyframes, tmp_path / "run2")
