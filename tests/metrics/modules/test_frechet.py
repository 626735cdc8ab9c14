"""FID and FVD: the Fréchet distance against scipy's matrix root, statistics of streams, names of stand-ins."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.linalg import sqrtm

from avatarsync.distribution_features import (
    DistributionFeatures,
    PerceptualClipFeatures,
    PerceptualFeatures,
    load_clip_features,
    load_picture_features,
)
from avatarsync.errors import InvalidArgumentError, ModelLoadError
from avatarsync.feature_networks.i3d import I3D
from avatarsync.feature_networks.inception_v3 import InceptionV3
from avatarsync.feature_networks.perceptual_trunks import LPIPS_SQUEEZENET, ST_LPIPS_ALEXNET
from avatarsync.metrics.modules import FID, FVD
from avatarsync.metrics.modules.gaussian_statistics import (
    covariance,
    empty_statistics,
    frechet_distance,
    join_statistics,
    vector_statistics,
)
from avatarsync.perceptual import LPIPSDistance

RANDOM = np.random.default_rng(0)


def gaussian(seed, size, rank):
    random = np.random.default_rng(seed)
    factor = random.normal(size=(size, rank)) * np.logspace(-2, 1, size)[:, None]
    return random.normal(size=size), factor @ factor.T


@pytest.mark.parametrize("size", [1, 3, 40])
def test_frechet_distance_is_that_of_scipys_matrix_root(size):
    (mean, spread), (other_mean, other_spread) = gaussian(1, size, size + 2), gaussian(2, size, size + 2)
    root = sqrtm(spread @ other_spread).real
    expected = np.sum((mean - other_mean) ** 2) + np.trace(spread + other_spread - 2 * root)
    distance = frechet_distance(*(torch.from_numpy(x) for x in (mean, spread, other_mean, other_spread)))
    assert distance == pytest.approx(expected, rel=1e-9)


def test_closed_forms_of_the_frechet_distance():
    mean, spread = torch.tensor([1.0, 2.0]).double(), torch.diag(torch.tensor([4.0, 9.0])).double()
    assert frechet_distance(mean, spread, mean, spread) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(mean, spread, mean + 3, spread) == pytest.approx(18)
    # Of commuting covariances: the squared differences of the deviations.
    assert frechet_distance(mean, spread, mean, 25 * torch.eye(2).double()) == pytest.approx(3**2 + 2**2)
    # Singular ones, in different directions, share nothing.
    first, second = (torch.diag(torch.tensor(values)).double() for values in ([4.0, 0.0], [0.0, 9.0]))
    assert frechet_distance(mean, first, mean, second) == pytest.approx(13)


def test_covariances_of_few_vectors_are_exact():
    """Fewer vectors than numbers: the matrix root of a singular product, which sqrtm struggles with."""
    left, right = RANDOM.normal(size=(6, 30)), RANDOM.normal(size=(8, 30))
    statistics = [vector_statistics(torch.from_numpy(x)) for x in (left, right)]
    args = [part for one in statistics for part in (one["mean"], covariance(one))]
    # tr (A Aᵀ B Bᵀ)^½ is the nuclear norm of Aᵀ B.
    centred = [(x - x.mean(0)).T / np.sqrt(len(x) - 1) for x in (left, right)]
    both = np.linalg.svd(centred[0].T @ centred[1], compute_uv=False).sum()
    expected = np.sum((left.mean(0) - right.mean(0)) ** 2) + sum(np.square(c).sum() for c in centred) - 2 * both
    assert frechet_distance(*args) == pytest.approx(expected, rel=1e-9)


def test_statistics_of_a_stream_are_numpys_whatever_the_batches():
    vectors = RANDOM.normal(1e4, 1, size=(50, 5))  # a mean that would drown sums of squares
    joined = empty_statistics(5)
    for batch in np.split(vectors, [1, 2, 20]):
        joined = join_statistics(joined, vector_statistics(torch.from_numpy(batch)))
    np.testing.assert_allclose(joined["mean"], vectors.mean(0), rtol=1e-13)
    np.testing.assert_allclose(covariance(joined), np.cov(vectors, rowvar=False), rtol=1e-9, atol=1e-9)


class MeanColour(DistributionFeatures):
    """The mean of each channel: small enough to compute by hand."""

    name, figure, source, side, size = "mean colour", "Fréchet distance/mean colour", "none", 8, 3

    def forward(self, examples):
        return examples.flatten(2).mean(-1)


def pictures(seed, count, low=0, high=256):
    return np.random.default_rng(seed).integers(low, high, (count, 8, 8, 3), dtype=np.uint8)


def expected_distance(left, right):
    spread, other = np.cov(left, rowvar=False), np.cov(right, rowvar=False)
    mean = np.sum((left.mean(0) - right.mean(0)) ** 2)
    return mean + np.trace(spread + other) - 2 * np.trace(sqrtm(spread @ other).real)


def test_fid_of_a_network_and_its_stream():
    generated, real = pictures(1, 20), pictures(2, 15, 50, 200)
    vectors = [(x / 127.5 - 1).mean((1, 2)) for x in (generated, real)]
    metric = FID(network=MeanColour(), batch_size=4)
    size = metric.state_bytes
    metric.add_batch(predictions=generated[:7], references=real)
    metric.add_batch(predictions=generated[7:])
    assert metric.state_bytes == size
    figures = metric.compute()
    assert figures.pop("examples_generated") == 20 and figures.pop("examples_real") == 15
    assert figures == {"Fréchet distance/mean colour": pytest.approx(expected_distance(*vectors), rel=1e-5)}
    metric.add_batch(references=real)
    metric.add_batch(predictions=generated[:1])
    with pytest.raises(InvalidArgumentError, match="two examples a side"):
        metric.compute()


def test_fvd_looks_at_pieces_of_sixteen_frames():
    clips = [(pictures(seed, 40), pictures(seed + 10, 33)) for seed in range(3)]
    metric = FVD(network=MeanColour())
    pieces = ([], [])
    sizes = []
    for generated, real in clips:
        for first in range(0, 40, 13):
            metric.add_batch(predictions=generated[first : first + 13], references=None)
            sizes.append(metric.state_bytes)
        metric.add_batch(references=real)
        metric.end_clip()
        for side, frames in zip(pieces, (generated, real), strict=True):
            side.extend((frames[i : i + 16] / 127.5 - 1).mean((0, 1, 2)) for i in (0, 16))
    figures = metric.compute()
    assert figures["examples_generated"] == figures["examples_real"] == 6
    expected = expected_distance(*map(np.array, pieces))
    assert figures["Fréchet distance/mean colour"] == pytest.approx(expected, rel=1e-4)
    assert max(sizes) < 2 * 16 * 8 * 8 * 3 * 4 + 1000


def test_statistics_of_processes_are_merged_if_the_network_is_the_same():
    generated, real = pictures(1, 20), pictures(2, 20)
    parts = [FID(network=MeanColour()) for _ in range(2)]
    parts[0].add_batch(predictions=generated[:5], references=real[:5])
    parts[1].add_batch(predictions=generated[5:], references=real[5:])
    parts[0].merge(parts[1])
    whole = FID(network=MeanColour()).compute(predictions=generated, references=real)
    assert parts[0].compute() == pytest.approx(whole)
    with pytest.raises(InvalidArgumentError, match="one network"):
        parts[0].merge(FID(network=PerceptualFeatures(LPIPSDistance(LPIPS_SQUEEZENET))))


def test_stand_ins_never_call_their_figure_fid_or_fvd():
    distance = LPIPSDistance(ST_LPIPS_ALEXNET)
    still, moving = PerceptualFeatures(distance), PerceptualClipFeatures(distance)
    assert still.figure == "Fréchet distance/ST-LPIPS (AlexNet)"
    assert moving.figure == "Fréchet video distance/ST-LPIPS (AlexNet) over 16 frames"
    clip = still.resize(torch.rand(3, 3, 20, 30)).transpose(0, 1)[None]
    with torch.no_grad():
        vectors = still(clip[0].transpose(0, 1))
        over_time = moving(clip)[0]
    assert vectors.shape == (3, still.size) == (3, 256) and over_time.shape == (512,)
    torch.testing.assert_close(over_time[:256], vectors.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(over_time[256:], vectors.diff(dim=0).square().mean(0).sqrt(), rtol=1e-3, atol=1e-5)


def test_a_blurred_face_is_farther_from_faces_than_other_faces_are():
    from skimage.data import astronaut
    from skimage.filters import gaussian as blur

    face = astronaut()[:180, 140:320]
    random = np.random.default_rng(0)
    places = random.integers(0, 52, (2, 10, 2))
    first, second = (np.stack([face[y : y + 128, x : x + 128] for y, x in side]) for side in places)
    blurred = np.stack([np.uint8(255 * blur(one, 3, channel_axis=-1)) for one in second])
    metric = FID()
    key = metric.network.figure
    same = metric.compute(predictions=second, references=first)[key]
    worse = metric.compute(predictions=blurred, references=first)[key]
    assert worse > 2 * same


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    torch.manual_seed(0)
    network = InceptionV3()
    path = tmp_path_factory.mktemp("weights") / "inception.safetensors"
    save_file(network.state_dict() | {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}, path)
    return network, path


def test_inception_loads_by_path_without_its_classifier(inception):
    network, path = inception
    features = load_picture_features(f"inception:{path}")
    assert features.figure == "FID/Inception-v3 (2015-12-05)" and "inception.safetensors" in features.source
    examples = features.resize(torch.rand(1, 3, 64, 64) * 2 - 1)
    with torch.no_grad():
        vectors = features(examples)
        torch.testing.assert_close(vectors, network(examples))
    assert vectors.shape == (1, 2048)


def test_published_sizes():
    with torch.device("meta"):
        inception, i3d = InceptionV3(), I3D()
    # torchvision's inception_v3 has 23,834,568 without its auxiliary head, 2,049,000 of them in its classifier.
    assert sum(p.numel() for p in inception.parameters()) == 23_834_568 - 2_049_000
    # I3D's RGB network of 12.3 million, and 400 · 1,025 for the classes of Kinetics.
    assert sum(p.numel() for p in i3d.parameters()) == 12_287_264 + 410_000
    names = {name: tuple(value.shape) for name, value in inception.state_dict().items()}
    assert names["Conv2d_1a_3x3.conv.weight"] == (32, 3, 3, 3) and len(names) == 94 * 5
    assert names["Mixed_6e.branch7x7dbl_5.conv.weight"] == (192, 192, 1, 7)
    assert names["Mixed_7c.branch3x3dbl_3b.bn.running_var"] == (384,)
    names = {name: tuple(value.shape) for name, value in i3d.state_dict().items()}
    assert names["Conv3d_1a_7x7.conv3d.weight"] == (64, 3, 7, 7, 7) and len(names) == 57 * 5 + 2
    assert names["Mixed_5c.b2b.conv3d.weight"] == (128, 48, 3, 3, 3)
    assert names["logits.conv3d.weight"] == (400, 1024, 1, 1, 1)


def test_i3d_loads_by_path_and_takes_sixteen_frames(tmp_path):
    save_file(I3D().state_dict(), tmp_path / "i3d.safetensors")
    features = load_clip_features(f"i3d:{tmp_path / 'i3d.safetensors'}")
    assert features.figure == "FVD/I3D (Kinetics-400)"
    with torch.device("meta"):
        shapes = [I3D()(torch.empty(1, 3, frames, 224, 224)).shape for frames in (9, 16, 64)]
    assert shapes == [(1, 400)] * 3


@pytest.mark.parametrize("load", [load_picture_features, load_clip_features])
def test_other_names_and_files_are_refused(load, tmp_path, inception):
    kind = "inception" if load is load_picture_features else "i3d"
    for source in ("resnet", kind, f"{kind}:", "dlib:x"):
        with pytest.raises(InvalidArgumentError, match="no network"):
            load(source)
    with pytest.raises(ModelLoadError, match="is not a file"):
        load(f"{kind}:{tmp_path / 'none.safetensors'}")
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelLoadError, match="does not hold"):
        load(f"{kind}:{tmp_path / 'other.safetensors'}")


def test_wrong_input_is_refused():
    for metric in (FID(network=MeanColour()), FVD(network=MeanColour())):
        with pytest.raises(InvalidArgumentError, match="predictions, references or both"):
            metric.add_batch()
        with pytest.raises(InvalidArgumentError, match="uint8"):
            metric.add_batch(predictions=pictures(1, 3) / 255.0)
        with pytest.raises(InvalidArgumentError, match="references"):
            metric.add_batch(predictions=pictures(1, 3), references=pictures(1, 3)[0])
        assert len(metric) == 0
