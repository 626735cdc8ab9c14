"""Folders that are refused, that appear whole, and what assemble.py does not overwrite; how scripts end."""

import os
import subprocess
import sys
from pathlib import Path

import assemble
import pytest
from avatarsync.pipelines.talking_head import bundled_weights
from output_folders import check_new, check_writable, whole_folder
from safetensors.torch import load_file

from avatarsync import AvatarSyncModel
from avatarsync.errors import OutputError

TRAINING = Path(assemble.__file__).parent


def test_what_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for folder in (tmp_path / "file", tmp_path / "file" / "a" / "b", tmp_path / "dangling" / "a"):
        with pytest.raises(OutputError, match="--out .* cannot be written"):
            check_writable(folder, "--out")
    for folder in (tmp_path, tmp_path / "file", tmp_path / "dangling"):
        with pytest.raises(OutputError, match="exists: give a new --out"):
            check_new(folder, "--out")
    check_new(tmp_path / "a" / "b", "--out")
    assert sorted(os.listdir(tmp_path)) == ["dangling", "file"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    out = tmp_path / "runs" / "out"
    with pytest.raises(KeyboardInterrupt), whole_folder(out) as partial:
        (partial / "a").write_text("half")
        raise KeyboardInterrupt
    assert os.listdir(out.parent) == []
    with whole_folder(out) as partial:
        (partial / "a").write_text("first")
        assert not out.exists()
    (out / "notes").write_text("the user's")
    with pytest.raises(OutputError, match="out cannot be written"), whole_folder(out) as partial:
        (partial / "a").write_text("second")
    assert (out / "a").read_text() == "first"
    with whole_folder(out, replace=True) as partial:
        (partial / "a").write_text("second")
    assert (out / "a").read_text() == "second" and (out / "notes").read_text() == "the user's"
    assert os.listdir(out.parent) == ["out"]


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """The four stages of the bundled model, as training leaves them."""
    folder = tmp_path_factory.mktemp("stages")
    model = AvatarSyncModel.from_pretrained(bundled_weights())
    for name in assemble.STAGES:
        getattr(model, name).save_pretrained(folder / name)
    return folder


def words(stages, out, *options):
    return [*(word for name in assemble.STAGES for word in (f"--{name}", str(stages / name))), "--out", str(out),
            *options]  # fmt: skip


def test_a_model_is_assembled_once_and_replaced_when_asked(stages, tmp_path):
    out = tmp_path / "model"
    assemble.main(words(stages, out))
    weights = load_file(out / "model.safetensors")
    assert os.listdir(tmp_path) == ["model"]
    (out / "README.md").write_text("the user's")
    (out / "model.safetensors").write_bytes(b"older")
    with pytest.raises(OutputError, match="holds a model already: give a new --out, or --replace"):
        assemble.main(words(stages, out))
    assert (out / "model.safetensors").read_bytes() == b"older"
    assemble.main(words(stages, out, "--replace"))
    assert load_file(out / "model.safetensors").keys() == weights.keys()
    assert (out / "README.md").read_text() == "the user's"


def test_a_model_is_not_assembled_over_other_things(stages, tmp_path):
    before = (stages / "interpolation" / "model.safetensors").read_bytes()
    for out in (stages / "interpolation", stages):
        for options in ([], ["--replace"]):
            with pytest.raises(OutputError, match="--out .* holds --"):
                assemble.main(words(stages, out, *options))
    assert (stages / "interpolation" / "model.safetensors").read_bytes() == before
    (tmp_path / "notes").write_text("the user's")
    with pytest.raises(OutputError, match="holds no model that was assembled"):
        assemble.main(words(stages, tmp_path, "--replace"))
    with pytest.raises(OutputError, match="exists"):
        assemble.main(words(stages, tmp_path))
    assert os.listdir(tmp_path) == ["notes"]


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent as a POSIX signal")
@pytest.mark.parametrize(("sent", "status", "said"), [("SIGTERM", 143, ""), ("SIGINT", 130, "interrupted\n")])
def test_a_script_that_is_ended_removes_what_it_has_half_written(sent, status, said, tmp_path):
    code = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from output_folders import whole_folder\n"
        "from pathlib import Path\n"
        "from command_line import run_script\n"
        "def main(argv):\n"
        "    with whole_folder(Path(sys.argv[1])) as partial:\n"
        "        (partial / 'face.png').touch()\n"
        "        os.kill(os.getpid(), getattr(signal, sys.argv[2]))\n"
        "        time.sleep(60)\n"
        "run_script(main)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TRAINING), os.environ.get("PYTHONPATH", "")])}
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out"), sent], capture_output=True, text=True,
                           env=environment, timeout=120)  # fmt: skip
    assert (ended.returncode, ended.stderr) == (status, said) and os.listdir(tmp_path) == []
