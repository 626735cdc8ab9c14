"""The whole chain of training on a toy set: raw videos to a model that speaks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from assemble import mean_of_runs
from safetensors.torch import load_file
from toy_data import face

from avatarsync import AvatarSyncPipeline, InterpolationConfig, InterpolationModel
from avatarsync.data.dataset import Rows, load
from avatarsync.errors import CheckpointError

RUN_ALL = Path(__file__).resolve().parents[2] / "training" / "run_all.sh"
STAGES = (
    *("detector", "landmarks", "face_aligner", "codes", "encoder", "painted", "joint", "tokenizer"),
    *("keyframes_1", "keyframes_2", "keyframes_3", "keyframes_4", "keyframes_5", "interpolation", "interpolation_2"),
)


def run_all(*options):
    # The scripts of this interpreter's environment come first, as in an activated one.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    return subprocess.run([RUN_ALL, *map(str, options)], capture_output=True, text=True, env=environment, timeout=1500)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    out = tmp_path_factory.mktemp("toy")
    result = run_all("--toy", out)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return out


def test_two_speakers_and_portraits_become_a_dataset(toy):
    data = load(toy / "dataset")
    rows = Rows(data.clips["train"])
    assert set(rows.speakers) == {"anna", "bert"}
    assert len(rows.track(0)) > 3 and np.ptp(rows.landmarks(0)[:, 14, 1] - rows.landmarks(0)[:, 13, 1]) > 0.01
    assert len(data.portraits["train"]) >= 2
    assert (toy / "dataset" / "reenacted" / "contact_sheet.png").exists()


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_leaves_weights_curves_and_a_card(toy, stage):
    for name in ("config.json", "model.safetensors", "curves.png", "README.md", "history.jsonl"):
        assert (toy / stage / name).stat().st_size > 0, name
    assert "2 of 2 optimizer steps" in (toy / stage / "README.md").read_text()


def test_phase_two_names_its_networks(toy):
    card = (toy / "keyframes_2" / "README.md").read_text()
    assert "ST-LPIPS" in card and "dlib ResNet-29" in card


def test_phase_three_widens_the_window(toy):
    config = json.loads((toy / "keyframes_3" / "config.json").read_text())
    assert (config["past_units"], config["future_units"]) == (3, 3)
    assert "unexplained expression" in (toy / "keyframes_3" / "README.md").read_text()


@pytest.mark.parametrize(
    ("stage", "runs"),
    [
        ("keyframe_generator", ("keyframes_4", "keyframes_5")),
        ("interpolation", ("interpolation", "interpolation_2")),
    ],
)
def test_the_model_holds_the_mean_of_two_runs(toy, stage, runs):
    first, second = (load_file(toy / run / "model.safetensors") for run in runs)
    model = load_file(toy / "model" / "model.safetensors")
    assert any(not torch.equal(first[name], second[name]) for name in first)
    for name, value in first.items():
        mean = (value.float() + second[name].float()) / 2
        torch.testing.assert_close(model[f"{stage}.{name}"].float(), mean, atol=1e-3, rtol=1e-3)


def test_runs_of_different_sizes_have_no_mean(toy, tmp_path):
    small = InterpolationModel(InterpolationConfig(hidden_size=64, num_layers=1, head_size=16))
    small.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="differ in size"):
        mean_of_runs(InterpolationModel, [toy / "interpolation", tmp_path])


def test_what_was_trained_generates(toy):
    talk = AvatarSyncPipeline.from_pretrained(toy / "model")
    assert talk.model.keyframe_generator.config.hidden_size == 64
    # Two steps make no face aligner: where the face is, the bundled one says.
    talk.model.face_aligner = AvatarSyncPipeline.from_pretrained().model.face_aligner
    portrait = np.asarray(face())
    video = talk(portrait, text="Bob may go.")
    assert video.frames.shape[1:] == portrait.shape and len(video.frames) > 15


WRONG = (
    [],
    ["--toy"],
    ["--nonsense", "x"],
    ["--videos", "/nowhere", "--out", "{out}"],
    ["--phases", "4", "--out", "{out}"],
)


@pytest.mark.parametrize("options", WRONG)
def test_wrong_options_are_told(options, tmp_path):
    result = run_all(*(option.format(out=tmp_path / "out") for option in options))
    assert result.returncode == 2 and "error: " in result.stderr.strip().splitlines()[-1]
