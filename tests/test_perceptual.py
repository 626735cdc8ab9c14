import importlib.util

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from avatarsync.errors import MissingDependencyError, ModelLoadError
from avatarsync.feature_networks.layers import BlurPool
from avatarsync.feature_networks.perceptual_trunks import (
    LPIPS_ALEXNET,
    LPIPS_SQUEEZENET,
    LPIPS_VGG16,
    ST_LPIPS_ALEXNET,
    ST_LPIPS_VGG16,
    TRUNKS,
    Trunk,
)
from avatarsync.feature_networks.weight_files import packaged_file
from avatarsync.perceptual import LPIPSDistance, load_perceptual

HAS_ST_LPIPS = importlib.util.find_spec("stlpips_pytorch") is not None


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def pictures(count=2, height=72, width=64):
    return torch.rand(count, 3, height, width) * 2 - 1


def published_names(distance):
    """State dict under the names of the published full models: trunk layers in slices between the taps."""
    names = {}
    for key, value in distance.state_dict().items():
        kind, index, *rest = key.split(".")
        if kind == "heads":
            names[f"lin{index}.model.1.weight"] = value
        else:
            part = 1 + sum(tap < int(index) for tap in distance.taps)
            names[".".join([f"net.slice{part}", index, *rest])] = value
    return names


def test_distance_is_eq_7_on_unit_length_features():
    trunk = Trunk("one layer", lambda: nn.Sequential(nn.Conv2d(3, 5, 3)), (0,), (5,))
    distance, first, second = LPIPSDistance(trunk), pictures(), pictures()
    mean, deviation = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])

    def features(picture):
        scaled = (picture - mean[:, None, None]) / deviation[:, None, None]
        hidden = distance.features[0](scaled)
        return hidden / hidden.norm(dim=0)

    for one, other, value in zip(first, second, distance(first, second), strict=True):
        squares = (features(one) - features(other)) ** 2  # (5, H, W)
        expected = sum(distance.heads[0].flatten()[c] * squares[c].mean() for c in range(5))
        torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("trunk", [LPIPS_ALEXNET, LPIPS_SQUEEZENET, ST_LPIPS_ALEXNET], ids=lambda trunk: trunk.name)
def test_distance_is_zero_of_equals_symmetric_and_each_pictures_own(trunk):
    distance, first, second = LPIPSDistance(trunk), pictures(), pictures()
    values = distance(first, second)
    assert values.shape == (2,) and (values > 0).all()
    torch.testing.assert_close(distance(second, first), values)
    torch.testing.assert_close(distance(first[1:], second[1:]), values[1:])
    assert distance(first, first).abs().max() == 0


# Sides of the tapped feature maps of a 64-pixel picture, and parameters, of the published networks.
@pytest.mark.parametrize(
    "trunk, sides, parameters",
    [
        (LPIPS_VGG16, [64, 32, 16, 8, 4], 14_714_688),
        (LPIPS_ALEXNET, [15, 7, 3, 3, 3], 2_469_696),
        (LPIPS_SQUEEZENET, [31, 15, 7, 3, 3, 3, 3], 722_496),
        (ST_LPIPS_VGG16, [64, 33, 17, 9, 5], 14_714_688),
        (ST_LPIPS_ALEXNET, [30, 15, 8, 8, 8], 2_469_696),
    ],
    ids=lambda value: value.name if isinstance(value, Trunk) else "",
)
def test_trunks_are_the_published_ones(trunk, sides, parameters):
    distance = LPIPSDistance(trunk)
    with torch.no_grad():
        features = distance.layer_features(pictures(1, 64, 64))
    assert [feature.shape[1:] for feature in features] == [
        (channels, side, side) for channels, side in zip(trunk.channels, sides, strict=True)
    ]
    assert sum(parameter.numel() for parameter in distance.features.parameters()) == parameters
    length = features[-1].norm(dim=1)  # 1, or 0 where every channel is dead
    assert torch.minimum(length, (length - 1).abs()).max() < 1e-5


def test_gradients_reach_generated_pictures_alone_and_are_finite_on_flat_ones():
    distance = LPIPSDistance(ST_LPIPS_ALEXNET)
    # A trunk whose channels are all dead has features of length 0.
    nn.init.constant_(distance.features[0].bias, -100.0)
    real = pictures().requires_grad_()
    for layer in (distance, LPIPSDistance(LPIPS_SQUEEZENET)):
        generated = torch.zeros_like(real, requires_grad=True)
        layer(generated, real).sum().backward()
        assert generated.grad.isfinite().all()
    assert generated.grad.abs().max() > 0 and real.grad is None
    assert not any(parameter.requires_grad for parameter in distance.parameters())


def test_small_pictures_are_enlarged():
    distance = LPIPSDistance(LPIPS_ALEXNET)
    small, other = pictures(1, 20, 30), pictures(1, 20, 30)
    large, larger = (nn.functional.interpolate(p, (64, 96), mode="bilinear") for p in (small, other))
    torch.testing.assert_close(distance(small, other), distance(large, larger))


def test_autocast_does_not_touch_the_distance():
    distance, first, second = LPIPSDistance(LPIPS_SQUEEZENET), pictures(), pictures()
    expected = distance(first, second)
    with torch.autocast("cpu", torch.bfloat16):
        value = distance(first, second)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected)


def test_blur_pool_keeps_flat_pictures_and_damps_what_would_alias():
    flat = torch.full((1, 2, 9, 12), 0.7)
    torch.testing.assert_close(BlurPool()(flat), torch.full((1, 2, 6, 7), 0.7))
    stripes = torch.tensor([1.0, -1.0]).repeat(6).expand(1, 2, 12, 12)
    assert BlurPool()(stripes).abs().max() < 1e-6


@pytest.mark.parametrize("trunk", TRUNKS, ids=lambda trunk: trunk.name)
def test_loads_by_path_under_published_and_own_names(trunk, tmp_path):
    path, saved = tmp_path / "weights.safetensors", LPIPSDistance(trunk)
    save_file(published_names(saved) | {"scaling_layer.shift": torch.zeros(1, 3, 1, 1)}, path)
    loaded = load_perceptual(path)
    assert loaded.name == trunk.name and loaded.source.startswith("weights.safetensors (sha256 ")
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    for name, value in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    if trunk is LPIPS_SQUEEZENET:
        save_file(saved.state_dict(), path)
        first, second = pictures(), pictures()
        torch.testing.assert_close(load_perceptual(str(path))(first, second), saved(first, second))


def test_wrong_files_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    with pytest.raises(ModelLoadError, match="is not a file.*LPIPS v0.1"):
        load_perceptual(path)
    with pytest.raises(ModelLoadError, match="is not a file"):
        load_perceptual(tmp_path)
    path.write_bytes(b"no weights at all")
    with pytest.raises(ModelLoadError, match="convert_feature_weights"):
        load_perceptual(path)
    tensors = LPIPSDistance(LPIPS_ALEXNET).state_dict()
    for broken in (
        {name: value for name, value in tensors.items() if name != "heads.3"},
        tensors | {"features.0.weight": torch.zeros(64, 3, 7, 7)},
        tensors | {"features.20.weight": torch.zeros(1)},
    ):
        save_file(broken, path)
        with pytest.raises(ModelLoadError, match=r"LPIPS v0.1 \(AlexNet\).*heads.K"):
            load_perceptual(path)


def test_a_missing_package_is_named_with_its_command():
    with pytest.raises(MissingDependencyError, match="pip install no-such"):
        packaged_file("no-such-distribution", "weights.pth", "pip install no-such")
    # An installed package without the file is no better.
    with pytest.raises(MissingDependencyError, match="pip install again"):
        packaged_file("torch", "vgg_shift_tolerant.pth", "pip install again")


@pytest.mark.skipif(HAS_ST_LPIPS, reason="stlpips-pytorch is installed")
def test_st_lpips_without_its_package():
    with pytest.raises(MissingDependencyError, match="pip install --no-deps stlpips-pytorch"):
        load_perceptual("st-lpips")


@pytest.mark.skipif(not HAS_ST_LPIPS, reason="needs stlpips-pytorch")
@pytest.mark.parametrize(
    "source, name, expected",
    [
        ("st-lpips", "ST-LPIPS (VGG16)", [0.692241, 0.712916]),
        ("st-lpips-alexnet", "ST-LPIPS (AlexNet)", [0.411098, 0.322687]),
    ],
)
def test_st_lpips_from_its_wheel(source, name, expected):
    distance = load_perceptual(source)
    assert distance.name == name
    first, second = waves()
    # What the package's own code says of these pictures.
    assert distance(first, second).tolist() == pytest.approx(expected, rel=1e-4)
    moved = torch.roll(first, 1, 3)
    assert distance(first, moved).max() < 0.3 * distance(first, second).min()


def waves():
    """Two batches of coloured waves, the same on every machine."""
    y, x = torch.meshgrid(torch.arange(80.0), torch.arange(72.0), indexing="ij")
    phase = torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1)
    first = torch.stack([torch.sin(x / 9 + phase), torch.sin(y / 7 + phase)])
    return first, torch.stack([torch.sin((x + y) / 5 + phase), torch.sin(x * y / 300 + phase)])
