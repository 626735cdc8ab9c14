"""Where weights of feature networks come from: files of the user, or files inside installed packages.

A file is accepted only if every key and shape is that of the architecture asked for.
"""

import hashlib
from importlib import metadata
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ..errors import MissingDependencyError, ModelLoadError

CONVERTER = "training/convert_feature_weights.py"
# BatchNorm's step counter, which frozen networks do not have.
COUNTER = "num_batches_tracked"
SHOWN_KEYS = 3


def existing_file(path: str | Path, network: str) -> Path:
    """The path of a weight file; ModelLoadError that says what was expected if there is none."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise ModelLoadError(f"{path} is not a file: expected the weights of {network}.")
    return path


def read_safetensors(path: str | Path, network: str) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file in float32.

    Raises:
        ModelLoadError: no such file, or not safetensors.
    """
    path = existing_file(path, network)
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ModelLoadError(
            f"{path} is not a safetensors file: expected the weights of {network}. "
            f"Convert published .pth, .pt or .onnx files with `python {CONVERTER}`."
        ) from error
    return {
        name: value.float() if value.is_floating_point() else value
        for name, value in tensors.items()
        if not name.endswith(COUNTER)
    }


def read_packaged_pickle(path: Path, network: str) -> dict[str, torch.Tensor]:
    """Tensors of a `.pth` file inside an installed package: weights_only admits tensors and no code.

    Raises:
        ModelLoadError: damaged, or it holds more than tensors.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        raise ModelLoadError(
            f"{path} is damaged: expected the weights of {network}; reinstall its package."
        ) from error


def packaged_file(distribution: str, name: str, install: str) -> Path:
    """A file called `name` of an installed distribution, found without importing it.

    Raises:
        MissingDependencyError: not installed, or without the file; the message holds the command `install`.
    """
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == name and Path(file.locate()).is_file():
            return Path(file.locate())
    raise MissingDependencyError(f"{name} of the package {distribution} is needed: {install}")


def describe_difference(network: nn.Module, tensors: dict[str, torch.Tensor]) -> str:
    """What of `tensors` does not fit `network`; empty if all fits."""
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in tensors.items()}
    missing = [f"{name} {shape}" for name, shape in expected.items() if name not in given]
    unknown = [name for name in given if name not in expected]
    reshaped = [
        f"{name} is {given[name]} and not {shape}"
        for name, shape in expected.items()
        if name in given and given[name] != shape
    ]
    parts = [("missing: ", missing), ("of another shape: ", reshaped), ("not of this network: ", unknown)]
    return "; ".join(kind + _first(names) for kind, names in parts if names)


def _first(names: list[str]) -> str:
    more = len(names) - SHOWN_KEYS
    return ", ".join(names[:SHOWN_KEYS]) + (f" and {more} more" if more > 0 else "")


def load_weights(network: nn.Module, tensors: dict[str, torch.Tensor], name: str, path: Path) -> nn.Module:
    """Fill `network` (made on the meta device) with `tensors`, frozen.

    Raises:
        ModelLoadError: keys or shapes are not those of `name`.
    """
    difference = describe_difference(network, tensors)
    if difference:
        raise ModelLoadError(
            f"{path} does not hold {name} ({difference}). docs/feature_networks.md lists the keys that it needs."
        )
    network.load_state_dict(tensors, assign=True)
    return network.requires_grad_(False)


def fingerprint(path: Path) -> str:
    """File name and the first 12 digits of its SHA-256, for logs and model cards."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return f"{path.name} (sha256 {digest.hexdigest()[:12]})"
