"""--config: names that the model's config declares, and numbers that fit."""

import pytest
import train_face_aligner
import train_interpolation
import train_keyframes
import train_sync_expert
import train_tokenizer
from training_options import build_config, sizes, training_parser

from avatarsync import InterpolationConfig, KeyframeGeneratorConfig
from avatarsync.errors import InvalidArgumentError
from avatarsync.modeling_sync_expert import SyncExpertConfig

SCRIPTS = {
    train_face_aligner: ["--head", "lips"],
    train_interpolation: ["--tokenizer", "t", "--keyframes", "k"],
    train_keyframes: ["--tokenizer", "t"],
    train_sync_expert: ["--videos", "."],
    train_tokenizer: ["--phase", "expression"],
}


def given(*entries):
    return training_parser("x").parse_args(["--data", "d", "--out", "o", "--config", *entries])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_every_script_refuses_a_misspelt_size_at_once(script):
    options = ["--data", "d", "--out", "o", *SCRIPTS[script]]
    with pytest.raises(InvalidArgumentError, match="--config hiden_size=3: no such size; give one of "):
        script.parse([*options, "--config", "hiden_size=3"])
    script.parse(options)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("hiden_size=3", "give one of hidden_size"),
        ("dtype=3", "no such size"),
        ("shut_units=3", "no such size"),
        ("hidden_size=wide", "give NAME=NUMBER"),
        ("hidden_size", "give NAME=NUMBER"),
        ("hidden_size=2.5", "give NAME=NUMBER"),
        ("hidden_size=-2", "give 0 or more"),
        ("mlp_ratio=nan", "give 0 or more"),
        ("code_size=3", "follows from"),
    ],
)
def test_what_is_no_size_is_refused(entry, said):
    with pytest.raises(InvalidArgumentError, match=said):
        sizes(given(entry), InterpolationConfig, ("code_size", "grid_size"))


def test_numbers_are_of_the_kind_that_is_declared():
    config = build_config(KeyframeGeneratorConfig, given("num_heads=2", "mlp_ratio=2", "dropout=0.2"), num_tokens=4)
    assert (config.num_heads, config.mlp_ratio, config.dropout, config.num_tokens) == (2, 2.0, 0.2, 4)
    assert sizes(given("side=32", "embedding_size=8"), SyncExpertConfig) == {"side": 32, "embedding_size": 8}
    with pytest.raises(InvalidArgumentError, match="head_size 48 does not divide"):
        build_config(InterpolationConfig, given("head_size=48"))
