import math

import pytest
import torch
from tiny_keyframes import LAYERS, K, T, V, tiny_generator, tiny_inputs
from torch.nn import functional

from avatarsync.attention_masks import text_frame_mask, unit_visibility
from avatarsync.errors import InvalidArgumentError
from avatarsync.modeling_keyframes import CONDITION, DURATION, FRAME, REFERENCE, UNIT, KeyframeGeneratorModel
from avatarsync.quantizers import ids_to_digits

MODES = ["full", "causal", "limited_history", "one_to_one", "window"]
BOUNDED, CONTEXTS = MODES[2:], ["none", "previous"]

every_mode = pytest.mark.parametrize("mode", MODES)
bounded_mode = pytest.mark.parametrize("mode", BOUNDED)
every_context = pytest.mark.parametrize("frame_context", CONTEXTS)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def cut(inputs, units, items=slice(None)):
    return {name: rows[items] if name == "reference_codes" else rows[items, units] for name, rows in inputs.items()}


def changed_frames(one, other):
    """(B, T): whether a frame's logits differ; in between "differ" and "equal" there must be a gap."""
    difference = (one - other).abs().flatten(2).amax(-1)
    assert not ((difference > 1e-6) & (difference < 1e-4)).any()
    return difference > 1e-4


def dense_logits(model, inputs, labels, unit_mask):
    """An independent computation: all rows in one sequence under the (L, L) mask, every pair of rows rotated by the
    difference of their positions."""
    config, size = model.config, model.config.hidden_size
    batch, num_units = labels.shape[:2]
    kind, index = model.kind_embedding.weight, model.index_embedding.weight
    ends = math.log10(config.min_duration), math.log10(config.max_duration)
    bins = torch.logspace(*ends, config.num_duration_bins).log()
    nearest = (inputs["durations"].log().unsqueeze(-1) - bins).abs().argmin(-1)
    base = config.code_base

    def embed(codes):
        return sum(
            model.code_embedding.weight[factor * base + codes // base ** (config.code_factors - 1 - factor) % base]
            for factor in range(config.code_factors)
        )

    units = torch.stack(
        [
            model.duration_embedding(nearest) + kind[DURATION],
            model.unit_embedding(inputs["unit_ids"]) + kind[UNIT],
            model.condition_embedding(inputs["condition"]) + kind[CONDITION],
        ],
        dim=2,
    ).flatten(1, 2)
    reference = embed(inputs["reference_codes"]) + kind[REFERENCE] + index
    begin = model.begin.expand(batch, num_units, 1, size)
    frames = torch.cat([begin, embed(labels[..., :-1])], dim=2) + kind[FRAME] + index
    hidden = torch.cat([units, reference, frames.flatten(1, 2)], dim=1)  # (B, L, hidden)

    positions = torch.arange(num_units)
    position = torch.cat([positions.repeat_interleave(3), torch.zeros(K), positions.repeat_interleave(K)])
    offset = position - position.unsqueeze(1)  # (L, L)
    offset[:, 3 * num_units : 3 * num_units + K] = 0
    half = size // config.num_heads // 2
    turn = torch.polar(torch.ones(()), offset.unsqueeze(-1) * 1000.0 ** (-torch.arange(half) / half))  # (L, L, D / 2)
    mask = text_frame_mask(
        config.attention_mode,
        num_units,
        K,
        config.past_units,
        config.future_units,
        config.frame_context,
        unit_mask,
    )
    for block in model.blocks:
        attention, rows = block.attention, block.attention_norm(hidden)
        query, key, value = (
            layer(rows).unflatten(-1, (config.num_heads, 2 * half)).transpose(1, 2)
            for layer in (attention.query, attention.key, attention.value)
        )  # (B, H, L, D)
        query, key = (torch.complex(*rows.chunk(2, dim=-1)) for rows in (query, key))
        scores = torch.einsum("bhmd,bhnd,mnd->bhmn", query.conj(), key, turn).real / math.sqrt(2 * half)
        weights = scores.masked_fill(~mask.unsqueeze(1), -torch.inf).softmax(-1)
        hidden = hidden + attention.output((weights @ value).transpose(1, 2).flatten(2))
        hidden = hidden + block.mlp(block.mlp_norm(hidden))
    frames = hidden[:, 3 * num_units + K :].unflatten(1, (num_units, K))
    return model.head(model.norm(frames)).unflatten(-1, (config.code_factors, base))


@every_mode
@every_context
@pytest.mark.parametrize("code_factors", [1, 2])
def test_attention_in_pieces_equals_the_full_mask(mode, frame_context, code_factors):
    model = tiny_generator(mode, frame_context, code_factors=code_factors)
    inputs, labels = tiny_inputs(), torch.randint(0, V, (2, T, K))
    unit_mask = torch.arange(T) < torch.tensor([[T], [T - 3]])
    logits = model(**inputs, labels=labels, unit_mask=unit_mask).logits
    expected = dense_logits(model, inputs, labels, unit_mask)
    torch.testing.assert_close(logits[unit_mask], expected[unit_mask], atol=1e-4, rtol=1e-4)


@every_mode
@every_context
@pytest.mark.parametrize("code_factors", [1, 2])
def test_decoding_with_a_cache_equals_the_teacher_forced_pass(mode, frame_context, code_factors):
    model, inputs = tiny_generator(mode, frame_context, code_factors=code_factors), tiny_inputs()
    base = model.config.code_base
    # Sampled hot, so that the tokens differ.
    for temperature in (0.0, 3.0):
        generated = model.generate(**inputs, temperature=temperature, generator=torch.Generator().manual_seed(0))
        assert generated.codes.shape == (2, T, K) and generated.codes.dtype == torch.int64
        assert generated.logits.shape == (2, T, K, code_factors, base)
        forced = model(**inputs, labels=generated.codes)
        torch.testing.assert_close(forced.logits, generated.logits, atol=1e-4, rtol=1e-4)
        if temperature == 0:
            assert torch.equal(generated.logits.argmax(-1), ids_to_digits(generated.codes, code_factors, base))
    assert len(generated.codes.unique()) > V // 2


@every_mode
@every_context
@pytest.mark.parametrize("what", ["unit_ids", "durations", "condition"])
def test_perturbing_a_unit_changes_exactly_the_frames_that_the_mode_allows(mode, frame_context, what):
    model, inputs, labels = tiny_generator(mode, frame_context), tiny_inputs(), torch.randint(0, V, (2, T, K))
    visible = unit_visibility(mode, T, 2, 1)
    # Through each layer but the first, a frame reads what the frame before it read one layer earlier.
    forced_visible, generated_visible = visible, visible
    if frame_context == "previous":
        forced_visible = visible | functional.pad(visible[:-1], (0, 0, 1, 0))
        generated_visible = visible.cumsum(0) > 0
    forced, generated = model(**inputs, labels=labels).logits, model.generate(**inputs).logits
    for unit in range(T):
        perturbed = {name: tensor.clone() for name, tensor in inputs.items()}
        value = perturbed[what][0, unit]
        perturbed[what][0, unit] = {"unit_ids": (value + 1) % 6, "durations": value * 3, "condition": 1 - value}[what]
        changed = changed_frames(model(**perturbed, labels=labels).logits, forced)
        assert torch.equal(changed[0], forced_visible[:, unit]), f"unit {unit}"
        assert not changed[1].any()  # the other item of the batch
        changed = changed_frames(model.generate(**perturbed).logits, generated)
        assert not (changed[0] & ~generated_visible[:, unit]).any(), f"unit {unit}"
        assert not (~changed[0] & forced_visible[:, unit]).any(), f"unit {unit}"
        assert not changed[1].any()


@every_mode
@every_context
def test_perturbing_a_token_changes_exactly_the_later_rows_that_may_read_it(mode, frame_context):
    model, inputs, labels = tiny_generator(mode, frame_context), tiny_inputs(1), torch.randint(0, V, (1, T, K))
    before = model(**inputs, labels=labels).logits
    frame, token = 2, 1
    labels[0, frame, token] = (labels[0, frame, token] + 5) % V
    difference = (model(**inputs, labels=labels).logits - before).abs().flatten(3).amax(-1)[0]  # (T, K)
    expected = torch.zeros(T, K, dtype=torch.bool)
    expected[frame : frame + (1 if frame_context == "none" else 1 + LAYERS), token + 1 :] = True
    assert torch.equal(difference > 1e-4, expected)
    assert (difference[~expected] < 1e-6).all()


@every_mode
def test_every_frame_reads_the_reference(mode):
    model, inputs = tiny_generator(mode), tiny_inputs(1)
    before = model.generate(**inputs).logits
    inputs["reference_codes"] = (inputs["reference_codes"] + 3) % V
    assert changed_frames(model.generate(**inputs).logits, before).all()


@bounded_mode
def test_frames_do_not_depend_on_their_place_in_the_sequence(mode):
    model, inputs = tiny_generator(mode), tiny_inputs(1, 60)
    past_units = {"limited_history": 1, "one_to_one": 0, "window": 2}[mode]
    whole = model.generate(**inputs)
    start = 37
    tail = model.generate(**cut(inputs, slice(start - past_units, None)))
    torch.testing.assert_close(tail.logits[:, past_units:], whole.logits[:, start:], atol=1e-5, rtol=1e-5)
    assert torch.equal(tail.codes[:, past_units:], whole.codes[:, start:])


def test_only_offsets_count_in_full_attention_too():
    # Two units and their frames, moved along by padding in front of them.
    model, inputs = tiny_generator("full"), tiny_inputs(1, 2)
    moved = {
        name: tensor if name == "reference_codes" else torch.cat([tensor.repeat_interleave(4, 1), tensor], dim=1)
        for name, tensor in inputs.items()
    }
    unit_mask = torch.arange(10).unsqueeze(0) >= 8
    logits = model.generate(**moved, unit_mask=unit_mask).logits[:, 8:]
    torch.testing.assert_close(logits, model.generate(**inputs).logits, atol=1e-5, rtol=1e-5)
    # And the order of units is seen.
    swapped = {name: tensor if name == "reference_codes" else tensor.flip(1) for name, tensor in inputs.items()}
    assert not torch.allclose(model.generate(**swapped).logits.flip(1), logits, atol=1e-3)


@every_mode
@every_context
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_items_of_a_padded_batch_equal_items_alone(mode, frame_context, temperature):
    model, inputs = tiny_generator(mode, frame_context), tiny_inputs(3)
    lengths = [T, 1, 4]
    unit_mask = torch.arange(T) < torch.tensor(lengths).unsqueeze(1)
    together = model.generate(
        **inputs, unit_mask=unit_mask, temperature=temperature, generator=torch.Generator().manual_seed(1)
    )
    for item, length in enumerate(lengths):
        alone = model.generate(
            **cut(inputs, slice(0, length), slice(item, item + 1)),
            temperature=temperature,
            generator=torch.Generator().manual_seed(1),
        )
        assert torch.equal(alone.codes[0], together.codes[item, :length])
        torch.testing.assert_close(alone.logits[0], together.logits[item, :length], atol=1e-5, rtol=1e-5)


@every_mode
@every_context
def test_loss_is_the_cross_entropy_over_what_is_not_padding(mode, frame_context):
    model, inputs = tiny_generator(mode, frame_context, code_factors=2), tiny_inputs()
    labels = torch.randint(0, V, (2, T, K))
    unit_mask = torch.arange(T) < torch.tensor([[T], [3]])
    labels[1, 3:] = -100
    output = model(**inputs, labels=labels, unit_mask=unit_mask)
    log_probs = output.logits.log_softmax(-1)
    total, count = 0.0, 0
    for item, length in enumerate([T, 3]):
        for frame in range(length):
            for token in range(K):
                first, second = divmod(labels[item, frame, token].item(), 4)
                total -= (log_probs[item, frame, token, 0, first] + log_probs[item, frame, token, 1, second]).item()
                count += 1
    assert output.loss.item() == pytest.approx(total / count, rel=1e-4)
    output.loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


@every_mode
@every_context
def test_given_mean_embeddings_it_learns_from_what_it_generates(mode, frame_context):
    model, inputs = tiny_generator(mode, frame_context, dropout=0.5), tiny_inputs()
    labels, unit_mask = torch.randint(0, V, (2, T, K)), torch.arange(T) < torch.tensor([[T], [4]])
    forced = model(**inputs, labels=labels, unit_mask=unit_mask).logits
    mixed = model(**inputs, labels=labels, unit_mask=unit_mask, from_means=torch.tensor([False, True]))
    torch.testing.assert_close(mixed.logits[0], forced[0], atol=1e-5, rtol=1e-5)
    generated = model.generate(**inputs, unit_mask=unit_mask, expected=True).logits
    torch.testing.assert_close(mixed.logits[1, :4], generated[1, :4], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(mixed.logits[1, :4], forced[1, :4], atol=1e-2)
    model.train()
    model(**inputs, labels=labels, unit_mask=unit_mask, from_means=torch.ones(2).bool()).loss.backward()
    assert model.training and model.blocks[0].dropout.training
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)
    assert model.head.weight.grad.abs().max() > 0 and model.unit_embedding.weight.grad.abs().max() > 0


@bounded_mode
@pytest.mark.parametrize(
    "block_size, first, sizes", [(1, None, [1] * 20), (3, 3, [3] * 6 + [2]), (64, None, [20]), (7, 2, [2, 4, 7, 7])]
)
@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": 1.5}, {"expected": True}])
def test_blocks_equal_the_whole(mode, block_size, first, sizes, options):
    model, inputs = tiny_generator(mode), tiny_inputs(2, 20)
    whole = model.generate(**inputs, **options, generator=torch.Generator().manual_seed(3))
    options = options | {"block_size": block_size, "first_block_size": first}
    blocks = list(model.generate_blocks(**inputs, **options, generator=torch.Generator().manual_seed(3)))
    assert [block.codes.shape[1] for block in blocks] == sizes
    assert torch.equal(torch.cat([block.codes for block in blocks], dim=1), whole.codes)
    torch.testing.assert_close(torch.cat([b.logits for b in blocks], dim=1), whole.logits, atol=1e-5, rtol=1e-5)


@every_mode
def test_some_frames_are_decoded_like_all(mode):
    model, inputs, frames = tiny_generator(mode), tiny_inputs(2, 20), torch.tensor([1, 4, 5, 19])
    whole, encoded = model.generate(**inputs), model.encode(**inputs)
    some = model.decode(encoded.of_frames(frames))
    assert torch.equal(some.codes, whole.codes[:, frames])
    torch.testing.assert_close(some.logits, whole.logits[:, frames], atol=1e-5, rtol=1e-5)
    assert torch.equal(model.decode(encoded).codes, whole.codes), "decoding leaves what was encoded as it is"


@pytest.mark.parametrize("mode, frame_context", [("full", "none"), ("causal", "none"), ("window", "previous")])
def test_blocks_are_refused_where_they_would_differ(mode, frame_context):
    with pytest.raises(InvalidArgumentError, match="use generate"):
        next(tiny_generator(mode, frame_context).generate_blocks(**tiny_inputs()))


def test_without_a_condition_the_null_embedding_stands_in():
    model, inputs = tiny_generator(condition_dropout=1.0, dropout=0.0), tiny_inputs()
    labels = torch.randint(0, V, (2, T, K))
    seen = model(**inputs, labels=labels).logits
    null = model(**{**inputs, "condition": None}, labels=labels).logits
    assert changed_frames(seen, null).all()
    torch.testing.assert_close(model.train()(**inputs, labels=labels).logits, null)  # hidden in training, always here
    model.config.condition_dropout = 0.0
    torch.testing.assert_close(model(**inputs, labels=labels).logits, seen)


def test_training_hides_the_condition_of_some_sequences():
    model, labels = tiny_generator(condition_dropout=0.5, dropout=0.0).train(), torch.randint(0, V, (64, T, K))
    inputs = tiny_inputs(64)
    null = model(**{**inputs, "condition": None}, labels=labels).logits
    changed = changed_frames(model(**inputs, labels=labels).logits, null)
    assert torch.equal(changed.any(1), changed.all(1))
    assert 16 < changed.all(1).sum() < 48


def test_durations_are_binned_evenly_in_log_time_and_clamped():
    model, inputs = tiny_generator("one_to_one"), tiny_inputs(1, 6)
    inputs["unit_ids"][:], inputs["condition"][:] = 1, 0.5
    # Bins 0 and 31 of 32, then both sides of the border between bins 10 and 11.
    border = 0.02 * 100 ** (10.5 / 31)
    inputs["durations"] = torch.tensor([[0.0, 0.02, 2.0, 99.0, border * 0.99, border * 1.01]])
    logits = model.generate(**inputs).logits[0]
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[2], logits[3])
    for one, other in ((1, 2), (4, 5), (1, 4)):
        assert not torch.allclose(logits[one], logits[other], atol=1e-4)


def test_a_tiny_set_is_learned_and_generated():
    model = tiny_generator("window", initializer_range=0.02, dropout=0.0, condition_dropout=0.0).train()
    inputs = tiny_inputs(4, 5)
    labels = torch.randint(0, V, (4, 5, K))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(V), rel=0.1)
    assert losses[-1] < 0.1
    assert (model.eval().generate(**inputs).codes == labels).float().mean() > 0.95


@every_context
@pytest.mark.parametrize("mode", ["full", "window"])
def test_gradient_checkpointing_changes_no_gradient_and_every_parameter_has_one(mode, frame_context):
    model = tiny_generator(mode, frame_context, dropout=0.0, condition_dropout=0.0).train()
    inputs, labels = tiny_inputs(), torch.randint(0, V, (2, T, K))

    def gradients():
        model.zero_grad()
        # The null embedding is trained by the second item, whose condition is hidden.
        hidden = {name: tensor[1:] for name, tensor in inputs.items()} | {"condition": None}
        loss = model(**cut(inputs, slice(None), slice(0, 1)), labels=labels[:1]).loss
        (loss + model(**hidden, labels=labels[1:]).loss).backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    plain = gradients()
    assert all(gradient.abs().sum() > 0 for gradient in plain.values())
    model.activation_checkpointing_enable()
    assert all(block.gradient_checkpointing for block in model.blocks)
    for name, gradient in gradients().items():
        torch.testing.assert_close(gradient, plain[name], msg=name)


def test_bfloat16_as_autocast_and_as_weights():
    model, inputs, labels = tiny_generator(frame_context="previous"), tiny_inputs(), torch.randint(0, V, (2, T, K))
    exact = model(**inputs, labels=labels).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**inputs, labels=labels).loss
        assert model.generate(**inputs).codes.shape == (2, T, K)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.05)
    loss.backward()
    assert model.head.weight.grad.isfinite().all()
    model = model.to(torch.bfloat16)
    assert model.generate(**inputs).logits.dtype == torch.bfloat16
    assert model(**inputs, labels=labels).loss.item() == pytest.approx(exact.item(), rel=0.05)


def test_save_and_load(tmp_path):
    model, inputs = tiny_generator("causal", "previous", code_factors=2), tiny_inputs()
    model.save_pretrained(tmp_path)
    loaded, report = KeyframeGeneratorModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert loaded.config.attention_mode == "causal" and loaded.config.frame_context == "previous"
    assert torch.equal(loaded.generate(**inputs).logits, model.generate(**inputs).logits)


@pytest.mark.parametrize(
    "name, change",
    [
        ("durations", lambda tensor: tensor[:, 1:]),
        ("condition", lambda tensor: tensor.squeeze(-1)),
        ("reference_codes", lambda tensor: tensor[:, :-1]),
    ],
)
def test_inputs_of_other_shapes_are_named(name, change):
    inputs = tiny_inputs()
    inputs[name] = change(inputs[name])
    with pytest.raises(InvalidArgumentError, match=name):
        tiny_generator().generate(**inputs)


@pytest.mark.parametrize("options", [{"temperature": -1.0}, {"top_k": 0}, {"expected": True, "temperature": 1.0}])
def test_options_out_of_range_are_named(options):
    with pytest.raises(InvalidArgumentError, match=next(iter(options))):
        tiny_generator().generate(**tiny_inputs(), **options)
    with pytest.raises(InvalidArgumentError, match="labels"):
        tiny_generator()(**tiny_inputs(), labels=torch.zeros(2, T, K + 1, dtype=torch.long))
    with pytest.raises(InvalidArgumentError, match="block_size"):
        next(tiny_generator().generate_blocks(**tiny_inputs(), block_size=0))
