"""The neutral face and the mesh come out of a speaker's clips again."""

import build_face_mesh
import pytest
import torch
from safetensors.torch import load_file
from tiny_dataset import write_tiny_dataset

from avatarsync import face_mesh
from avatarsync.errors import InvalidArgumentError


def test_the_neutral_face_and_its_interiors_are_found_again(tmp_path):
    data, out = write_tiny_dataset(tmp_path / "data"), tmp_path / "mesh.safetensors"
    build_face_mesh.main(["--data", str(data), "--speaker", "a", "--out", str(out)])
    mesh = load_file(out)
    # The tiny dataset is the neutral face with a thousandth of noise.
    torch.testing.assert_close(mesh["neutral_landmarks"], face_mesh.neutral_landmarks(), atol=5e-3, rtol=0)
    kinds = mesh["triangle_kinds"]
    assert mesh["triangles"].shape == (len(kinds), 3) and set(kinds.tolist()) == {0, 1, 2}
    mouth = mesh["triangles"][kinds == face_mesh.MOUTH_INTERIOR].long()
    assert set(mouth.flatten().tolist()) <= set(face_mesh.INNER_LIPS)


def test_an_unknown_speaker_is_refused(tmp_path):
    data = write_tiny_dataset(tmp_path / "data")
    with pytest.raises(InvalidArgumentError, match="those of a, b"):
        build_face_mesh.main(["--data", str(data), "--speaker", "x", "--out", str(tmp_path / "mesh.safetensors")])
