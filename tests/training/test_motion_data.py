"""Clips as sequences of codes: beside which picture of the person a frame is seen."""

import motion_data
import numpy as np
import pytest
import torch
from expression_loss import OPEN_WEIGHT, UnexplainedExpression, frames_between
from tiny_dataset import SIZE, write_tiny_dataset
from train_keyframes import frames_that_count, load
from train_keyframes import load_rows as rows_of_split

from avatarsync import AvatarSyncPipeline, AvatarSyncProcessor, VisualTokenizerConfig, VisualTokenizerModel
from avatarsync.phonemes import Speech


@pytest.fixture(scope="module")
def tokenizer():
    return AvatarSyncPipeline.from_pretrained().model.visual_tokenizer


def test_frames_are_seen_beside_one_of_their_own_clip(tokenizer, face_dataset, tmp_path):
    rows = rows_of_split(load(face_dataset), "train", face_dataset)[0]
    beside = [3] * len(rows)
    alone = motion_data.encode_rows(tokenizer, rows, "train", tmp_path)
    codes = motion_data.encode_rows(tokenizer, rows, "train", tmp_path, beside)
    assert [len(part) for part in codes] == rows.num_frames.tolist()
    with torch.inference_mode():
        for row, part in enumerate(codes):
            frames = motion_data.pixels_of(rows, [(row, frame) for frame in range(len(part))], "cpu")
            expected = tokenizer.encode(frames, frames[3:4].expand_as(frames))
            torch.testing.assert_close(part, expected, atol=1e-4, rtol=0)
            torch.testing.assert_close(alone[row], tokenizer.encode(frames), atol=1e-4, rtol=0)
            assert not torch.allclose(part, alone[row], atol=1e-2)
    # Both are kept, and not taken for each other.
    again = motion_data.encode_rows(tokenizer, rows, "train", tmp_path, beside)
    assert all(torch.equal(first, second) for first, second in zip(codes, again, strict=True))
    assert len(list(tmp_path.iterdir())) == 2


def test_clips_are_scheduled_as_the_pipeline_schedules_speech(tmp_path):
    sizes = {"encoder_width": 8, "motion_width": 32, "motion_rank": 8, "painter_size": 16, "painter_width": 8}
    tokenizer = VisualTokenizerModel(VisualTokenizerConfig(crop_size=SIZE, **sizes)).eval()
    folder = write_tiny_dataset(tmp_path / "data")
    rows = rows_of_split(load(folder), "train", folder)[0]
    clip = motion_data.load_clips(tokenizer, rows, "train", tmp_path / "cache")[0]
    count = int(rows.num_frames[clip.row])
    silence = np.zeros(round(16000 * count / clip.fps), np.float32)
    wanted = AvatarSyncProcessor()(Speech(rows.track(clip.row), silence, 16000), clip.fps)
    assert torch.equal(clip.unit_ids, wanted.unit_ids)
    torch.testing.assert_close(clip.durations, wanted.durations)
    np.testing.assert_allclose(clip.keyframes, wanted.keyframe_times)
    # In between two frames an expression is in between, in silence that of the nearest frame with shut lips.
    assert clip.shut[clip.silent].all()
    expressions = clip.keyframe_expressions
    assert expressions.shape == (len(clip.unit_ids), 468, 2)
    assert clip.closed[clip.keyframe_indices[clip.silent]].all()
    spoken = int(np.flatnonzero(~clip.shut)[0])
    before = int(np.floor(clip.keyframes[spoken] * clip.fps))
    share = clip.keyframes[spoken] * clip.fps - before
    between = (1 - share) * clip.expressions[before] + share * clip.expressions[before + 1]
    torch.testing.assert_close(expressions[spoken], between, atol=1e-5, rtol=0)


def test_a_closure_is_taken_where_lips_are_most_closed():
    gaps = torch.tensor([0.04, 0.05, 0.01, 0.03, 0.02, 0.05, 0.0, 0.05])
    expressions = torch.zeros(len(gaps), 468, 2)
    expressions[:, 14, 1] = gaps
    units = torch.tensor([motion_data.CLOSED_ID, 5, motion_data.CLOSED_ID])
    times = np.array([0.12, 0.12, 0.2])  # frames 3, 3 and 5 of 25 a second
    clip = motion_data.Clip(
        0, "", 25.0, units, torch.ones(3), times, torch.zeros(len(gaps), 16, 10), expressions, torch.ones(len(gaps))
    )
    assert clip.keyframe_indices.tolist() == [2, 3, 6]
    assert clip.shut.tolist() == [True, False, True]
    torch.testing.assert_close(clip.keyframe_expressions[:, 14, 1], gaps[[2, 3, 6]])


def test_what_mean_codes_leave_unexplained(tokenizer):
    ids = torch.randint(0, 1024, (64, 16), generator=torch.Generator().manual_seed(0))
    people = tokenizer.expression(tokenizer.quantizer.ids_to_codes(ids)).detach()
    unexplained = UnexplainedExpression(tokenizer, people)
    logits = 50.0 * torch.nn.functional.one_hot(ids, 1024).float()[:, :, None]  # (N, K, F = 1, V)
    certain = unexplained.mean_codes(logits)
    torch.testing.assert_close(certain, tokenizer.quantizer.ids_to_codes(ids), atol=1e-4, rtol=0)
    shut = torch.zeros(64, dtype=torch.bool)
    assert unexplained(certain, people, shut) < 1e-4
    # Other faces explain nothing: twice the variance of each of landmarks, gap and width.
    assert 4 < unexplained(certain, people.roll(1, 0), shut) < 8
    logits = torch.zeros_like(logits).requires_grad_()
    unexplained(unexplained.mean_codes(logits), people, shut).backward()
    assert logits.grad.abs().max() > 0
    # Lips that must close may be too closed, not too open.
    for change in (-0.01, 0.01):
        wanted = people.clone()
        wanted[:, 14, 1] += change
        plain, asked = (unexplained(certain, wanted, torch.full_like(shut, value)) for value in (False, True))
        gap, wanted_gap = ((face[:, 14] - face[:, 13]).norm(dim=-1) for face in (people, wanted))
        too_open = (gap - wanted_gap).clamp_min(0).square().mean() / unexplained.lip_variance[0]
        torch.testing.assert_close(asked - plain, (OPEN_WEIGHT - 1) * too_open, atol=1e-4, rtol=1e-3)


def test_frames_between_keyframes_are_drawn_as_in_use(tokenizer):
    """The frames that phase 3 learns from are those of the model's own interpolator, between the keyframes it says."""
    model = AvatarSyncPipeline.from_pretrained().model
    generator = torch.Generator().manual_seed(0)
    keyframes = torch.tanh(torch.randn(2, 3, 16, 10, generator=generator)).requires_grad_()
    batch = {
        "unit_ids": torch.tensor([[0, 5, 9], [0, 7, 3]]),
        "frame_left": torch.tensor([[0, 1], [1, 0]]),
        "frame_right": torch.tensor([[1, 2], [2, 1]]),
        "frame_time": torch.tensor([[0.25, 0.5], [1.0, 0.75]]),
        "frame_interval": torch.tensor([[0.1, 0.2], [0.3, 0.1]]),
    }
    counted = torch.tensor([[True, True, False], [True, True, True]])
    chosen = frames_that_count(batch, counted)
    assert chosen.tolist() == [[True, False], [True, True]]
    codes = frames_between(model.interpolation, keyframes, batch, chosen)
    torch.testing.assert_close(codes[1], keyframes[1, 2])  # t = 1: the right keyframe itself
    alone = model.interpolation(
        keyframes[:1, 0], keyframes[:1, 1], torch.tensor([0]), torch.tensor([5]), torch.tensor([0.1]),
        torch.tensor([[0.25]]),
    )  # fmt: skip
    torch.testing.assert_close(codes[:1], alone.codes[:, 0], atol=1e-5, rtol=0)
    codes[0].sum().backward()
    assert keyframes.grad[0, :2].abs().amin((1, 2)).gt(0).all() and not keyframes.grad[1].any()


def test_the_stillest_face_is_the_nearest_to_rest():
    resting = torch.zeros(468, 2)
    assert motion_data.stillest(torch.stack([resting + 2, resting - 1, resting + 3]), resting) == 1
