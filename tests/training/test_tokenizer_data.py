"""What the visual tokenizer learns from: crops that are off by a little, and expressions beside a reference."""

import torch
from tokenizer_data import jitter_place
from train_tokenizer import references_as_inputs, relative_expression

from avatarsync import AvatarSyncPipeline
from avatarsync.expression_transfer import ExpressionTransfer
from avatarsync.face_mesh import INNER_LIPS, LIP_RINGS, neutral_landmarks
from avatarsync.lip_edges import LOWER, UPPER


def open_by(face, gap):
    """A face `(468, 2)` whose lips part by `gap` in their middle, the lower one by more."""
    face, bow = face.clone(), torch.sin(torch.linspace(0, torch.pi, 11))[1:-1]
    for ring in LIP_RINGS:
        face[[ring[i] for i in LOWER], 1] += 0.7 * gap * bow
        face[[ring[i] for i in UPPER], 1] -= 0.3 * gap * bow
    return face


def test_beside_a_misjudged_reference_a_relative_expression_leads_to_the_same_face():
    """A long chin taken for a dropped jaw: what the reference's expression is wrong by cancels, also lips ajar."""
    neutral, transfer = neutral_landmarks(), ExpressionTransfer()
    reference = neutral[None] + torch.tensor([0.01, -0.02])
    known = neutral[None]
    wanted = open_by(neutral, 0.06)[None]
    misjudged = open_by(neutral, 0.03)[None] + torch.tensor([0.004, 0.012])
    relative = relative_expression(wanted, misjudged, known)
    right, cancelled, wrong = (
        transfer(reference, *pair) for pair in ((wanted, known), (relative, misjudged), (wanted, misjudged))
    )
    lips = list(INNER_LIPS)
    assert (cancelled - right)[:, lips].abs().max() < 5e-4
    assert (wrong - right)[:, lips].abs().max() > 5e-3
    torch.testing.assert_close(relative_expression(wanted, known, known), wanted)


def test_only_pictures_beside_a_known_reference_are_asked_for_relative_expressions():
    model = AvatarSyncPipeline.from_pretrained().model.visual_tokenizer
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(5, 3, 128, 128, generator=generator) * 2 - 1
    expressions = neutral_landmarks() + 0.01 * torch.randn(5, 468, 2, generator=generator)
    batch = {
        "pixel_values": pictures,
        "own_reference_pixel_values": pictures.flip(3),
        "reference_pixel_values": pictures.flip(2),
        "label_expression": expressions,
        "reference_expression": expressions.flip(0),
        "reference_expression_known": torch.tensor([True, True, True, False, False]),
        "compared": torch.tensor([True, True, False, True, True]),
        "quantize": torch.ones(5, dtype=torch.bool),
    }
    inputs = references_as_inputs(batch, model)
    changed = (inputs["label_expression"] != expressions).flatten(1).any(1)
    assert changed.tolist() == [True, True, False, False, False]
    # Every fourth is the reference itself, seen alone, where its expression is known.
    torch.testing.assert_close(inputs["pixel_values"][0], pictures[0].flip(1))
    torch.testing.assert_close(inputs["own_reference_pixel_values"][0], inputs["pixel_values"][0])
    torch.testing.assert_close(inputs["label_expression"][0], expressions[-1])
    torch.testing.assert_close(inputs["pixel_values"][1:], pictures[1:])
    alone = references_as_inputs(batch, None)
    assert "own_reference_pixel_values" not in alone
    torch.testing.assert_close(alone["label_expression"][1:], expressions[1:])


def test_pictures_that_are_off_alike_stay_alike():
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    off = torch.tensor([[1.0, -1.0, 0.5, 2.0], [0.0, 0.0, 0.0, 0.0]])
    placed = jitter_place(pictures, off)
    torch.testing.assert_close(jitter_place(pictures.flip(0), off.flip(0)).flip(0), placed)
    torch.testing.assert_close(placed[1], pictures[1], atol=1e-4, rtol=0)
    assert (placed[0] - pictures[0]).abs().mean() > 0.05
