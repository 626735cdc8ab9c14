"""The modules through Hugging Face's evaluate, from a script's folder too that has an evaluate.py of its own."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from avatarsync.errors import InvalidArgumentError
from avatarsync.metrics import modules

# Not by its name: training/, which other tests put on the path, has a script that is called evaluate as well.
from avatarsync.metrics.modules.hugging_face_evaluate import evaluate

FRAMES = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "metrics"))


def test_evaluate_loads_a_module_from_its_script(tmp_path):
    metric = evaluate.load(modules.script("ssim"))
    assert isinstance(metric, evaluate.Metric) and metric.name == "ssim"
    metric.add_batch(predictions=FRAMES, references=FRAMES)
    assert metric.compute() == {"ssim": pytest.approx(1)}
    assert not (tmp_path / "metrics").exists(), "examples are not stored"


def test_arguments_are_passed_on():
    metric = evaluate.load(modules.script("psnr"), per_frame=True)
    with pytest.raises(InvalidArgumentError, match="per_frame"):
        metric.compute(predictions=FRAMES, references=FRAMES)


def test_every_script_holds_one_metric():
    for name in modules.SCRIPTS:
        source = Path(modules.script(name)).read_text(encoding="utf-8")
        assert source.count("\nclass ") == 1, name
    with pytest.raises(InvalidArgumentError, match="ssim"):
        modules.script("mse")


def test_metrics_are_combined():
    both = evaluate.combine([modules.PSNR(), modules.SSIM()])
    both.add_batch(predictions=FRAMES, references=255 - FRAMES)
    assert set(both.compute()) == {"psnr", "mean_squared_error", "ssim"}


def test_several_processes_are_refused():
    with pytest.raises(InvalidArgumentError, match="merge"):
        modules.PSNR(num_process=2)


def test_another_evaluate_in_the_scripts_folder_does_not_matter(tmp_path):
    (tmp_path / "evaluate.py").write_text("from avatarsync.metrics.modules import PSNR\nprint(PSNR().name)\n")
    result = subprocess.run(
        [sys.executable, str(tmp_path / "evaluate.py")], capture_output=True, text=True, timeout=300
    )
    assert result.stdout == "psnr\n", result.stderr


def test_without_the_package_the_extra_is_named(monkeypatch):
    from importlib import metadata

    from avatarsync.errors import MissingDependencyError
    from avatarsync.metrics.modules import hugging_face_evaluate

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.delitem(sys.modules, "evaluate")
    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(MissingDependencyError, match=r"avatarsync\[eval\]"):
        hugging_face_evaluate._import()


def test_importing_the_modules_names_the_extra_too():
    """datasets, which comes with evaluate, would be missed first."""
    code = "import sys; sys.modules['datasets'] = sys.modules['evaluate'] = None; import avatarsync.metrics.modules"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert "MissingDependencyError" in result.stderr.splitlines()[-1] and "avatarsync[eval]" in result.stderr
