import importlib.util
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from avatarsync.errors import InvalidArgumentError, MissingDependencyError, ModelLoadError
from avatarsync.face_mesh import neutral_landmarks
from avatarsync.feature_networks.dlib_resnet import FILE_NAME, DlibReader, DlibResNet, read_dlib_weights
from avatarsync.feature_networks.face_alignment import (
    ARCFACE_FRAME,
    DLIB_FRAME,
    FACENET_FRAME,
    VGG_FACE_FRAME,
    fit_similarity,
    invert_similarity,
    sample_affine,
)
from avatarsync.feature_networks.inception_resnet import InceptionResNetV1
from avatarsync.feature_networks.iresnet import IResNet
from avatarsync.feature_networks.layers import FrozenBatchNorm
from avatarsync.feature_networks.vgg_face import VGGFace
from avatarsync.feature_networks.weight_files import packaged_file
from avatarsync.identity import FaceEmbedding, load_face_embedding

HAS_MODELS = importlib.util.find_spec("face_recognition_models") is not None
HAS_DLIB = importlib.util.find_spec("_dlib_pybind11") is not None or importlib.util.find_spec("dlib") is not None
SIZE = 128


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def landmarks_of(turn=0.0, scale=0.8, shift=(0.08, 0.11)):
    """A neutral face `(1, 468, 2)` in fractions, turned and scaled about the middle of the crop."""
    rotation = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    return ((neutral_landmarks() - 0.5) @ rotation.T * scale + 0.5 + torch.tensor(shift) * (1 - scale))[None]


def face_pattern(landmarks, size=SIZE):
    """A smooth picture `(1, 3, size, size)` that moves with the eyes and nose: three blobs of different colours."""
    y, x = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    picture = torch.zeros(1, 3, size, size)
    eye_distance = (landmarks[0, 263] - landmarks[0, 33]).norm() * size
    for channel, index in enumerate((33, 263, 1)):
        centre = landmarks[0, index] * size
        picture[0, channel] = torch.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (0.15 * eye_distance) ** 2)
    return picture * 2 - 1


def brightest(channel):
    index = channel.argmax().item()
    return index % channel.shape[1], index // channel.shape[1]


def toy_embedding(frame=DLIB_FRAME):
    network = nn.Sequential(nn.AvgPool2d(10), nn.Flatten(), nn.LazyLinear(24))
    network(torch.zeros(1, 3, frame.side, frame.side))
    return FaceEmbedding("toy", network, frame, 24, "random weights")


# --- alignment


def test_similarity_is_recovered_and_inverted():
    points = torch.rand(2, 5, 2) * 100
    truth = torch.tensor([[[1.2, -0.5, 3.0], [0.5, 1.2, -7.0]]]).expand(2, 2, 3)
    targets = points @ truth[:, :, :2].transpose(1, 2) + truth[:, :, 2][:, None]
    matrix = fit_similarity(points, targets)
    torch.testing.assert_close(matrix, truth, atol=1e-4, rtol=1e-4)
    inverse = invert_similarity(matrix)
    torch.testing.assert_close(
        targets @ inverse[:, :, :2].transpose(1, 2) + inverse[:, :, 2][:, None], points, atol=1e-3, rtol=1e-4
    )


def test_sampling_by_the_identity_returns_the_picture_and_averages_larger_ones():
    picture = torch.rand(2, 3, 40, 40) * 2 - 1
    identity = torch.eye(2, 3).expand(2, 2, 3)
    torch.testing.assert_close(sample_affine(picture, identity, 40), picture, atol=1e-5, rtol=0)
    # Half the size: each pixel is the mean of the 2×2 that it covers.
    half = torch.tensor([[2.0, 0.0, 0.5], [0.0, 2.0, 0.5]]).expand(2, 2, 3)
    torch.testing.assert_close(
        sample_affine(picture, half, 20), nn.functional.avg_pool2d(picture, 2), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("turn", [-0.4, 0.0, 0.3])
@pytest.mark.parametrize("size", [128, 300])
def test_landmarks_come_to_lie_on_the_template(turn, size):
    # The dlib template's own points, seen through an arbitrary similarity, must all return to their places.
    template = torch.tensor(DLIB_FRAME.template)
    matrix = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]) * size / 220
    landmarks = torch.full((1, 468, 2), size / 2)
    for group, point in zip(DLIB_FRAME.landmark_groups, template, strict=True):
        landmarks[0, group[0]] = matrix @ (point - 75) + size / 2
    aligned = DLIB_FRAME.align(face_pattern(landmarks / size, size), landmarks)
    assert aligned.shape == (1, 3, 150, 150)
    for channel, position in ((0, 2), (1, 0)):  # eyes' outer corners: landmarks 33 and 263
        assert brightest(aligned[0, channel]) == pytest.approx(template[position].tolist(), abs=1.01)


@pytest.mark.parametrize("frame", [DLIB_FRAME, ARCFACE_FRAME], ids=["dlib", "arcface"])
def test_a_turned_face_is_turned_back(frame):
    still, turned = landmarks_of(), landmarks_of(turn=0.35, scale=0.7, shift=(0.0, -0.05))
    first = frame.align(face_pattern(still), still * SIZE)
    second = frame.align(face_pattern(turned), turned * SIZE)
    assert (first - second).abs().max() < 0.05
    assert (first.amax((2, 3)) > 0.8).all()  # all three blobs are in view


def test_box_frames_stretch_the_landmarks_box_to_the_square():
    landmarks = torch.rand(1, 468, 2) * torch.tensor([40.0, 60.0]) + 20
    low, high = landmarks.amin(1), landmarks.amax(1)
    for frame in (FACENET_FRAME, VGG_FACE_FRAME):
        matrix = frame.sampling_matrix(landmarks)
        for corner, expected in ((-0.5, low), (frame.side - 0.5, high)):
            point = matrix @ torch.tensor([corner, corner, 1.0])
            torch.testing.assert_close(point, expected - 0.5, atol=1e-3, rtol=0)


def test_gradients_reach_crops_and_not_landmarks():
    embedding = toy_embedding()
    crops = (torch.rand(2, 3, 96, 96) * 2 - 1).requires_grad_()
    landmarks = landmarks_of().repeat(2, 1, 1).requires_grad_()
    embedding(crops, landmarks)[:, 0].sum().backward()
    assert crops.grad.isfinite().all() and crops.grad.abs().max() > 0
    assert landmarks.grad is None
    assert not any(parameter.requires_grad for parameter in embedding.parameters())


@pytest.mark.parametrize("size", [32, 128, 500])
def test_embeddings_have_length_one_at_any_size_and_do_not_depend_on_the_batch(size):
    embedding = toy_embedding()
    crops, landmarks = torch.rand(3, 3, size, size) * 2 - 1, landmarks_of().repeat(3, 1, 1)
    landmarks = landmarks + torch.rand(3, 1, 1) * 0.05
    vectors = embedding(crops, landmarks)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(embedding(crops[1:2], landmarks[1:2]), vectors[1:2])


def test_one_face_has_one_embedding_at_all_sizes():
    embedding = toy_embedding()
    landmarks = landmarks_of()
    vectors = [embedding(face_pattern(landmarks, size), landmarks) for size in (128, 256, 512)]
    assert all((vector * vectors[0]).sum() > 0.995 for vector in vectors)


def test_without_landmarks_the_usual_ones_are_taken():
    embedding, crops = toy_embedding(), torch.rand(2, 3, 96, 96) * 2 - 1
    torch.testing.assert_close(embedding(crops), embedding(crops, neutral_landmarks().expand(2, -1, -1)))


def test_half_precision_and_autocast_leave_embeddings_in_float32():
    embedding, crops = toy_embedding(), torch.rand(1, 3, 96, 96).bfloat16()
    landmarks = landmarks_of()
    expected = embedding(crops.float(), landmarks)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(embedding(crops, landmarks), expected)


# --- architectures


def test_batch_normalisation_stays_frozen_in_training():
    layer = FrozenBatchNorm(4).train()
    reference = nn.BatchNorm2d(4).eval()
    for module in (layer, reference):
        module.running_mean.copy_(torch.arange(4.0))
        module.running_var.copy_(torch.arange(1.0, 5.0))
    hidden = torch.randn(3, 4, 5, 5)
    torch.testing.assert_close(layer(hidden), reference(hidden))
    assert layer.running_mean.tolist() == [0, 1, 2, 3]


# Parameters of the published models (features.weight of ArcFace included, classifiers left out) and shapes of theirs.
@pytest.mark.parametrize(
    "make, side, size, parameters, shapes",
    [
        (
            lambda: IResNet(50), 112, 512, 43_590_848,
            {"layer3.13.conv2.weight": (256, 256, 3, 3), "layer4.0.downsample.0.weight": (512, 256, 1, 1),
             "layer1.0.bn1.running_var": (64,), "fc.weight": (512, 25088), "features.bias": (512,)},
        ),
        (
            lambda: IResNet(100), 112, 512, 65_156_160,
            {"layer2.12.bn3.weight": (128,), "layer3.29.prelu.weight": (256,)},
        ),
        (
            lambda: InceptionResNetV1(512), 160, 512, 23_482_624,
            {"conv2d_1a.conv.weight": (32, 3, 3, 3), "repeat_1.4.branch2.2.conv.weight": (32, 32, 3, 3),
             "repeat_2.9.branch1.1.conv.weight": (128, 128, 1, 7), "mixed_7a.branch2.2.bn.running_mean": (256,),
             "repeat_3.0.branch1.2.conv.weight": (192, 192, 3, 1), "block8.conv2d.bias": (1792,),
             "last_linear.weight": (512, 1792), "last_bn.weight": (512,)},
        ),
        (lambda: InceptionResNetV1(128), 160, 128, 22_793_728, {"last_linear.weight": (128, 1792)}),
        (
            VGGFace, 224, 4096, 134_260_544,
            {"conv_1_1.weight": (64, 3, 3, 3), "fc6.weight": (4096, 25088), "fc7.bias": (4096,)},
        ),
        (DlibResNet, 150, 128, 5_607_488, {"head.weight": (128, 256)}),
    ],
    ids=["arcface-50", "arcface-100", "facenet512", "facenet", "vgg-face", "dlib"],
)  # fmt: skip
def test_architectures_are_the_published_ones(make, side, size, parameters, shapes):
    with torch.device("meta"):
        network = make()
        assert network(torch.zeros(2, 3, side, side)).shape == (2, size)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    state = network.state_dict()
    assert {name: tuple(state[name].shape) for name in shapes} == shapes


# --- loading


def test_arcface_loads_by_path_whatever_its_depth_and_refuses_others(tmp_path):
    path, network = tmp_path / "face.safetensors", IResNet(50)
    tensors = network.state_dict() | {"bn1.num_batches_tracked": torch.tensor(5)}
    save_file(tensors, path)
    embedding = load_face_embedding(f"arcface:{path}")
    assert embedding.name == "ArcFace (IResNet-50)" and embedding.size == 512
    crops = torch.rand(1, 3, 96, 96) * 2 - 1
    faces = embedding.align(crops)
    assert faces.shape == (1, 3, 112, 112)
    torch.testing.assert_close(embedding(crops), nn.functional.normalize(network(faces)))
    # Its file is no FaceNet512, and a file without its last stage is no ArcFace.
    with pytest.raises(ModelLoadError, match="does not hold FaceNet512.*conv2d_1a.conv.weight"):
        load_face_embedding(f"facenet512:{path}")
    save_file({name: value for name, value in tensors.items() if not name.startswith("layer3.")}, path)
    with pytest.raises(ModelLoadError, match="expected insightface's keys.*found 0"):
        load_face_embedding(f"arcface:{path}")
    save_file({name: value for name, value in tensors.items() if not name.startswith("layer4.")}, path)
    with pytest.raises(ModelLoadError, match=r"does not hold ArcFace \(IResNet-50\).*missing: layer4.0"):
        load_face_embedding(f"arcface:{path}")


def test_only_512_numbers_are_called_facenet512(tmp_path):
    path, network = tmp_path / "face.safetensors", InceptionResNetV1(128)
    save_file(network.state_dict() | {"logits.weight": torch.zeros(3, 128), "logits.bias": torch.zeros(3)}, path)
    with pytest.raises(ModelLoadError, match=r"last_linear.weight is \(128, 1792\) and not \(512, 1792\)"):
        load_face_embedding(f"facenet512:{path}")
    embedding = load_face_embedding(f"facenet:{path}")
    assert "512" not in embedding.name and embedding.name.startswith("FaceNet (")
    crops = torch.rand(1, 3, 96, 96) * 2 - 1
    torch.testing.assert_close(embedding(crops), nn.functional.normalize(network(embedding.align(crops))))


@pytest.mark.parametrize("source", ["facenet513:x", "arcface", "FaceNet512", "", "vgg-face:"])
def test_unknown_kinds_are_refused(source):
    with pytest.raises(InvalidArgumentError, match="arcface:PATH"):
        load_face_embedding(source)


@pytest.mark.parametrize("kind", ["dlib", "arcface", "facenet512", "facenet", "vgg-face"])
def test_missing_and_foreign_files_are_refused(kind, tmp_path):
    with pytest.raises(ModelLoadError, match="is not a file: expected the weights of"):
        load_face_embedding(f"{kind}:{tmp_path / 'none'}")
    path = tmp_path / "weights"
    path.write_bytes(b"something else")
    with pytest.raises(ModelLoadError):
        load_face_embedding(f"{kind}:{path}")


# --- dlib's file


def integer(value):
    magnitude = abs(value)
    count = max(1, (magnitude.bit_length() + 7) // 8)
    return bytes([count | (0x80 if value < 0 else 0)]) + magnitude.to_bytes(count, "little")


def serialised_tensor(values):
    values = np.asarray(values, "<f4").ravel()
    return b"".join(map(integer, (2, len(values), 1, 1, 1))) + values.tobytes()


def layer_name(name):
    return integer(len(name)) + name.encode()


def write_dlib(path, network, scales):
    """dlib's file of `network`, with each convolution taken apart into itself and a scale."""
    content = b"\x01\x01" + layer_name("loss_metric_2") + layer_name("input_rgb_image_sized")
    for convolution, scale in zip(convolutions(network), scales, strict=True):
        outputs, side = convolution.out_channels, convolution.kernel_size[0]
        geometry = [outputs, side, side, *convolution.stride, *convolution.padding]
        weight = (convolution.weight / scale).detach().flatten()
        content += layer_name("con_4") + serialised_tensor(torch.cat([weight, torch.full((outputs,), 0.5)]))
        content += b"".join(map(integer, geometry))
        shift = convolution.bias.detach() - 0.5 * scale
        content += layer_name("affine_") + serialised_tensor(torch.cat([torch.full((outputs,), scale), shift]))
        content += layer_name("relu_110")
    content += layer_name("fc_2") + integer(128) + integer(256)
    content += serialised_tensor(network.head.weight.detach().T.contiguous()) + b"\x01\x00"
    path.write_bytes(content)


def convolutions(network):
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def test_integers_of_the_format():
    for value in (0, 1, 255, 256, 4736, -28, -70000, 2**40):
        assert DlibReader(integer(value)).integer() == value


def test_dlib_file_is_read_with_its_affine_layers_folded(tmp_path):
    path, network = tmp_path / FILE_NAME, DlibResNet()
    write_dlib(path, network, [0.5 + 0.1 * (index % 7) for index in range(len(convolutions(network)))])
    embedding = load_face_embedding(f"dlib:{path}")
    assert embedding.name == "dlib ResNet-29 (face_recognition_resnet_model_v1)"
    faces = torch.rand(1, 3, 150, 150) * 2 - 1
    torch.testing.assert_close(embedding.embed_aligned(faces), network(faces), atol=1e-5, rtol=1e-4)
    content = path.read_bytes()
    for broken in (content[:-2000], content.replace(b"con_4", b"con_3"), content[:300_000]):
        path.write_bytes(broken)
        with pytest.raises(ModelLoadError, match="is not dlib's dlib_face_recognition"):
            read_dlib_weights(path)


@pytest.mark.skipif(HAS_MODELS, reason="face-recognition-models is installed")
def test_dlib_embedding_without_its_package():
    with pytest.raises(MissingDependencyError, match="pip install face-recognition-models"):
        load_face_embedding("dlib")


@pytest.mark.skipif(not HAS_MODELS, reason="needs face-recognition-models")
def test_dlib_embedding_from_its_package_tells_pictures_apart():
    embedding = load_face_embedding()
    landmarks = landmarks_of()
    picture = face_pattern(landmarks)
    with torch.no_grad():
        same = embedding(torch.cat([picture, 0.95 * picture]), landmarks.expand(2, -1, -1))
        other = embedding(picture.flip(1), landmarks)
    assert (same[0] @ same[1]) > 0.99 > (same[0] @ other[0])


@pytest.mark.skipif(not (HAS_MODELS and HAS_DLIB), reason="needs face-recognition-models and dlib-bin")
def test_dlib_embedding_equals_dlibs_own():
    import dlib

    path = packaged_file("face-recognition-models", FILE_NAME, "")
    recogniser = dlib.face_recognition_model_v1(str(path))
    embedding = load_face_embedding()
    chip = np.random.default_rng(0).integers(0, 255, (150, 150, 3)).astype(np.uint8)
    chip[40:110, 30:120] = (200, 150, 120)
    faces = torch.from_numpy(chip).permute(2, 0, 1)[None].float() / 127.5 - 1
    expected = torch.tensor(list(recogniser.compute_face_descriptor(chip)))
    torch.testing.assert_close(embedding.embed_aligned(faces)[0], expected, atol=1e-4, rtol=0)


@pytest.mark.skipif(not HAS_DLIB, reason="needs dlib-bin")
def test_chips_are_dlibs_own():
    import dlib

    landmarks = landmarks_of(turn=0.2)
    picture = ((face_pattern(landmarks) + 1) * 127.5).round()
    rounded = (landmarks * SIZE).round()  # dlib's points are whole pixels
    points = [dlib.point(*map(int, rounded[0, group[0]].tolist())) for group in DLIB_FRAME.landmark_groups]
    shape = dlib.full_object_detection(dlib.rectangle(20, 20, 100, 100), dlib.points(points))
    image = np.ascontiguousarray(picture[0].permute(1, 2, 0).byte().numpy())
    expected = torch.from_numpy(dlib.get_face_chip(image, shape, 150, 0.25)).permute(2, 0, 1).float()
    chip = (DLIB_FRAME.align(picture / 127.5 - 1, rounded)[0] + 1) * 127.5
    assert (chip - expected).abs().mean() < 1.0 and (chip - expected).abs().max() < 12
