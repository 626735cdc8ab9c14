"""Configurations of the keyframe generator."""

import pytest

from avatarsync.configuration_avatarsync import AvatarSyncConfig, KeyframeGeneratorConfig
from avatarsync.modeling_keyframes import KeyframeGeneratorModel


@pytest.mark.parametrize(
    "options",
    [
        {"code_factors": 3},
        {"hidden_size": 33},
        {"past_units": -1},
        {"min_duration": 3.0},
        {"attention_mode": "sideways"},
        {"frame_context": "next"},
    ],
)
def test_configurations_that_cannot_be(options):
    with pytest.raises(Exception, match="|".join(options) + "|codebook_size"):
        KeyframeGeneratorConfig(**options)


def test_presets_split_their_codes():
    assert AvatarSyncConfig.full().keyframe_generator_config.code_base == 64
    assert KeyframeGeneratorModel(KeyframeGeneratorConfig()).num_parameters() < 2.5e6
