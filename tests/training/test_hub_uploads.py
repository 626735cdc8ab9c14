"""Uploads: what is refused before the work, and what is told when the Hub cannot be reached after it."""

from argparse import Namespace
from pathlib import Path

import hub_uploads
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled
from training_options import training_parser
from training_utils import start_accelerator

from avatarsync.errors import InvalidArgumentError, OutputError


def asked(out="runs/mine", name=None, push=True):
    return Namespace(out=Path(out), hub_model_id=name, push_to_hub=push)


def test_without_a_login_or_a_name_nothing_is_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(hub_uploads, "get_token", lambda: None)
    args = training_parser("x").parse_args(["--data", "d", "--out", str(tmp_path / "out"), "--push_to_hub"])
    with pytest.raises(InvalidArgumentError, match="--push_to_hub needs a login: `hf auth login`"):
        start_accelerator(args)
    assert not (tmp_path / "out").exists()
    hub_uploads.check_upload(asked(push=False))
    monkeypatch.setattr(hub_uploads, "get_token", lambda: "hf_none")
    hub_uploads.check_upload(asked())
    hub_uploads.check_upload(asked(name="me/mine"))
    for name in ("my model", "a/b/c"):
        with pytest.raises(InvalidArgumentError, match="is no name for the Hub"):
            hub_uploads.check_upload(asked(name=name))


@pytest.mark.parametrize("error", [HTTPError("[Errno -2] Name or service not known"), OfflineModeIsEnabled("offline")])
def test_what_the_client_raises_becomes_the_command_for_later(error):
    with pytest.raises(OutputError) as raised, hub_uploads.uploading(asked("my runs/mine"), exclude="checkpoints/*"):
        raise error
    told = str(raised.value)
    assert told.startswith("saved in my runs/mine, but not uploaded (") and "\n" not in told
    assert "`hf upload mine 'my runs/mine' . --exclude 'checkpoints/*'`" in told


def test_a_hub_that_cannot_be_reached_is_told(monkeypatch):
    """A real client, whose port nobody listens at."""
    with pytest.raises(OutputError, match="saved in runs/mine, but not uploaded"), hub_uploads.uploading(asked()):
        HfApi(endpoint="http://127.0.0.1:9", token="hf_none").create_repo("mine", exist_ok=True)
