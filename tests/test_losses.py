import pytest
import torch
from torch import nn

from avatarsync.errors import InvalidArgumentError
from avatarsync.feature_networks.face_alignment import BoxFrame
from avatarsync.feature_networks.perceptual_trunks import Trunk
from avatarsync.identity import FaceEmbedding
from avatarsync.losses import (
    CompositeLoss,
    LossWeights,
    embedding_cosine,
    facial_similarity_loss,
    identity_loss,
    lpips_loss,
)
from avatarsync.perceptual import LPIPSDistance


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def small_perceptual():
    def build():
        return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 12, 3, 2), nn.ReLU())

    return LPIPSDistance(Trunk("small LPIPS", build, (1, 3), (8, 12)))


def small_embedding(name="small embedding"):
    network = nn.Sequential(nn.Conv2d(3, 8, 5, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(16))
    network(torch.zeros(1, 3, 20, 20))
    return FaceEmbedding(name, network, BoxFrame(20), 16, "random weights")


def crops(count=3, size=72):
    return torch.rand(count, 3, size, size) * 2 - 1


def test_losses_of_eq_8_and_9_have_their_closed_forms():
    cosine = torch.tensor([1.0, 0.0, -1.0, 0.5])
    assert identity_loss(cosine, 3.0).item() == pytest.approx(3.0 * (0 + 1 + 2 + 0.5) / 4)
    assert facial_similarity_loss(cosine, 3.0).item() == pytest.approx(3.0 * 0.5 * (0 + 1 + 2 + 0.5) / 4)


def test_cosine_is_that_of_the_two_embeddings():
    embedding, generated, real = small_embedding(), crops(), crops()
    first, second = embedding(generated), embedding(real)
    expected = nn.functional.cosine_similarity(first, second)
    torch.testing.assert_close(embedding_cosine(embedding, generated, real), expected)
    torch.testing.assert_close(embedding_cosine(embedding, real, real), torch.ones(3))


def test_real_crops_are_aligned_by_their_own_landmarks():
    embedding, real = small_embedding(), crops(1)
    moved = torch.roll(real, (6, 4), (2, 3))
    landmarks = 0.2 + 0.5 * embedding.usual_landmarks[None]  # well inside, so that nothing wraps around
    shifted = landmarks + torch.tensor([4 / 72, 6 / 72])
    own = embedding_cosine(embedding, real, moved, landmarks, shifted)
    same = embedding_cosine(embedding, real, moved, landmarks)
    assert own.item() == pytest.approx(1, abs=1e-4) and same.item() < 0.999


def test_total_of_eq_10_is_the_weighted_sum_of_its_named_terms():
    perceptual, identity, similarity = small_perceptual(), small_embedding("first"), small_embedding("second")
    weights = LossWeights(0.5, 2.0, 3.0, 4.0, 1.5, 2.5)
    generated, real, reconstruction = crops(), crops(), torch.tensor(1.7)
    output = CompositeLoss(weights, perceptual, identity, similarity)(reconstruction, generated, real)
    expected = {
        "reconstruction": 1.7,
        "lpips/small LPIPS": lpips_loss(perceptual, generated, real).item(),
        "identity/first": 1.5 * (1 - embedding_cosine(identity, generated, real)).mean().item(),
        "facial_similarity/second": 1.25 * (1 - embedding_cosine(similarity, generated, real)).mean().item(),
    }
    assert {name: value.item() for name, value in output.terms.items()} == pytest.approx(expected)
    total = sum(factor * value for factor, value in zip((0.5, 2.0, 3.0, 4.0), expected.values(), strict=True))
    assert output.total.item() == pytest.approx(total)


def test_equal_pictures_leave_the_reconstruction_alone():
    embedding, real = small_embedding(), crops()
    output = CompositeLoss(LossWeights(), small_perceptual(), embedding, embedding)(torch.tensor(2.0), real, real)
    assert output.total.item() == pytest.approx(2.0, abs=1e-5)


def test_gradients_reach_generated_pictures_and_the_reconstruction_alone():
    embedding = small_embedding()
    loss = CompositeLoss(LossWeights(), small_perceptual(), embedding, embedding)
    generated, real = crops().requires_grad_(), crops().requires_grad_()
    landmarks = embedding.usual_landmarks.expand(3, -1, -1).clone().requires_grad_()
    reconstruction = torch.tensor(1.0, requires_grad=True)
    output = loss(reconstruction, generated, real, landmarks)
    output.total.backward()
    assert generated.grad.isfinite().all() and (generated.grad.abs().amax((1, 2, 3)) > 0).all()
    assert reconstruction.grad.item() == 1
    assert real.grad is None and landmarks.grad is None
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in loss.parameters())
    assert not any(value.requires_grad for value in output.terms.values())


@pytest.mark.parametrize("term", ["lpips", "identity", "facial_similarity"])
def test_each_term_pulls_the_generated_picture_to_the_real_one(term):
    networks = {"lpips": small_perceptual(), "identity": small_embedding(), "facial_similarity": small_embedding()}
    chosen = {"perceptual" if term == "lpips" else term: networks[term]}
    weights = LossWeights(**dict.fromkeys({"lpips", "identity", "facial_similarity"} - {term}, 0.0))
    loss, real = CompositeLoss(weights, **chosen), crops()
    generated = crops().requires_grad_()
    optimizer = torch.optim.Adam([generated], lr=0.02)
    history = []
    for _ in range(25):
        output = loss(torch.tensor(0.0), generated, real)
        optimizer.zero_grad()
        output.total.backward()
        optimizer.step()
        history.append(output.total.item())
    assert history[-1] < 0.5 * history[0]


def test_a_weight_of_zero_drops_its_term_and_its_network():
    weights = LossWeights(lpips=0, identity=0, facial_similarity=0)
    loss = CompositeLoss(weights, perceptual=small_perceptual())
    output = loss(torch.tensor(2.0), crops(), crops())
    assert list(output.terms) == ["reconstruction"] and output.total.item() == 2
    assert not list(loss.children())


def test_a_shared_embedding_runs_once_for_each_picture():
    embedding, calls = small_embedding(), []
    embedding.register_forward_hook(lambda *_: calls.append(1))
    loss = CompositeLoss(LossWeights(lpips=0), identity=embedding, facial_similarity=embedding)
    terms = loss(torch.tensor(0.0), crops(), crops()).terms
    assert len(calls) == 2
    assert terms["facial_similarity/small embedding"] == pytest.approx(terms["identity/small embedding"].item() / 2)


@pytest.mark.parametrize("missing", ["perceptual", "identity", "facial_similarity"])
def test_a_term_without_a_network_is_refused(missing):
    networks = {
        "perceptual": small_perceptual(),
        "identity": small_embedding(),
        "facial_similarity": small_embedding(),
    }
    with pytest.raises(InvalidArgumentError, match="lpips" if missing == "perceptual" else missing):
        CompositeLoss(LossWeights(), **{name: value for name, value in networks.items() if name != missing})


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_weights_out_of_range_are_refused(value):
    with pytest.raises(InvalidArgumentError, match="identity_weight"):
        LossWeights(identity_weight=value)
