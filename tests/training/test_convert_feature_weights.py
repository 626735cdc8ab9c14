import pytest
import torch
from convert_feature_weights import convert, main
from safetensors.torch import load_file

from avatarsync.errors import InvalidArgumentError, ModelLoadError, OutputError
from avatarsync.feature_networks.i3d import I3D
from avatarsync.feature_networks.inception_resnet import InceptionResNetV1
from avatarsync.feature_networks.inception_v3 import InceptionV3
from avatarsync.feature_networks.perceptual_trunks import LPIPS_ALEXNET, LPIPS_SQUEEZENET
from avatarsync.feature_networks.syncnet import SyncNet
from avatarsync.perceptual import LPIPSDistance, load_perceptual


def published_pair(distance, folder):
    """A trunk as torchvision and linear heads as LPIPS publish them."""
    trunk, heads = folder / "trunk.pth", folder / "heads.pth"
    state = {f"features.{name}": value for name, value in distance.features.state_dict().items()}
    torch.save(state | {"classifier.1.weight": torch.zeros(10, 4)}, trunk)
    torch.save({f"lin{index}.model.1.weight": head.data for index, head in enumerate(distance.heads)}, heads)
    return [trunk, heads]


def test_trunk_and_heads_become_one_file(tmp_path):
    distance, out = LPIPSDistance(LPIPS_ALEXNET), tmp_path / "new" / "lpips.safetensors"
    assert convert("lpips", published_pair(distance, tmp_path), out) == "LPIPS v0.1 (AlexNet)"
    first, second = torch.rand(2, 1, 3, 64, 64) * 2 - 1
    torch.testing.assert_close(load_perceptual(out)(first, second), distance(first, second))
    assert [path.name for path in out.parent.iterdir()] == ["lpips.safetensors"]
    with pytest.raises(InvalidArgumentError, match="exists already"):
        convert("lpips", published_pair(distance, tmp_path), out)


def test_onnx_initialisers_become_one_file(tmp_path):
    onnx = pytest.importorskip("onnx")
    distance, source = LPIPSDistance(LPIPS_SQUEEZENET), tmp_path / "lpips.onnx"
    names = {"heads.": "core.lins.", "features.": "core.net.slice1."}
    tensors = [onnx.numpy_helper.from_array(torch.zeros(1, 3, 1, 1).numpy(), "core.scaling_layer.shift")]
    for name, value in distance.state_dict().items():
        prefix = next(prefix for prefix in names if name.startswith(prefix))
        published = names[prefix] + name.removeprefix(prefix) + (".model.1.weight" if prefix == "heads." else "")
        tensors.append(onnx.numpy_helper.from_array(value.numpy(), published))
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "lpips", [], [], tensors)), source)
    assert convert("lpips", [source], tmp_path / "lpips.safetensors") == "LPIPS v0.1 (SqueezeNet)"
    state = load_file(tmp_path / "lpips.safetensors")
    assert set(state) == set(distance.state_dict())
    assert all(torch.equal(state[name], value) for name, value in distance.state_dict().items())
    source.write_bytes(b"\xff\xffno graph")
    with pytest.raises(ModelLoadError, match="is not an ONNX file"):
        convert("lpips", [source], tmp_path / "other.safetensors")


def test_checkpoints_of_data_parallel_training_and_classifiers(tmp_path):
    source, out = tmp_path / "facenet.pt", tmp_path / "facenet.safetensors"
    state = InceptionResNetV1(512).state_dict() | {"logits.weight": torch.zeros(3, 512)}
    state["conv2d_1a.bn.num_batches_tracked"] = torch.tensor(1)
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, source)
    assert convert("facenet512", [source], out) == "FaceNet512 (InceptionResnetV1)"
    assert set(load_file(out)) == set(state) - {"logits.weight", "conv2d_1a.bn.num_batches_tracked"}


def test_the_networks_of_evaluation(tmp_path):
    """SyncNet inside its wrapper; Inception-v3 with its classifier; I3D whose class scores are what is compared."""
    syncnet = {f"__S__.{name}": value for name, value in SyncNet().state_dict().items()}
    inception = InceptionV3().state_dict() | {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    for network, state, name in (
        ("syncnet", syncnet, "SyncNet v2"),
        ("inception", inception, "Inception-v3 (2015-12-05)"),
        ("i3d", I3D().state_dict(), "I3D (Kinetics-400)"),
    ):
        source, out = tmp_path / network, tmp_path / f"{network}.safetensors"
        torch.save(state, source)
        assert convert(network, [source], out) == name
        source.unlink()
    assert "logits.conv3d.weight" in load_file(tmp_path / "i3d.safetensors")
    assert not any(name.startswith("fc.") for name in load_file(tmp_path / "inception.safetensors"))


@pytest.mark.parametrize("content", ["other tensors", "code", "damaged", "no state dict", "text"])
def test_what_is_not_the_network_leaves_no_file(content, tmp_path):
    source, out = tmp_path / "weights.pth", tmp_path / "out.safetensors"
    if content == "damaged":
        source.write_bytes(b"PK\x03\x04 and no more")
    elif content == "text":
        source.write_text("This is not a model.\n" * 3)
    else:
        values = {
            "other tensors": {"weight": torch.zeros(3)},
            "code": {"weight": torch.nn.Linear(2, 2)},
            "no state dict": [torch.zeros(3)],
        }
        torch.save(values[content], source)
    for network in ("arcface", "lpips"):
        with pytest.raises(ModelLoadError):
            convert(network, [source], out)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]


def test_safetensors_that_are_none_and_folders_that_cannot_be_written_are_told(tmp_path):
    (tmp_path / "weights.safetensors").write_text("text")
    with pytest.raises(ModelLoadError, match="weights.safetensors is not a safetensors file"):
        convert("arcface", [tmp_path / "weights.safetensors"], tmp_path / "out.safetensors")
    inputs = published_pair(LPIPSDistance(LPIPS_ALEXNET), tmp_path)
    with pytest.raises(OutputError, match="cannot be written"):
        convert("lpips", inputs, tmp_path / "weights.safetensors" / "folder" / "out.safetensors")


def test_the_command_says_what_it_wrote_and_what_went_wrong(tmp_path, monkeypatch, capsys):
    inputs = published_pair(LPIPSDistance(LPIPS_ALEXNET), tmp_path)
    out = tmp_path / "lpips.safetensors"
    monkeypatch.setattr("sys.argv", ["convert_feature_weights.py", "lpips", str(inputs[0]), "--out", str(out)])
    with pytest.raises(SystemExit) as stopped:
        main()
    message = capsys.readouterr().err
    assert stopped.value.code == 2 and not out.exists()
    assert message.startswith(f"error: {inputs[0]} holds none of LPIPS") and message.count("\n") == 1
    monkeypatch.setattr("sys.argv", ["convert_feature_weights.py", "lpips", *map(str, inputs), "--out", str(out)])
    main()
    assert capsys.readouterr().out == f"{out}: LPIPS v0.1 (AlexNet), 9.9 MB\n"
