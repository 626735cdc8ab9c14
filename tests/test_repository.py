"""What holds for the repository as a whole: import directions, sizes, what gets installed."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from avatarsync.version import __version__

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("avatarsync", "pipelines", "training", "spaces", "tests")
MAX_LINES = 450
# Heavy, unsuitably licensed, or (torchvision) harmful beside a CPU build of torch.
NEVER_IN_THE_PACKAGE = {"torchvision", "librosa", "cv2", "mediapipe", "training", "spaces", "tests", "pipelines"}


def source_files(*parts):
    return sorted(path for part in parts for path in (ROOT / part).rglob("*.py"))


def imported_modules(path):
    """Absolute names of all that a file imports, wherever in it."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def test_the_layout():
    for name in ("setup.py", "pyproject.toml", "constraints.txt", "LICENSE", "README.md", ".ci/run", *PARTS[:3]):
        assert (ROOT / name).exists(), name
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.parametrize("path", source_files("avatarsync", "pipelines"), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_package_imports_neither_training_nor_demo_nor_what_is_banned(path):
    forbidden = {name for name in imported_modules(path) if name.split(".")[0] in NEVER_IN_THE_PACKAGE}
    assert not forbidden


def test_the_command_line_and_the_demo_see_only_the_pipeline():
    for path in [ROOT / "avatarsync" / "cli.py", *source_files("spaces")]:
        inner = [name for name in imported_modules(path) if re.match(r"avatarsync\.(modeling|rendering|losses)", name)]
        assert not inner, path


@pytest.mark.parametrize("path", source_files(*PARTS), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def run_python(code, **options):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_importing_the_package_is_quick():
    # Processor time, which a busy machine does not stretch; torch's and transformers' own imports come before.
    code = (
        "import time, torch, transformers, transformers.pipelines\n"
        "start = time.process_time()\n"
        "import avatarsync\n"
        "print(time.process_time() - start)"
    )
    assert float(run_python(code, cwd=ROOT)) < 2


def test_importing_the_package_loads_no_heavy_module():
    loaded = set(run_python("import avatarsync, sys; print(*sys.modules)", cwd=ROOT).split())
    heavy = {"pocketsphinx", "skimage", "scipy.signal", "matplotlib", "mamba_ssm", "gradio", "datasets", "mediapipe"}
    assert not loaded & heavy


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel's contents, unpacked; built from a copy, so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("avatarsync", "pipelines"):
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder)]
    command = [sys.executable, "-m", "pip", "wheel", *options, "."]
    result = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (path,) = folder.glob("*.whl")
    assert path.name.startswith(f"avatarsync-{__version__}-py3-none-any")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def test_the_wheel_holds_code_tables_and_weights(wheel):
    def contents(base, *folders):
        found = {
            str(path.relative_to(base)) for folder in folders for path in (base / folder).rglob("*") if path.is_file()
        }
        return {name for name in found if "__pycache__" not in name}

    assert contents(wheel, "avatarsync") - contents(wheel, "avatarsync/pipelines") == contents(ROOT, "avatarsync")
    pipelines = {f"avatarsync/{name}" for name in contents(ROOT, "pipelines")}
    assert contents(wheel, "avatarsync/pipelines") == pipelines
    assert any(name.startswith("avatarsync/phonemes/tables/") for name in contents(wheel, "avatarsync"))
    assert "avatarsync/weights/base/model.safetensors" in contents(wheel, "avatarsync")
    assert {path.name for path in wheel.iterdir()} == {"avatarsync", f"avatarsync-{__version__}.dist-info"}


def test_the_wheel_works_on_its_own(wheel, tmp_path):
    code = (
        "import avatarsync, avatarsync.pipelines.talking_head as talking_head\n"
        "print(avatarsync.__file__, talking_head.__file__)\n"
        "talk = avatarsync.AvatarSyncPipeline.from_pretrained(None)\n"
        "print(len(talk.speak('Hello.').track))"
    )
    lines = run_python(code, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(wheel)}).splitlines()
    assert lines[0].split() == [
        str(wheel / "avatarsync" / "__init__.py"),
        str(wheel / "avatarsync" / "pipelines" / "talking_head.py"),
    ]
    assert int(lines[1]) > 3


def test_what_installing_brings(wheel):
    (metadata,) = wheel.glob("*.dist-info/METADATA")
    text = metadata.read_text(encoding="utf-8")
    extras = set(re.findall(r"^Provides-Extra: (\S+)", text, re.M))
    assert extras == {"adapter", "train", "demo", "eval", "align", "cuda", "test"}
    requirements = re.findall(r"^Requires-Dist: (.+)", text, re.M)
    assert all("==" not in requirement.split(";")[0] for requirement in requirements), "ranges, not pins"
    core = [requirement for requirement in requirements if "extra" not in requirement]
    assert not any(re.match(r"torchvision|librosa|opencv|mediapipe|phonemizer", name) for name in core)
    (entry_points,) = wheel.glob("*.dist-info/entry_points.txt")
    assert "avatarsync = avatarsync.cli:main" in entry_points.read_text()
    assert (metadata.parent / "licenses" / "LICENSE").is_file()


def test_the_readme_shows_the_two_commands_that_ci_runs():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = readme.split("<!-- set-up -->")[1].split("<!-- end of set-up -->")[0]
    commands = re.findall(r"^pip .+", block, re.M)
    assert len(commands) == 2
    assert "-c constraints.txt" in commands[0] and commands[0].endswith("avatarsync demo")
    assert "-c constraints.txt" in commands[1] and commands[1].endswith("pytest")


def test_the_readme_links_to_what_is_there():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", readme) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
