"""The folder is a Space as it stands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from avatarsync.version import __version__

SPACES = Path(__file__).resolve().parents[2] / "spaces"
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


@pytest.fixture(scope="module")
def front_matter():
    text = (SPACES / "README.md").read_text(encoding="utf-8")
    opening, matter, body = text.split("---\n", 2)
    assert opening == "" and body.strip()
    return yaml.safe_load(matter)


def test_the_front_matter_is_one_of_a_space(front_matter):
    assert front_matter["sdk"] == "gradio" and front_matter["license"] == "apache-2.0"
    assert re.fullmatch(r"\d+\.\d+\.\d+", front_matter["sdk_version"])
    assert (SPACES / front_matter["app_file"]).is_file()
    assert {front_matter["colorFrom"], front_matter["colorTo"]} <= COLOURS
    assert len(front_matter["short_description"]) <= 60 and front_matter["title"] and front_matter["emoji"]


def test_the_gradio_of_the_space_is_one_that_the_package_takes(front_matter):
    from packaging.requirements import Requirement

    setup = (SPACES.parent / "setup.py").read_text(encoding="utf-8")
    (gradio,) = [Requirement(name) for name in re.findall(r'"(gradio[^"]*)"', setup)]
    assert gradio.specifier.contains(front_matter["sdk_version"])
    lines = (SPACES / "requirements.txt").read_text(encoding="utf-8").split()
    (requirement,) = [Requirement(line) for line in lines]
    assert requirement.name == "avatarsync" and requirement.specifier.contains(__version__)


def test_every_module_is_described(front_matter):
    readme = (SPACES / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in SPACES.glob("*.py") if f"`{path.name}`" not in readme] == []


def test_one_command_starts_it():
    result = subprocess.run([sys.executable, SPACES / "app.py", "--help"], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0 and "--adapters" in result.stdout


def test_a_model_that_is_none_is_told_in_one_line(tmp_path):
    command = [sys.executable, SPACES / "app.py", "--model", tmp_path / "missing"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr and "missing" in result.stderr.splitlines()[-1]
