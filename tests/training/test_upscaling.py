"""Super-resolution before cropping: the plain choice, networks of fixed and free input size, and what is refused."""

import numpy as np
import pytest
import torch
from skimage.data import astronaut
from torch import nn
from upscaling import crop_upscaled, load_upscaler

from avatarsync.errors import DatasetError
from avatarsync.image_processing_face import invert_matrix, warp_image


class Enlarge(nn.Module):
    """Bilinear, so that a pixel depends on its neighbours and seams of tiles would show."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, pixels):
        return nn.functional.interpolate(pixels, scale_factor=self.factor, mode="bilinear", align_corners=False)


class Darken(nn.Module):
    def forward(self, pixels):
        return pixels * 100


@pytest.fixture
def picture():
    return np.ascontiguousarray(astronaut()[20:171, 150:307])  # 151 x 157


def export(network, path, side=None):
    example = torch.rand(1, 3, side or 48, side or 56)
    sides = (
        None
        if side
        else {2: torch.export.Dim("height", min=8, max=4096), 3: torch.export.Dim("width", min=8, max=4096)}
    )
    torch.export.save(torch.export.export(network.eval(), (example,), dynamic_shapes=(sides,)), path)
    return str(path)


def expected(picture, factor):
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    enlarged = nn.functional.interpolate(pixels, scale_factor=factor, mode="bilinear", align_corners=False)
    return enlarged[0].permute(1, 2, 0).round().byte().numpy()


@pytest.mark.parametrize("side", (None, 64, 256), ids=("any size", "tiles", "larger than the picture"))
def test_exported_networks_enlarge_without_seams(tmp_path, picture, side):
    upscale = load_upscaler(export(Enlarge(2), tmp_path / "net.pt2", side))
    assert upscale.factor == 2
    result = upscale(picture)
    assert (result.shape, result.dtype) == ((302, 314, 3), np.uint8)
    assert np.abs(result.astype(int) - expected(picture, 2)).max() <= 1


@pytest.mark.parametrize("side", (None, 64), ids=("any size", "tiles"))
def test_onnx_networks_enlarge_without_seams(tmp_path, picture, side):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    sides = [side, side] if side else ["height", "width"]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, *sides])
    result = helper.make_tensor_value_info("result", TensorProto.FLOAT, None)
    scales = helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, 1, 4, 4])
    node = helper.make_node("Resize", ["pixels", "", "scales"], ["result"], mode="linear")
    graph = helper.make_graph([node], "net", [pixels], [result], [scales])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, str(tmp_path / "net.onnx"))
    upscale = load_upscaler(str(tmp_path / "net.onnx"))
    assert upscale.factor == 4
    assert np.abs(upscale(picture).astype(int) - expected(picture, 4)).max() <= 1


def test_crops_stay_where_they_are(tmp_path, picture):
    """A network that adds nothing changes the crop's sharpness only: the best shift between the two is none."""
    angle = 0.2
    linear = 0.8 * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    matrix = np.concatenate([linear, [[10.3], [4.6]]], axis=1).astype(np.float32)
    plain = warp_image(picture, matrix, 96).astype(float)
    for name in ("lanczos", export(Enlarge(2), tmp_path / "net.pt2")):
        crop = crop_upscaled(picture, matrix, 96, load_upscaler(name)).astype(float)
        differences = {}
        for dx in (-0.5, 0, 0.5):
            for dy in (-0.5, 0, 0.5):
                moved = matrix + np.array([[0, 0, dx], [0, 0, dy]], np.float32)
                shifted = warp_image(picture, moved, 96).astype(float)
                differences[dx, dy] = np.square(shifted - crop)[8:-8, 8:-8].mean()
        assert min(differences, key=differences.get) == (0, 0)
        assert differences[0, 0] < 60
    assert np.array_equal(crop_upscaled(picture, matrix, 96, None), plain)


def test_only_the_crop_is_upscaled(picture):
    shapes = []

    def upscale(part):
        shapes.append(part.shape[:2])
        return part.repeat(2, 0).repeat(2, 1)

    matrix = invert_matrix(np.array([[0.5, 0, 60], [0, 0.5, 50]], np.float32))  # 32 of the picture's pixels
    crop_upscaled(picture, matrix, 64, upscale)
    assert max(shapes[0]) <= 45
    crop_upscaled(picture, matrix + np.array([[0, 0, 300], [0, 0, 0]], np.float32), 64, upscale)  # off the picture
    assert min(shapes[1]) >= 1


def test_what_is_no_upscaler_is_refused(tmp_path):
    assert load_upscaler("none") is None
    with pytest.raises(DatasetError, match="lanczos, or a network"):
        load_upscaler("gfpgan")
    with pytest.raises(DatasetError, match="no such file"):
        load_upscaler(str(tmp_path / "missing.onnx"))
    for ending in ("pt2", "onnx"):
        (tmp_path / f"text.{ending}").write_text("no network")
        if ending == "onnx":
            pytest.importorskip("onnxruntime")
        with pytest.raises(DatasetError, match="cannot be used"):
            load_upscaler(str(tmp_path / f"text.{ending}"))
    with pytest.raises(DatasetError, match="turns"):
        load_upscaler(export(Enlarge(0.5), tmp_path / "shrinks.pt2", 64))
    with pytest.raises(DatasetError, match="turns"):
        load_upscaler(export(Enlarge(1.5), tmp_path / "half.pt2", 64))
    with pytest.raises(DatasetError, match="mid-grey"):
        load_upscaler(export(Darken(), tmp_path / "bright.pt2", 64))
    with pytest.raises(DatasetError, match="too small"):
        load_upscaler(export(Enlarge(2), tmp_path / "small.pt2", 16))
