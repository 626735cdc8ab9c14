"""Published weights of feature networks → one safetensors file that the package's loaders read.

    python training/convert_feature_weights.py lpips vgg16-397923af.pth vgg.pth --out lpips_vgg16.safetensors
    python training/convert_feature_weights.py lpips lpips_sq.onnx --out lpips_squeezenet.safetensors
    python training/convert_feature_weights.py arcface backbone.pth --out arcface_r50.safetensors
    python training/convert_feature_weights.py facenet512 20180402-114759-vggface2.pt --out facenet512.safetensors
    python training/convert_feature_weights.py inception pt_inception-2015-12-05-6726825d.pth --out fid.safetensors
    python training/convert_feature_weights.py i3d i3d_pretrained_400.pt --out i3d.safetensors
    python training/convert_feature_weights.py syncnet syncnet_v2.model --out syncnet_v2.safetensors

Several inputs are joined: torchvision's trunk and LPIPS's linear heads. Of pickled files tensors alone are read, no
code is run. The result is loaded once before it is kept, so that a wrong file is refused here.
"""

import argparse
import re
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from avatarsync.distribution_features import INCEPTION_CLASSIFIER, load_clip_features, load_picture_features
from avatarsync.errors import (
    AvatarSyncError,
    InvalidArgumentError,
    MissingDependencyError,
    ModelLoadError,
    OutputError,
)
from avatarsync.feature_networks.weight_files import COUNTER, existing_file
from avatarsync.identity import CLASSIFIERS, KINDS, load_face_embedding
from avatarsync.perceptual import canonical_tensors, load_perceptual
from avatarsync.sync import load_sync_network

FACES = tuple(kind for kind in KINDS if kind != "dlib")
LOADERS = {
    "lpips": lambda path: load_perceptual(path),
    **{kind: lambda path, kind=kind: load_face_embedding(f"{kind}:{path}") for kind in FACES},
    "inception": lambda path: load_picture_features(f"inception:{path}"),
    "i3d": lambda path: load_clip_features(f"i3d:{path}"),
    "syncnet": lambda path: load_sync_network(f"syncnet:{path}"),
}
# Layers that only name classes, by network; I3D's are what FVD compares.
LEFT_OUT = {**dict.fromkeys(FACES, CLASSIFIERS), "inception": (INCEPTION_CLASSIFIER,)}


def read_onnx(path: Path) -> dict[str, torch.Tensor]:
    """Initialisers of an ONNX graph."""
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise MissingDependencyError("Reading .onnx files needs onnx: pip install onnx") from error
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(path).graph
    except DecodeError as error:
        raise ModelLoadError(f"{path} is not an ONNX file: download it again.") from error
    return {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a .pth, .pt, .bin, .onnx or .safetensors file."""
    path = existing_file(path, "a feature network")
    if path.suffix == ".onnx":
        return read_onnx(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ModelLoadError(f"{path} is not a safetensors file ({error}): download it again.") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a file that is none, the unpickler raises whatever it stumbles over
        raise ModelLoadError(
            f"{path} is damaged or holds more than tensors: expected a state dict. Save model.state_dict() instead of "
            "the model."
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelLoadError(f"{path} holds a {type(state).__name__}: expected a state dict, names and tensors.")
    # "module." is what data-parallel training puts in front, "__S__." what SyncNet's wrapper does.
    return {re.sub(r"^(module|__S__)\.", "", name): value for name, value in state.items()}


def convert(network: str, inputs: list[Path], out: Path) -> str:
    """Write `out`; the name of what it holds.

    Raises:
        ModelLoadError: an input cannot be read, or the inputs together are not the network.
        InvalidArgumentError: `out` exists. OutputError: it cannot be written.
    """
    if out.exists():
        raise InvalidArgumentError(f"{out} exists already: give another --out or remove it.")
    tensors: dict[str, torch.Tensor] = {}
    for path in inputs:
        tensors |= read_tensors(path)
    if network == "lpips":
        tensors = canonical_tensors(tensors)
    else:
        tensors = {
            name: value
            for name, value in tensors.items()
            if not name.startswith(LEFT_OUT.get(network, ())) and not name.endswith(COUNTER)
        }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out} cannot be written ({error}): give another --out.") from error
    partial = out.with_name(out.name + ".partial")
    try:
        save_file({name: value.float().contiguous() for name, value in tensors.items()}, partial)
        loaded = LOADERS[network](partial)
        partial.rename(out)
    except ModelLoadError as error:
        # The user knows the inputs, not the file under way.
        raise ModelLoadError(str(error).replace(str(partial), " + ".join(map(str, inputs)))) from error
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{out} cannot be written ({error}): make room, or give another --out.") from error
    finally:
        partial.unlink(missing_ok=True)
    return loaded.name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=LOADERS)
    parser.add_argument("inputs", nargs="+", type=Path, help=".pth, .pt, .onnx or .safetensors")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file to write")
    arguments = parser.parse_args()
    try:
        name = convert(arguments.network, arguments.inputs, arguments.out)
    except AvatarSyncError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{arguments.out}: {name}, {arguments.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
