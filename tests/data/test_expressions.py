"""Expressions: the neutral face's own landmarks stay, other faces' become the neutral face doing the same."""

import numpy as np
import pytest
import torch

from avatarsync import face_mesh
from avatarsync.data.expressions import RIGID_POINTS, Expressions, resting_face, to_neutral
from avatarsync.face_mesh import INNER_LIPS, LIP_RINGS, OUTER_LIPS


@pytest.fixture
def neutral():
    return face_mesh.neutral_landmarks()


def opened(face, amount):
    face = face.clone()
    lower = [INNER_LIPS[i] for i in face_mesh.LOWER_LIP_POSITIONS]
    face[lower, 1] += amount
    return face


def test_the_neutral_speaker_keeps_its_landmarks(neutral):
    torch.manual_seed(0)
    frames = neutral + 0.01 * torch.randn(5, 468, 2)
    rigid = list(RIGID_POINTS)
    frames[:, rigid] = neutral[rigid]
    torch.testing.assert_close(to_neutral(frames, neutral.expand(5, -1, -1)), frames, atol=1e-6, rtol=0)


def test_a_resting_face_is_the_neutral_face(neutral):
    torch.manual_seed(1)
    other = neutral * torch.tensor([1.1, 0.95]) + 0.001 * torch.randn(468, 2) + 0.02
    expression = to_neutral(other[None], other[None])[0]
    lips = [index for ring in LIP_RINGS for index in ring]
    rest = [index for index in range(468) if index not in lips]
    torch.testing.assert_close(expression[rest], neutral[rest], atol=1e-5, rtol=0)
    # Lips keep their own shape: a mouth that rests open is no closed one.
    gap = other[list(INNER_LIPS)][:, 1] - other[list(OUTER_LIPS)].mean(0)[1]
    torch.testing.assert_close(expression[list(INNER_LIPS), 1] - neutral[list(OUTER_LIPS)].mean(0)[1], gap)


def test_an_opening_is_kept_and_a_width_is_relative_to_the_speakers_own(neutral):
    wide = (neutral - 0.5) * torch.tensor([1.2, 1.0]) + 0.5
    expression = to_neutral(opened(wide, 0.03)[None], wide[None])[0]
    gap = expression[14, 1] - expression[13, 1] - (neutral[14, 1] - neutral[13, 1])
    assert abs(gap.item() - 0.03) < 1e-6
    assert abs((expression[308, 0] - expression[78, 0]) - (neutral[308, 0] - neutral[78, 0])).item() < 1e-4


def test_a_face_that_tips_back_has_the_same_expression(neutral):
    wide = (neutral - 0.5) * torch.tensor([1.2, 1.0]) + 0.5
    talking = opened(wide, 0.02)
    tipped_back = (talking - 0.5) * torch.tensor([1.04, 0.97]) + torch.tensor([0.5, 0.49])
    out = to_neutral(torch.stack([talking, tipped_back]), wide.expand(2, -1, -1))
    torch.testing.assert_close(out[0], out[1], atol=1e-6, rtol=0)


def test_lids_close_by_their_share(neutral):
    small_eyes = neutral.clone()
    upper, lower = list(face_mesh.LEFT_UPPER_LID), list(face_mesh.LEFT_LOWER_LID)
    opening = neutral[lower, 1] - neutral[upper, 1]
    small_eyes[upper, 1] = neutral[lower, 1] - 0.6 * opening
    half = small_eyes.clone()
    half[upper, 1] = small_eyes[lower, 1] - 0.3 * opening
    expression = to_neutral(half[None], small_eyes[None])[0]
    torch.testing.assert_close(expression[lower, 1] - expression[upper, 1], 0.5 * opening, atol=1e-5, rtol=1e-3)


def test_the_resting_face_is_found_among_open_mouths_and_blinks(neutral):
    random = np.random.default_rng(0)
    frames = torch.stack([opened(neutral, float(amount)) for amount in random.uniform(0, 0.06, 200)])
    blinks = frames.clone()  # one eye winks
    upper, lower = list(face_mesh.LEFT_UPPER_LID), list(face_mesh.LEFT_LOWER_LID)
    blinks[::3, upper, 1] = blinks[::3, lower, 1]
    found = resting_face(blinks.numpy())
    assert (found[14, 1] - found[13, 1] - (neutral[14, 1] - neutral[13, 1])).item() < 0.01
    assert (found[lower, 1] - found[upper, 1]).mean() > 0.8 * (neutral[lower, 1] - neutral[upper, 1]).mean()


def test_speakers_are_told_apart(neutral):
    wide = (neutral - 0.5) * torch.tensor([1.2, 1.0]) + 0.5
    expressions = Expressions({"a": neutral, "b": wide})
    out = expressions(torch.stack([neutral, wide]), ["a", "b"])
    torch.testing.assert_close(out[0], out[1], atol=1e-3, rtol=0)
