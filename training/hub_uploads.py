"""Uploads to the Hugging Face Hub: what would fail at their end is refused before the work where it can be known."""

import argparse
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import get_token
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import HFValidationError, validate_repo_id

from avatarsync.errors import InvalidArgumentError, OutputError


def hub_name(args: argparse.Namespace) -> str:
    """The repository's name: `--hub_model_id`, or that of `--out`."""
    return args.hub_model_id or args.out.absolute().name


def check_upload(args: argparse.Namespace) -> None:
    """Make sure that `--push_to_hub`, where it is given, has a login and a name that the Hub takes.

    Raises:
        InvalidArgumentError: it has not.
    """
    if not args.push_to_hub:
        return
    try:
        validate_repo_id(hub_name(args))
    except HFValidationError as error:
        raise InvalidArgumentError(
            f"{hub_name(args)} is no name for the Hub ({error}): give --hub_model_id, such as me/avatarsync-mine"
        ) from error
    if get_token() is None:
        raise InvalidArgumentError(
            "--push_to_hub needs a login: `hf auth login`, or HF_TOKEN; or leave it out and upload later"
        )


@contextmanager
def uploading(args: argparse.Namespace, exclude: str | None = None) -> Iterator[None]:
    """Tell in one line how to upload `--out` later if the Hub cannot be reached, or refuses it.

    Args:
        exclude: pattern of the files that stay at home.

    Raises:
        OutputError: it failed.
    """
    try:
        yield
    except (OSError, HTTPError, ValueError) as error:  # not all that the Hub's client raises has one base
        out: Path = args.out
        command = shlex.join(
            ["hf", "upload", hub_name(args), str(out), ".", *(["--exclude", exclude] if exclude else [])]
        )
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise OutputError(
            f"saved in {out}, but not uploaded ({lines[0]}): log in and upload it later with `{command}`"
        ) from error
