import pytest
import torch

from avatarsync.quantizers import LookupFreeQuantizer, VectorQuantizer, digits_to_ids, ids_to_digits


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def make(kind, bits=6):
    return LookupFreeQuantizer(bits) if kind == "lfq" else VectorQuantizer(bits)


@pytest.mark.parametrize("kind", ["lfq", "vq"])
def test_ids_and_codes_are_inverse_over_the_whole_codebook(kind):
    quantizer = make(kind)
    ids = torch.arange(64).view(4, 16)
    codes = quantizer.ids_to_codes(ids)
    assert codes.shape == (4, 16, 6)
    assert torch.equal(quantizer.codes_to_ids(codes), ids)
    assert len(codes.reshape(-1, 6).unique(dim=0)) == 64


@pytest.mark.parametrize("kind", ["lfq", "vq"])
def test_forward_returns_the_nearest_code_and_a_straight_through_gradient(kind):
    quantizer = make(kind)
    z = torch.randn(3, 5, 6, requires_grad=True)
    output = quantizer(z)
    codebook = quantizer.ids_to_codes(torch.arange(64))
    nearest = torch.cdist(z.reshape(-1, 6), codebook).argmin(-1).view(3, 5)
    assert torch.equal(output.ids, nearest)
    assert torch.equal(output.codes, codebook[nearest])  # to the last bit
    weight = torch.randn_like(z)
    (gradient,) = torch.autograd.grad((output.codes * weight).sum(), z, retain_graph=True)
    assert torch.equal(gradient, weight)
    output.loss.backward()
    assert z.grad.abs().sum() > 0


def test_lfq_reads_bits_most_significant_first():
    quantizer = LookupFreeQuantizer(4)
    assert quantizer.ids_to_codes(torch.tensor([0b1000])).tolist() == [[1, -1, -1, -1]]
    assert quantizer.codes_to_ids(torch.tensor([0.0, -0.1, 2.0, -3.0])).item() == 0b1010


def test_digits_are_those_of_the_base_factorisation():
    ids = torch.arange(2**12)
    digits = ids_to_digits(ids, factors=3, base=16)
    assert torch.equal(digits[:, 0] * 256 + digits[:, 1] * 16 + digits[:, 2], ids)
    assert torch.equal(digits_to_ids(digits, base=16), ids)
    # The first digit's bits are the first four channels of the code.
    codes = LookupFreeQuantizer(12).ids_to_codes(ids)
    assert torch.equal(LookupFreeQuantizer(4).ids_to_codes(digits[:, 0]), codes[:, :4])


@pytest.mark.parametrize("kind", ["lfq", "vq"])
def test_expected_codes(kind):
    quantizer = make(kind)
    logits = torch.randn(2, 3, 64, requires_grad=True)
    codes = quantizer.expected_codes(logits)
    by_hand = (logits.softmax(-1).unsqueeze(-1) * quantizer.ids_to_codes(torch.arange(64))).sum(-2)
    torch.testing.assert_close(codes, by_hand)
    assert torch.autograd.grad(codes.square().sum(), logits)[0].abs().sum() > 0
    certain = torch.nn.functional.one_hot(torch.tensor([5, 41]), 64) * 1e4
    torch.testing.assert_close(
        quantizer.expected_codes(certain.float()), quantizer.ids_to_codes(torch.tensor([5, 41]))
    )


@pytest.mark.parametrize("kind", ["lfq", "vq"])
@pytest.mark.parametrize("factors", [1, 2, 3])
def test_factorised_expectation_equals_the_joint_one(kind, factors):
    quantizer = make(kind)
    base = 2 ** (6 // factors)
    logits = torch.randn(5, factors, base)
    digits = ids_to_digits(torch.arange(64), factors, base)  # (64, factors)
    joint = sum(logits.log_softmax(-1)[:, factor, digits[:, factor]] for factor in range(factors))  # (5, 64)
    torch.testing.assert_close(quantizer.expected_codes_factorised(logits), quantizer.expected_codes(joint))


def test_lfq_sample_entropy_is_the_entropy_over_the_whole_codebook():
    quantizer = LookupFreeQuantizer(6, temperature=0.7)
    z = torch.rand(50, 6) * 2 - 1
    distances = torch.cdist(z, quantizer.ids_to_codes(torch.arange(64))).square()
    entropy = torch.special.entr((-distances / 0.7).softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(quantizer(z).sample_entropy * 6 * torch.tensor(2.0).log(), entropy)


def test_lfq_entropy_terms_at_their_extremes():
    quantizer = LookupFreeQuantizer(6)
    undecided = quantizer(torch.zeros(8, 6))
    assert undecided.sample_entropy.item() == pytest.approx(1)
    collapsed = quantizer(torch.full((8, 6), 50.0, requires_grad=True))
    assert collapsed.sample_entropy.item() == pytest.approx(0, abs=1e-6)
    assert collapsed.batch_entropy.item() == pytest.approx(0, abs=1e-6)
    assert collapsed.loss.isfinite()
    spread = quantizer(quantizer.ids_to_codes(torch.arange(64)) * 50)
    assert spread.sample_entropy.item() == pytest.approx(0, abs=1e-6)
    assert spread.batch_entropy.item() == pytest.approx(1)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_lfq_gradient_is_finite(scale):
    z = (torch.randn(32, 18) * scale).requires_grad_()
    LookupFreeQuantizer(18)(z).loss.backward()
    assert z.grad.isfinite().all()


def test_minimising_the_lfq_loss_decides_bits_and_spreads_codes():
    quantizer = LookupFreeQuantizer(4, entropy_weight=1.0, commitment_weight=0.1)
    z = (0.1 + 0.05 * torch.randn(64, 4)).requires_grad_()  # nearly all of one sign
    optimizer = torch.optim.Adam([z], lr=0.05)
    before = quantizer(z)
    for _ in range(200):
        optimizer.zero_grad()
        quantizer(z).loss.backward()
        optimizer.step()
    after = quantizer(z)
    assert after.sample_entropy < 0.2 < before.sample_entropy
    assert len(after.ids.unique()) > len(before.ids.unique())
    assert after.commitment_loss < before.commitment_loss


def test_training_the_vq_codebook_lowers_its_error():
    quantizer = VectorQuantizer(4)
    centres = torch.randn(8, 4)
    z = centres.repeat(16, 1) + 0.01 * torch.randn(128, 4)
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.05)
    before = quantizer(z).codebook_loss.item()
    for _ in range(100):
        optimizer.zero_grad()
        quantizer(z).loss.backward()
        optimizer.step()
    assert quantizer(z).codebook_loss.item() < before / 5


def test_dead_codes_come_back_to_life_and_living_ones_stay():
    quantizer = VectorQuantizer(6)
    z = torch.randn(500, 6) * 0.01 + 5  # far from the initial codebook: nearly all codes are dead
    usage = torch.bincount(quantizer(z).ids, minlength=64)
    dead = usage == 0
    living = quantizer.codebook[~dead].clone()
    moved = quantizer.restart_dead_codes(z, usage)
    assert moved == dead.sum() > 32
    assert torch.equal(quantizer.codebook[~dead], living)
    used = torch.bincount(quantizer(z).ids, minlength=64) > 0
    assert used[dead].float().mean() > 0.8


def test_restart_with_fewer_inputs_than_dead_codes():
    quantizer = VectorQuantizer(6)
    assert quantizer.restart_dead_codes(torch.randn(3, 6), torch.zeros(64)) == 64
    assert len(quantizer.codebook.unique(dim=0)) == 64


@pytest.mark.parametrize("kind", ["lfq", "vq"])
def test_bfloat16_input_keeps_its_type_and_its_ids(kind):
    quantizer = make(kind)
    z = torch.randn(20, 6).bfloat16()
    output = quantizer(z)
    assert output.codes.dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer(z.float()).ids, output.ids)


def test_vq_blocks_of_the_distance_matrix_do_not_change_the_ids(monkeypatch):
    quantizer = VectorQuantizer(6)
    z = torch.randn(37, 6)
    whole = quantizer.codes_to_ids(z)
    monkeypatch.setattr("avatarsync.quantizers.MAX_DISTANCE_ELEMENTS", 64 * 5)
    assert torch.equal(quantizer.codes_to_ids(z), whole)
