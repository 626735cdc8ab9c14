"""Flicker, lip correlation and closure as modules: the plain functions' figures, whatever the batches."""

import numpy as np
import pytest

from avatarsync.errors import InvalidArgumentError
from avatarsync.metrics import (
    best_lag,
    bilabial_centres,
    gain,
    inner_lip_gap,
    mouth_width,
    openings_at,
    pearson,
    second_differences,
    silence_centres,
)
from avatarsync.metrics.modules import Closure, Flicker, LipCorrelation, closure_moments
from avatarsync.phonemes import Phoneme, PhonemeTrack

CUTS = ((), (1,), (3, 4, 30), tuple(range(1, 50, 7)))


def faces(gap, width, eyes=60.0):
    """Landmarks `(T, 468, 2)` with given inner-lip gap and mouth width, in eye distances."""
    landmarks = np.zeros((len(gap), 468, 2))
    for corner, x in ((33, -eyes / 2 - 10), (133, -eyes / 2 + 10), (362, eyes / 2 - 10), (263, eyes / 2 + 10)):
        landmarks[:, corner, 0] = x
    landmarks[:, 14, 1] = np.asarray(gap) * eyes
    landmarks[:, 61, 0], landmarks[:, 291, 0] = -np.asarray(width) * eyes / 2, np.asarray(width) * eyes / 2
    return landmarks


def talking(seed, frames, late=0):
    """A face whose lips move by sums of waves, `late` frames later."""
    random = np.random.default_rng(seed)
    rates, phases = random.uniform(0.2, 1.3, (2, 4)), random.uniform(0, 6, (2, 4))
    times = np.arange(frames) - late
    gap, width = (np.sin(times[:, None] * rates[i] + phases[i]).sum(1) for i in range(2))
    return faces(0.1 + 0.02 * gap, 0.9 + 0.05 * width)


def stream(metric, clips, cuts):
    """Add clips, each a dict of arrays, in batches that are cut there."""
    for clip in clips:
        parts = {name: np.split(values, [cut for cut in cuts if cut < len(values)]) for name, values in clip.items()}
        for batch in zip(*parts.values(), strict=True):
            metric.add_batch(**dict(zip(parts, batch, strict=True)))
        metric.end_clip()
    return metric


@pytest.mark.parametrize("cuts", CUTS)
def test_lip_correlation_is_the_plain_functions_mean_over_clips(cuts):
    clips = []
    for seed, late in ((1, 0), (2, 3), (3, -1)):
        real = talking(seed, 60)
        noise = np.random.default_rng(seed).normal(0, 0.3, real.shape)
        clips.append({"predictions": talking(seed, 60, late) + noise, "references": real})
    figures = stream(LipCorrelation(), clips, cuts).compute()
    for name, curve in (("opening", inner_lip_gap), ("width", mouth_width)):
        curves = [(curve(clip["predictions"]), curve(clip["references"])) for clip in clips]
        assert figures[f"{name}_r"] == pytest.approx(np.mean([pearson(*pair) for pair in curves]))
        assert figures[f"{name}_gain"] == pytest.approx(np.mean([gain(*pair) for pair in curves]))
        lags = [best_lag(*pair) for pair in curves]
        assert lags == [0, 3, -1]
        assert figures[f"{name}_lag"] == pytest.approx(2 / 3) and figures[f"{name}_lag_within_1"] == pytest.approx(
            2 / 3
        )


def test_lips_that_never_move_correlate_with_nothing():
    still = faces(np.full(40, 0.1), np.full(40, 0.9))
    figures = LipCorrelation().compute(predictions=still, references=talking(1, 40))
    assert figures["opening_r"] == figures["opening_gain"] == figures["opening_lag"] == 0
    assert LipCorrelation().compute(predictions=talking(1, 40), references=still)["opening_r"] == 0


@pytest.mark.parametrize("cuts", CUTS)
def test_flicker_is_the_plain_functions_mean(cuts):
    random = np.random.default_rng(0)
    clips = [
        {name: random.integers(0, 256, (count, 6, 5, 3), dtype=np.uint8) for name in ("predictions", "references")}
        for count in (9, 3, 52)
    ]
    metric = stream(Flicker(), clips, cuts)
    mask = np.ones((6, 5), bool)
    expected = {
        name: np.concatenate([second_differences(clip[name], mask) for clip in clips]).mean()
        for name in ("predictions", "references")
    }
    figures = metric.compute()
    assert figures["flicker"] == pytest.approx(expected["predictions"])
    assert figures["flicker_real"] == pytest.approx(expected["references"])
    assert figures["flicker_over_real"] == pytest.approx(expected["predictions"] / expected["references"])
    mask[:3] = False
    masked = Flicker().compute(predictions=clips[0]["predictions"], mask=mask)
    assert masked == {"flicker": pytest.approx(second_differences(clips[0]["predictions"], mask).mean())}


def test_white_noise_flickers_by_six_variances():
    noise = np.random.default_rng(1).normal(127, 10, (40, 32, 32, 3)).round().astype(np.uint8)
    assert Flicker().compute(predictions=noise)["flicker"] == pytest.approx(6 * (100 + 1 / 12), rel=0.03)


def track_of(frames):
    sounds = ["m", "a", "b", "sil", "a", "p", "a"]
    length = frames / 25 / len(sounds)
    return PhonemeTrack([Phoneme(s, i * length, (i + 1) * length) for i, s in enumerate(sounds)], duration=frames / 25)


@pytest.mark.parametrize("cuts", CUTS)
def test_closure_is_the_plain_functions_to_a_thousandth(cuts):
    clips, shares = [], {"bilabials": [], "silences": []}
    for seed in range(3):
        landmarks, track = talking(seed, 60), track_of(60)
        landmarks[5:12] = faces(np.full(7, 0.004), np.full(7, 0.9))
        clips.append({"predictions": landmarks, "references": closure_moments(track, 60, 25)})
        gap = inner_lip_gap(landmarks)
        shares["bilabials"].append(openings_at(gap, bilabial_centres(track), 25))
        shares["silences"].append(openings_at(gap, silence_centres(track), 25))
    figures = stream(Closure(), clips, cuts).compute()
    for kind, limit in (("bilabials", 0.25), ("silences", 0.15)):
        openings = np.concatenate(shares[kind])
        assert figures[f"{kind}_count"] == len(openings)
        assert figures[f"{kind}_opening"] == pytest.approx(openings.mean(), abs=2e-3)
        assert figures[f"{kind}_shut"] == pytest.approx(np.mean(openings <= limit))


def test_a_mouth_that_never_opens_is_shut_and_no_closures_are_nan():
    shut = faces(np.zeros(50), np.full(50, 0.9))
    figures = Closure().compute(predictions=shut, references=closure_moments(track_of(50), 50, 25))
    assert figures["bilabials_shut"] == figures["silences_shut"] == 1 and figures["bilabials_opening"] == 0
    figures = Closure().compute(predictions=shut, references=np.zeros((50, 2), int))
    assert np.isnan(figures["bilabials_shut"]) and figures["bilabials_count"] == 0


def test_moments_count_the_nearest_frames():
    moments = closure_moments(track_of(70), 70, 25)
    assert moments.sum(0).tolist() == [3, 1] and np.flatnonzero(moments[:, 0]).tolist() == [5, 25, 55]
    assert np.flatnonzero(moments[:, 1]).tolist() == [35]
    cut_off = closure_moments(track_of(70), 40, 25)
    assert cut_off.sum(0).tolist() == [2, 1], "nothing is seen of what is said after the last frame"


def hour_in_pieces(metric, **batch):
    """The sizes of the state after each of many batches of one clip."""
    return [metric.add_batch(**batch) or metric.state_bytes for _ in range(12)]


def test_memory_is_flat_within_a_clip():
    lips = talking(0, 40)
    assert len(set(hour_in_pieces(LipCorrelation(), predictions=lips, references=lips))) == 1
    assert len(set(hour_in_pieces(Closure(), predictions=lips, references=np.ones((40, 2), int)))) == 1
    pictures = np.zeros((5, 16, 16, 3), np.uint8)
    sizes = hour_in_pieces(Flicker(), predictions=pictures, references=pictures)
    assert len(set(sizes)) == 1 and sizes[0] < 4 * pictures[0].size + 100


def test_clips_of_processes_are_merged():
    clips = [{"predictions": talking(seed, 50) + seed, "references": talking(seed, 50, 1)} for seed in range(4)]
    first, second = (stream(LipCorrelation(), part, ()) for part in (clips[:1], clips[1:]))
    first.merge(second)
    assert first.compute() == pytest.approx(stream(LipCorrelation(), clips, ()).compute())
    second.add_batch(**clips[0])
    with pytest.raises(InvalidArgumentError, match="end_clip"):
        first.merge(second)


def test_wrong_input_is_refused():
    lips, pictures = talking(0, 10), np.zeros((4, 8, 8, 3), np.uint8)
    lost = lips.copy()
    lost[3] = np.nan
    no_eyes = np.zeros((4, 468, 2))
    for metric, batch, message in (
        (LipCorrelation(), {"predictions": lips[:, :467], "references": lips}, r"\(B, 468, 2\)"),
        (LipCorrelation(), {"predictions": lips, "references": lips[1:]}, "of 10 frames"),
        (LipCorrelation(), {"predictions": lost, "references": lips}, "lost faces"),
        (LipCorrelation(), {"predictions": lips[:4], "references": no_eyes}, "one point"),
        (Closure(), {"predictions": lips, "references": np.zeros((10, 2))}, "whole numbers"),
        (Closure(), {"predictions": lips, "references": np.zeros((9, 2), int)}, r"\(10, 2\)"),
        (Flicker(), {"predictions": pictures, "mask": np.zeros((8, 8), bool)}, "at least one True"),
        (Flicker(), {"predictions": pictures, "mask": np.ones((7, 8), bool)}, r"\(8, 8\)"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            metric.add_batch(**batch)
        assert len(metric) == 0
    flicker = Flicker()
    flicker.add_batch(predictions=pictures)
    with pytest.raises(InvalidArgumentError, match="one size"):
        flicker.add_batch(predictions=pictures[:, 1:])
    with pytest.raises(InvalidArgumentError, match="all batches"):
        flicker.add_batch(predictions=pictures, references=pictures)
    for metric, batch in (
        (Flicker(), {"predictions": pictures[:2]}),
        (LipCorrelation(), {"predictions": lips[:7], "references": lips[:7]}),
    ):
        metric.add_batch(**batch)
        with pytest.raises(InvalidArgumentError, match="longer ones"):
            metric.compute()
