"""A keyframe generator of random weights that is small enough to be looked through, and what goes into it."""

import torch

from avatarsync.configuration_avatarsync import KeyframeGeneratorConfig
from avatarsync.modeling_keyframes import KeyframeGeneratorModel

T, K, V, LAYERS = 7, 4, 16, 2


def tiny_generator(mode="window", frame_context="none", **changes):
    options = dict(
        num_units=6, codebook_size=V, num_tokens=K, hidden_size=32, num_layers=LAYERS, num_heads=2, mlp_ratio=2.0,
        attention_mode=mode, frame_context=frame_context, past_units=2, future_units=1, initializer_range=0.3,
    )  # fmt: skip
    return KeyframeGeneratorModel(KeyframeGeneratorConfig(**(options | changes))).eval()


def tiny_inputs(batch=2, num_units=T):
    return {
        "unit_ids": torch.randint(0, 6, (batch, num_units)),
        "durations": torch.rand(batch, num_units) * 0.3 + 0.03,
        "condition": torch.rand(batch, num_units, 1),
        "reference_codes": torch.randint(0, V, (batch, K)),
    }
