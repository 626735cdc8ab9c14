"""Viterbi's path through phonemes that last a while, against all paths there are."""

import itertools

import numpy as np
import pytest

from avatarsync.phonemes.phoneme_decoding import best_path, path_to_track


def worth(path, scores, cost: float, least: int) -> float:
    """What a path is worth; nothing, where one of its phonemes is too short."""
    runs = [len(list(run)) for _, run in itertools.groupby(path)]
    if min(runs) < least:
        return -np.inf
    return sum(scores[frame, phoneme] for frame, phoneme in enumerate(path)) - cost * (len(runs) - 1)


@pytest.mark.parametrize("least", (1, 2, 3))
@pytest.mark.parametrize("cost", (0.0, 0.7, 3.0))
@pytest.mark.parametrize("seed", range(4))
def test_no_other_path_is_worth_more(seed, cost, least):
    scores = np.random.default_rng(seed).normal(size=(8, 3))
    best = max(worth(path, scores, cost, least) for path in itertools.product(range(3), repeat=8))
    assert worth(best_path(scores, cost, least), scores, cost, least) == pytest.approx(best)


def test_dear_changes_are_made_once_or_never():
    scores = np.log(np.repeat([[0.8, 0.2], [0.2, 0.8], [0.8, 0.2]], (20, 4, 20), axis=0))
    assert best_path(scores, 0.1, 3).tolist() == [0] * 20 + [1] * 4 + [0] * 20
    assert best_path(scores, 5.0, 3).tolist() == [0] * 44


@pytest.mark.parametrize("frames", (1, 2))
def test_less_than_a_phoneme_is_one(frames):
    scores = np.array([[-1.0, -2.0, 0.0], [-1.0, 0.0, -9.0]])[:frames]
    assert best_path(scores, 1.0, 3).tolist() == [scores.sum(0).argmax()] * frames


def test_a_track_covers_the_recording_with_edges_between_frames():
    track = path_to_track(np.array([0] * 10 + [2] * 5 + [0] * 6), ("sil", "a", "m"), 0.2, "de").validate()
    assert [(p.symbol, round(p.start, 4), round(p.end, 4)) for p in track] == [
        ("sil", 0.0, 0.095),
        ("m", 0.095, 0.145),
        ("sil", 0.145, 0.2),
    ]
    assert (track.language, track.duration) == ("de", 0.2)
