"""Clips as sequences of codes: beside which picture of the person a frame is seen."""

import motion_data
import pytest
import torch
from train_keyframes import load
from train_keyframes import load_rows as rows_of_split

from avatarsync import AvatarSyncPipeline


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


def test_the_stillest_face_is_the_nearest_to_rest():
    resting = torch.zeros(468, 2)
    assert motion_data.stillest(torch.stack([resting + 2, resting - 1, resting + 3]), resting) == 1
