"""The report's files, from figures that are known."""

import csv
import json
import sys

import numpy as np
import pytest
from PIL import Image

from avatarsync.errors import MissingDependencyError
from avatarsync.evaluation.figures import Figure, figures_of
from avatarsync.evaluation.measuring import Networks
from avatarsync.evaluation.report import Report, check_plots, write_report


@pytest.fixture
def report():
    rows = [
        Figure("psnr", "PSNR, dB", "↑", ".2f"),
        Figure("opening_r", "lip opening, Pearson r", "↑", ".3f"),
        Figure("unmeasured", "of nobody", "↓", ".1f"),
    ]
    figures = {"AvatarSync": {"psnr": float("inf"), "opening_r": 0.5}, "hallo": {"psnr": 21.257}, "real": {}}
    random = np.random.default_rng(0)
    clips = [f"clip{index}" for index in range(8)]
    per_clip = [
        {"clip": clip, "system": name, "frames": 40, "opening_r": index / 10}
        for index, clip in enumerate(clips)
        for name in ("AvatarSync", "hallo")
    ]
    curves = {clip: {name: random.random(40) for name in figures} for clip in clips}
    return Report(rows, figures, per_clip, curves, ["left out: x: broken"], {"versions": "avatarsync 0"})


def test_the_table_on_screen(report):
    assert str(report).splitlines() == [
        "                        better  AvatarSync  hallo  real",
        "PSNR, dB                ↑              inf  21.26",
        "lip opening, Pearson r  ↑            0.500",
        "left out: x: broken",
    ]


def test_the_files(report, tmp_path):
    write_report(tmp_path, report, plots=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md",
        "lips.png",
        "per_clip.csv",
        "table.csv",
        "table.json",
    ]
    with open(tmp_path / "table.csv", newline="", encoding="utf-8") as file:
        table = list(csv.reader(file))
    assert table[0] == ["figure", "better", "AvatarSync", "hallo", "real"]
    assert table[1] == ["PSNR, dB", "↑", "inf", "21.257", ""]
    with open(tmp_path / "per_clip.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16 and rows[3] == {"clip": "clip1", "system": "hallo", "frames": "40", "opening_r": "0.1"}
    content = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
    assert content["figures"]["AvatarSync"] == {"psnr": "inf", "opening_r": 0.5}
    assert content["protocol"] == {"versions": "avatarsync 0"} and content["remarks"] == ["left out: x: broken"]
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    for line in ("| PSNR, dB | ↑ | inf | 21.26 |  |", "- left out: x: broken", "- **versions**: avatarsync 0"):
        assert line in card.splitlines()
    assert "](lips.png)" in card
    picture = np.asarray(Image.open(tmp_path / "lips.png").convert("RGB"))
    assert picture.shape[0] > 6 * 200, "six of the eight clips"
    for colour in ((31, 119, 180), (255, 127, 14), (140, 140, 140)):  # ours, the other system's, the real one's
        assert (np.abs(picture.astype(int) - colour).max(-1) < 8).sum() > 500


def test_without_plots_there_is_none(report, tmp_path):
    write_report(tmp_path, report, plots=False)
    assert not (tmp_path / "lips.png").exists()
    assert "lips.png" not in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r"avatarsync\[eval\]"):
        check_plots()


def test_figures_carry_the_names_of_their_networks():
    networks = Networks.load("none", "none", "none", "none", "dlib")
    labels = [figure.label for figure in figures_of(networks)]
    assert "ISS/dlib ResNet-29 (face_recognition_resnet_model_v1)" in labels
    assert not any("FID" in label or "Sync" in label or "LPIPS" in label for label in labels)
    assert len(labels) == len(set(labels))
