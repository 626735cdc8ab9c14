import pytest
import torch
from tiny_keyframes import V, tiny_generator, tiny_inputs


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_a_seed_makes_sampling_exact():
    model, inputs = tiny_generator(), tiny_inputs()

    def sample(seed, **options):
        return model.generate(**inputs, generator=torch.Generator().manual_seed(seed), **options).codes

    assert torch.equal(sample(1, temperature=1.0), sample(1, temperature=1.0))
    assert not torch.equal(sample(1, temperature=1.0), sample(2, temperature=1.0))
    greedy = model.generate(**inputs).codes
    assert torch.equal(sample(1, temperature=1.0, top_k=1), greedy)
    assert torch.equal(sample(1, temperature=1e-4), greedy)


@pytest.mark.parametrize("top_k", [None, 5])
def test_samples_follow_the_softmax(top_k):
    model, inputs = tiny_generator("one_to_one"), tiny_inputs(1, 1)
    many = {name: t if name == "reference_codes" else t.expand(1, 8000, *t.shape[2:]) for name, t in inputs.items()}
    output = model.generate(**many, temperature=2.0, top_k=top_k, generator=torch.Generator().manual_seed(0))
    frequencies = torch.bincount(output.codes[0, :, 0], minlength=V) / 8000
    logits = output.logits[0, 0, 0, 0] / 2.0
    if top_k is not None:
        logits[logits < logits.topk(top_k).values[-1]] = -torch.inf
    expected = logits.softmax(-1)
    assert ((frequencies > 0) & (expected == 0)).sum() == 0
    assert (frequencies - expected).abs().max() < 0.02
    assert expected.max() < 0.9


def test_expected_codes_go_on_from_the_mean_embedding():
    """The first token has no say in this, the second one sees the mean; where the model is sure, nothing changes."""
    model, inputs = tiny_generator(), tiny_inputs()
    greedy, mean = (model.generate(**inputs, expected=expected) for expected in (False, True))
    torch.testing.assert_close(mean.logits[:, :, 0], greedy.logits[:, :, 0])
    assert not torch.allclose(mean.logits[:, :, 1:], greedy.logits[:, :, 1:], atol=1e-3)
    base = model.config.code_base
    embeddings = model.code_embedding.weight.view(-1, base, model.config.hidden_size)  # (F, V_f, hidden)
    expected = torch.einsum("btfv,fvh->bth", mean.logits[:, :, 0].softmax(-1), embeddings)
    torch.testing.assert_close(model._embed_expected(mean.logits[:, :, 0]), expected)
    with torch.no_grad():
        model.head.weight *= 1e4
    greedy, mean = (model.generate(**inputs, expected=expected) for expected in (False, True))
    assert torch.equal(mean.codes, greedy.codes)
