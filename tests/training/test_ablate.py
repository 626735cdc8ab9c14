"""Ablations: equal budgets, resuming, tables; one real run on a tiny dataset."""

import json

import ablate
import numpy as np
import pytest
import torch
import train_keyframes
import train_tokenizer
from ablation import paper
from ablation.measures import HeldOutClips, between
from ablation.runs import RESULT, read_result, run_variant, stage_commands
from ablation.studies import STUDIES, Variant
from ablation.tables import cell, markdown
from motion_data import Clip
from tiny_dataset import write_tiny_dataset

from avatarsync.errors import CheckpointError, InvalidArgumentError

SETTINGS = {
    "steps": 4,
    "batch_size": 2,
    "learning_rate": 1e-3,
    "ema_decay": 0.5,
    "mixed_precision": "no",
    "sizes": {"train_keyframes.py": ["hidden_size=32", "num_layers=1", "num_heads=2"]},
    "networks": "st-lpips-alexnet",
    "portrait_share": 0.0,
    "loss_perceptual": "st-lpips-alexnet",
    "pictures_per_clip": 1,
}
PLACES = {name: f"/somewhere/{name}" for name in ablate.FOLDERS}


def pairs(command: list[str]) -> set[tuple[str, ...]]:
    """The options of a command line, each with its values; of one that is given twice, the last counts."""
    options, name = {}, None
    for word in command[1:]:
        if word.startswith("--"):
            name = word
            options[name] = ()
        else:
            options[name] += (word,)
    return {(name, *values) for name, values in options.items()}


@pytest.mark.parametrize("study", ["attention", "losses", "quantizer", "cropping"])
def test_variants_differ_in_what_is_compared_alone(study, tmp_path):
    compared = {
        "attention": {"--attention_mode", "--past_units", "--future_units"},
        "losses": {"--lambda_lpips", "--lambda_identity", "--lambda_facial"},
        "quantizer": {"--quantizer"},
        "cropping": {"--data"},
    }[study]
    commands = [stage_commands(v, tmp_path, PLACES, SETTINGS, seed=3) for v in STUDIES[study].variants]
    assert len({json.dumps(command) for command in commands}) == len(commands)
    for stages in zip(*commands, strict=True):
        others = [{pair for pair in pairs(command) if pair[0] not in compared} for command in stages]
        assert all(other == others[0] for other in others)


@pytest.mark.parametrize("study", ["attention", "losses", "quantizer", "cropping"])
def test_the_training_scripts_understand_every_command(study, tmp_path):
    for variant in STUDIES[study].variants:
        for script, *options in stage_commands(variant, tmp_path, PLACES, SETTINGS, seed=3):
            module = {"train_keyframes.py": train_keyframes, "train_tokenizer.py": train_tokenizer}[script]
            args = module.parse(options)
            assert args.seed == 3 and args.resume == "latest" and str(args.out).startswith(str(tmp_path))


@pytest.mark.parametrize(
    ("study", "given", "words"),
    [
        ("quantizer", ["--portrait_share", "0.25"], {("--portrait_share", "0.25")}),
        (
            "losses",
            ["--loss_perceptual", "st-lpips-alexnet", "--pictures_per_clip", "1"],
            {("--perceptual", "st-lpips-alexnet"), ("--pictures_per_clip", "1")},
        ),
    ],
)
def test_a_study_s_own_options_reach_its_commands(study, given, words, tmp_path):
    folders = [word for name in STUDIES[study].needs for word in (f"--{name}", str(tmp_path))]
    args = ablate.parse_arguments([study, *folders, "--out", str(tmp_path / "out"), *given])
    settings = ablate.settings_of(args)
    for variant in STUDIES[study].variants:
        [command] = stage_commands(variant, tmp_path, PLACES, settings, seed=0)
        assert words <= pairs(command)


def test_losses_that_are_on_weigh_what_is_asked_for(tmp_path):
    folders = [word for name in STUDIES["losses"].needs for word in (f"--{name}", str(tmp_path))]
    words = ["losses", *folders, "--out", str(tmp_path / "out"), "--lambda_scale", "20", "50", "100"]
    settings = ablate.settings_of(ablate.parse_arguments(words))
    variant = next(v for v in STUDIES["losses"].variants if v.label.endswith("CE + LPIPS + Facial"))
    [command] = stage_commands(variant, tmp_path, PLACES, settings, seed=0)
    assert {("--lambda_lpips", "20.0"), ("--lambda_identity", "0.0"), ("--lambda_facial", "100.0")} <= pairs(command)


def test_the_paper_s_eight_rows_and_four_modes_are_there():
    weights = {
        tuple(float(dict(pair for pair in pairs(["", *v.stages[0].options]) if len(pair) == 2)[name])
              for name in ("--lambda_lpips", "--lambda_identity", "--lambda_facial"))
        for v in STUDIES["losses"].variants
    }  # fmt: skip
    assert weights == {(a, b, c) for a in (0.0, 1.0) for b in (0.0, 1.0) for c in (0.0, 1.0)}
    modes = {
        v.stages[0].options[v.stages[0].options.index("--attention_mode") + 1] for v in STUDIES["attention"].variants
    }
    assert modes == {"full", "causal", "limited_history", "one_to_one", "window"}


def test_finished_runs_are_skipped_and_other_budgets_refused(tmp_path):
    calls = []

    def measure(run):
        calls.append(run)
        return {"PSNR": 20.0}

    variant, run = Variant("linear", "Straight lines"), tmp_path / "interpolation" / "linear" / "seed-0"
    first = run_variant(variant, run, PLACES, SETTINGS, 0, measure)
    assert run_variant(variant, run, PLACES, SETTINGS, 0, measure) == first
    assert calls == [run] and [path.name for path in run.iterdir()] == [RESULT]
    with pytest.raises(InvalidArgumentError, match="steps"):
        read_result(run / RESULT, SETTINGS | {"steps": 5})
    (run / RESULT).write_text("{")
    with pytest.raises(CheckpointError):
        read_result(run / RESULT, SETTINGS)


@pytest.mark.parametrize("study", STUDIES)
def test_other_data_and_models_are_other_settings(study, tmp_path):
    """Whose names may be the same: a dataset was made again, a model trained on."""
    for name in ablate.FOLDERS:
        (tmp_path / name).mkdir()
        (tmp_path / name / ("schema.json" if "data" in name else "config.json")).write_text("{}")
    needs = STUDIES[study].needs
    folders = [word for name in needs for word in (f"--{name}", str(tmp_path / name))]
    args = ablate.parse_arguments([study, *folders, "--out", str(tmp_path / "out")])
    for name in needs:
        before = ablate.settings_of(args)
        assert before == ablate.settings_of(args)
        file = tmp_path / name / ("clips/train/data.arrow" if "data" in name else "model.safetensors")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"more")
        after = ablate.settings_of(args)
        assert {key for key in after if after[key] != before[key]} == {name}
        (tmp_path / name / "cache").mkdir()
        (tmp_path / name / "cache" / "codes.safetensors").write_bytes(b"of the training scripts")
        assert ablate.settings_of(args) == after


def test_a_run_that_was_cut_off_does_not_go_on_with_other_settings(tmp_path):
    def fail(run):
        raise KeyboardInterrupt

    variant, run = Variant("linear", "Straight lines"), tmp_path / "linear" / "seed-0"
    with pytest.raises(KeyboardInterrupt):
        run_variant(variant, run, PLACES, SETTINGS | {"data": "1"}, 0, fail)
    with pytest.raises(InvalidArgumentError, match="other settings .data."):
        run_variant(variant, run, PLACES, SETTINGS | {"data": "2"}, 0, lambda run: {"PSNR": 20.0})
    assert run_variant(variant, run, PLACES, SETTINGS | {"data": "1"}, 0, lambda run: {"PSNR": 20.0})


def test_tables_hold_mean_and_spread_and_the_paper_s_apart(tmp_path):
    assert cell([1.0, 3.0], 2) == "2.00 ± 1.41" and cell([1.0], 1) == "1.0"
    variant = STUDIES["attention"].variants[0]
    for seed, psnr in enumerate((20.0, 22.0)):
        run = tmp_path / "attention" / variant.name / f"seed-{seed}"
        run_variant(Variant(variant.name, variant.label), run, PLACES, SETTINGS, seed, lambda _, p=psnr: {"PSNR": p})
    text = markdown(tmp_path)
    ours, theirs = text.split("The paper's Table 2 (CMLR)")
    assert "| Non-Causal (full) | 2 | 21.00 ± 1.41 |" in ours and "steps 4" in ours and "hidden_size=32" in ours
    assert "One-to-One (one_to_one)" in ours.split("Not run:")[1]
    assert all(" | ".join(row) in theirs for row in paper.ATTENTION)


def test_nearest_keyframes_and_straight_lines():
    clip = Clip(0, "a", 10.0, torch.zeros(2), torch.ones(2), np.array([0.0, 0.4]), torch.zeros(5, 1, 1),
                torch.zeros(5, 468, 2), torch.ones(5))  # fmt: skip
    keyframes = torch.tensor([0.0, 4.0])[:, None, None]
    assert torch.allclose(between(keyframes, clip, "linear").flatten(), torch.arange(5.0), atol=1e-5)
    assert set(between(keyframes, clip, "nearest").flatten().tolist()) == {0.0, 4.0}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["attention"], "--data"),
        (["attention", "--data", "nowhere", "--tokenizer", "nowhere"], "nowhere"),
        (["quantizer", "--data", ".", "--variants", "best"], "lfq, vq"),
        (["quantizer", "--data", ".", "--steps", "1"], "--steps"),
        (["quantizer", "--data", ".", "--portrait_share", "1.5"], "--portrait_share"),
        (["quantizer", "--data", ".", "--picture_clips", "0"], "--picture_clips"),
    ],
)
def test_bad_arguments_are_told_at_once(arguments, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        ablate.main([*arguments, "--out", str(tmp_path / "out")])
    assert ended.value.code == 2 and said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny dataset, and a tokenizer that saw two batches of it."""
    folder = tmp_path_factory.mktemp("ablate")
    data = write_tiny_dataset(folder / "data")
    small = ["--config", "encoder_width=8", "motion_width=32", "painter_width=8", "painter_size=16"]
    train_tokenizer.main(["--data", str(data), "--out", str(folder / "codes"), "--phase", "expression",
                          "--portrait_share", "0", "--max_train_steps", "2", "--batch_size", "2", *small])  # fmt: skip
    return data, folder / "codes"


def test_pictures_come_with_the_landmarks_that_they_were_drawn_at(trained):
    pytest.importorskip("stlpips_pytorch")
    held = HeldOutClips(*trained, "st-lpips-alexnet", picture_clips=1)
    clip = held.clips[0]
    crops, points = held.decode(clip, clip.codes[:2].sign())
    side = crops.shape[1]
    assert crops.shape == (2, side, side, 3) and crops.dtype == np.uint8 and points.shape == (2, 468, 2)
    # A tokenizer that knows nothing yet moves nothing far from the clip's first frame.
    first = np.array(held.rows.landmarks(clip.row))[0]
    assert 0 < np.abs(points - first).mean() < 0.1 and np.abs(points[:, 10] - first[10]).max() < 0.05


def test_a_real_run_from_dataset_to_table(trained, tmp_path):
    pytest.importorskip("stlpips_pytorch")
    (data, codes), out = trained, tmp_path / "out"
    arguments = ["attention", "--data", str(data), "--tokenizer", str(codes), "--out", str(out),
                 "--variants", "one_to_one", "--seeds", "0", "--steps", "2", "--batch_size", "2",
                 "--keyframe_config", "hidden_size=32", "num_layers=1", "num_heads=2"]  # fmt: skip
    ablate.main(arguments)
    result = json.loads((out / "attention/one_to_one/seed-0/result.json").read_text())
    for name in STUDIES["attention"].columns:
        assert np.isfinite(result["figures"][name]), name
    assert "| One-to-One (one_to_one) | 1 |" in (out / "ablations.md").read_text()
