import math

import pytest
import torch

from avatarsync.configuration_avatarsync import AvatarSyncConfig, InterpolationConfig
from avatarsync.modeling_interpolation import InterpolationModel, fourier_features, log_span

CONFIG = {
    "num_units": 5, "code_size": 6, "grid_size": 3, "hidden_size": 32, "state_size": 8, "head_size": 16,
    "chunk_size": 8,
}  # fmt: skip


def make_model(**changes):
    torch.manual_seed(0)
    return InterpolationModel(InterpolationConfig(**CONFIG | changes)).eval()


def randomise(model, scale=0.2):
    """A model as far from its initial state as training might take it."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return model


def make_inputs(pairs=4, num_times=3):
    torch.manual_seed(2)
    return {
        "start_codes": torch.rand(pairs, 9, 6) * 2 - 1,
        "end_codes": torch.rand(pairs, 9, 6) * 2 - 1,
        "start_units": torch.randint(5, (pairs,)),
        "end_units": torch.randint(5, (pairs,)),
        "interval": torch.rand(pairs) * 0.5 + 0.02,
        "times": torch.rand(pairs, num_times),
    }


def linear(inputs):
    times = inputs["times"][:, :, None, None]
    return (1 - times) * inputs["start_codes"].unsqueeze(1) + times * inputs["end_codes"].unsqueeze(1)


@torch.no_grad()
def test_the_ends_of_the_interval_return_the_keyframes_exactly():
    model = randomise(make_model())
    inputs = make_inputs() | {"times": torch.tensor([[0.0, 1.0, 0.5]]).expand(4, 3)}
    codes = model(**inputs).codes
    assert torch.equal(codes[:, 0], inputs["start_codes"])
    assert torch.equal(codes[:, 1], inputs["end_codes"])
    assert (codes[:, 2] - linear(inputs)[:, 2]).abs().mean() > 0.01


@torch.no_grad()
def test_between_shut_lips_nothing_is_added_and_nothing_leaps():
    model = randomise(make_model(shut_units=(2, 3)), scale=0.5)
    silence, closure, speech = torch.full((4,), 2), torch.full((4,), 3), torch.zeros(4, dtype=torch.long)
    inputs = make_inputs() | {"times": torch.tensor([[0.02, 0.5, 0.98]]).expand(4, 3), "start_units": silence}
    start, end = inputs["start_codes"].unsqueeze(1), inputs["end_codes"].unsqueeze(1)
    codes = model(**inputs | {"end_units": closure}).codes
    share = (codes - start) / (end - start)  # (N, M, K, D): one easing for all channels of a token
    torch.testing.assert_close(share, share[..., :1].expand_as(share), atol=1e-3, rtol=1e-3)
    assert (share[:, 0] >= 0).all() and (share[:, 0] < 0.02 * math.exp(1.5) * 1.05).all()
    assert (share[:, 2] <= 1).all() and (share[:, 2] > 1 - 0.02 * math.exp(1.5) * 1.05).all()
    # Beside speech half of the correction counts, which where no lips are shut counts in full.
    inputs |= {"end_units": speech}
    beside = model(**inputs).codes
    loud = make_model(shut_units=())
    loud.load_state_dict(model.state_dict())
    assert not torch.allclose(beside, loud(**inputs).codes, atol=1e-3)
    loud.correction.weight.zero_(), loud.correction.bias.zero_()
    uncorrected = loud(**inputs).codes
    loud.load_state_dict(model.state_dict())
    torch.testing.assert_close(beside - uncorrected, (loud(**inputs).codes - uncorrected) / 2, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_the_untrained_model_interpolates_linearly():
    inputs = make_inputs()
    torch.testing.assert_close(make_model()(**inputs).codes, linear(inputs))


@torch.no_grad()
def test_easing_is_monotone_from_0_to_1_whatever_its_weights():
    model = randomise(make_model(), scale=3.0)
    torch.manual_seed(3)
    tokens, pair = torch.randn(6, 9, 64), torch.randn(6, 32)
    eased = model.easing(tokens, pair, torch.linspace(0, 1, 101).expand(6, 101)).squeeze(-1)  # (6, 101, 9)
    assert eased.shape == (6, 101, 9)
    assert (eased[:, 0] == 0).all() and (eased[:, -1] == 1).all()
    assert (eased.diff(dim=1) > 0).all()
    assert eased[:, 50].std() > 0.05  # the weights do shape it


@torch.no_grad()
@pytest.mark.parametrize("name", ["start_codes", "end_codes", "start_units", "end_units", "interval", "times"])
def test_every_input_matters_to_its_own_pair_alone(name):
    model = randomise(make_model())
    inputs = make_inputs()
    before = model(**inputs).codes
    changed = inputs[name].clone()
    changed[1] = (changed[1] + 1) % 5 if name.endswith("units") else changed[1] * 0.5
    difference = (model(**inputs | {name: changed}).codes - before).abs().amax((1, 2, 3))
    assert difference[1] > 1e-3
    assert difference[[0, 2, 3]].max() < 1e-5


@torch.no_grad()
def test_one_batch_of_all_times_equals_one_by_one():
    model = randomise(make_model())
    inputs = make_inputs()
    together = model(**inputs).codes
    for pair in range(4):
        for index in range(3):
            alone = {name: value[pair : pair + 1] for name, value in inputs.items()}
            alone["times"] = alone["times"][:, index : index + 1]
            torch.testing.assert_close(model(**alone).codes[0, 0], together[pair, index], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_every_token_reaches_every_other():
    model = randomise(make_model(num_layers=1, shut_units=()))  # beside shut lips, tokens do not correct each other
    inputs = make_inputs(pairs=1, num_times=1)
    before = model(**inputs).codes
    for position in range(9):
        start = inputs["start_codes"].clone()
        start[0, position] += 1
        moved = (model(**inputs | {"start_codes": start}).codes - before).abs().amax((0, 1, 3))
        assert (moved > 1e-6).all()


@torch.no_grad()
def test_chunk_size_does_not_change_the_codes():
    inputs = make_inputs()
    whole = randomise(make_model(chunk_size=64))(**inputs).codes
    for chunk_size in (1, 5, 18):
        torch.testing.assert_close(
            randomise(make_model(chunk_size=chunk_size))(**inputs).codes, whole, rtol=1e-4, atol=1e-4
        )


def test_loss_counts_only_masked_frames():
    model, inputs = make_model(), make_inputs()
    labels = linear(inputs)
    labels[0, 0] += 0.5
    mask = torch.ones(4, 3, dtype=torch.bool)
    assert model(**inputs).loss is None
    everything = model(**inputs, labels=labels).loss
    assert everything.item() == pytest.approx(0.45 / 12, rel=1e-4)  # smooth L1 of 0.5 is 0.5 - 0.1 / 2, in 1 of 12
    torch.testing.assert_close(model(**inputs, labels=labels, label_mask=mask).loss, everything)
    mask[0, 0] = False
    labels[0, 0] = float("nan")  # padding may hold anything
    loss = model(**inputs, labels=labels, label_mask=mask).loss
    assert loss.item() == pytest.approx(0, abs=1e-6)
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
    assert model(**inputs, labels=labels, label_mask=torch.zeros_like(mask)).loss.item() == 0


def test_all_parameters_get_finite_gradients_at_the_ends_too():
    model = randomise(make_model()).train()
    inputs = make_inputs() | {"times": torch.tensor([[0.0, 0.4, 1.0]]).expand(4, 3)}
    model(**inputs, labels=torch.rand(4, 3, 9, 6)).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_gradient_checkpointing_changes_nothing_but_memory():
    inputs, labels = make_inputs(), torch.rand(4, 3, 9, 6)
    plain = randomise(make_model()).train()
    plain(**inputs, labels=labels).loss.backward()
    checkpointed = randomise(make_model()).train()
    checkpointed.gradient_checkpointing_enable()
    calls = []
    checkpointed.blocks[0].mixer.register_forward_hook(lambda *_: calls.append(1))
    checkpointed(**inputs, labels=labels).loss.backward()
    assert len(calls) == 2  # once forward, once again in the backward pass
    for (name, one), other in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=name)


@torch.no_grad()
def test_save_and_load_round_trip(tmp_path):
    model, inputs = randomise(make_model()), make_inputs()
    model.save_pretrained(tmp_path)
    loaded, report = InterpolationModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert loaded.config.to_diff_dict() == model.config.to_diff_dict()
    assert torch.equal(loaded.eval()(**inputs).codes, model(**inputs).codes)


@torch.no_grad()
def test_parameters_missing_from_a_checkpoint_are_initialised(tmp_path):
    model = make_model()
    kept = {name: value for name, value in model.state_dict().items() if "blocks.1" not in name}
    model.save_pretrained(tmp_path, state_dict=kept)
    loaded = InterpolationModel.from_pretrained(tmp_path)
    rate = loaded.blocks[1].mixer.log_decay_rate.exp()
    step = torch.nn.functional.softplus(loaded.blocks[1].mixer.step_bias)
    assert ((rate >= 0.499) & (rate <= 4.001)).all() and rate.std() > 0
    assert ((step >= 0.009) & (step <= 0.51)).all() and step.std() > 0
    assert loaded.blocks[1].modulation.weight.abs().max() == 0
    torch.testing.assert_close(loaded(**make_inputs()).codes, linear(make_inputs()))


@torch.no_grad()
def test_bfloat16_autocast_and_weights():
    model, inputs = randomise(make_model(), scale=0.1), make_inputs()
    exact = model(**inputs).codes
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(**inputs).codes
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().mean() < 0.05
    ends = inputs | {"times": torch.tensor([[0.0, 1.0]]).expand(4, 2)}
    half = model.bfloat16()(**ends).codes
    assert torch.equal(half[:, 0], inputs["start_codes"]) and torch.equal(half[:, 1], inputs["end_codes"])


def test_time_features():
    seconds = torch.tensor([0.0, 0.01, 0.04, 0.4, 10.0, 60.0])
    spans = log_span(seconds)
    assert spans[0] == 0 and spans[4] == pytest.approx(1) and spans[5] == 1
    assert (spans.diff()[:4] > 0.1).all()  # 10, 40 and 400 ms are well apart
    assert fourier_features(spans).shape == (6, 17)


def test_presets_fit_their_budget():
    embedded = InterpolationModel(AvatarSyncConfig().interpolation_config)
    assert embedded.num_parameters() < 1_000_000
    with torch.device("meta"):
        full = InterpolationModel(AvatarSyncConfig.full().interpolation_config)
    assert full.num_parameters() > 5 * embedded.num_parameters()


def test_head_size_must_divide_the_width():
    with pytest.raises(ValueError, match="head_size 48 does not divide"):
        InterpolationConfig(hidden_size=128, head_size=48)


def test_it_learns_a_motion_that_is_not_linear():
    """Frames whose start unit is even move early, the others late, and all swing out as their start code says."""
    generator = torch.Generator().manual_seed(0)

    def sample(pairs):
        inputs = {
            "start_codes": torch.rand(pairs, 9, 6, generator=generator) * 2 - 1,
            "end_codes": torch.rand(pairs, 9, 6, generator=generator) * 2 - 1,
            "start_units": torch.randint(5, (pairs,), generator=generator),
            "end_units": torch.randint(5, (pairs,), generator=generator),
            "interval": torch.rand(pairs, generator=generator) * 0.5 + 0.02,
            "times": torch.rand(pairs, 5, generator=generator),
        }
        times = inputs["times"][:, :, None, None]
        early = (inputs["start_units"] % 2 == 0)[:, None, None, None]
        eased = torch.where(early, 1 - (1 - times) ** 2, times**2)
        start, end = inputs["start_codes"].unsqueeze(1), inputs["end_codes"].unsqueeze(1)
        swing = 0.4 * (torch.pi * times).sin() * start.roll(1, dims=-1)
        return inputs, start + eased * (end - start) + swing

    model = make_model(num_layers=1).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        inputs, labels = sample(8)
        optimizer.zero_grad()
        model(**inputs, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    inputs, labels = sample(64)  # unseen
    with torch.no_grad():
        error = (model.eval()(**inputs).codes - labels).abs().mean()
    assert error < 0.5 * (linear(inputs) - labels).abs().mean()
