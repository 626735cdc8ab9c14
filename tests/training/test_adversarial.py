"""The painter's adversary: what it judges, what it does not look at, and how much it is heard."""

import pytest
import torch
from accelerate import Accelerator
from adversarial import MOST_WEIGHT, Adversary, MouthDiscriminator, balanced, inside

SIDE = 32


@pytest.fixture(autouse=True)
def fresh_accelerator():
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    torch.manual_seed(0)


def mask():
    """`(4, 1, s, s)`: the lower half of the window is an open mouth."""
    inner = torch.zeros(4, 1, SIDE, SIDE)
    inner[:, :, SIDE // 2 :] = 1
    return inner


def teeth():
    """`(4, 3, s, s)`: bright and dark columns."""
    columns = (torch.arange(SIDE) // 4 % 2).float() * 1.6 - 0.8
    return columns.expand(4, 3, SIDE, SIDE).clone()


def test_answers_are_as_many_as_told():
    mouths = torch.zeros(2, 3, 64, 64)
    assert MouthDiscriminator()(mouths, mouths).shape == (2, 1, 14, 14)


def test_a_painter_that_paints_the_mean_learns_teeth():
    """Where the best mean is grey, the adversary finds the teeth and draws the painting to them."""
    accelerator = Accelerator(cpu=True)
    adversary = Adversary(accelerator, weight=1.0)
    contrast = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([contrast], 0.02)
    reference, pattern = torch.zeros(4, 3, SIDE, SIDE), teeth()
    losses = []
    for _ in range(120):
        painted = contrast * pattern
        # Half of the real mouths have their teeth where the others have their gaps: distances alone say grey.
        real = pattern * torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None, None, None]
        distance = (painted - real).square().mean()
        # At grey the distance has no slope to be weighed against; it is not to be heard less for that.
        others = distance + 0.1 * contrast.sum()
        loss = distance + adversary.loss(painted, reference, mask(), others, contrast)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(adversary.learn(painted, real, reference, mask()).item())
    assert min(losses) < 0.8
    assert contrast.abs().item() > 0.1


def test_only_the_inside_of_the_mouth_is_judged():
    adversary = Adversary(Accelerator(cpu=True), weight=1.0)
    painted, reference = teeth(), torch.zeros(4, 3, SIDE, SIDE)
    real = painted.clone()
    real[:, :, : SIDE // 2] = torch.rand(4, 3, SIDE // 2, SIDE)
    losses = [adversary.learn(painted, real, reference, mask()).item() for _ in range(20)]
    # The two are one picture to it, and the hinge loss of equal answers is at least 1.
    assert min(losses) >= 1 - 1e-2
    assert inside(torch.ones(4, 1, 6, 6), mask()) == pytest.approx(1, abs=0.01)
    values = torch.zeros(4, 1, 6, 6)
    values[:, :, :3] = 1
    assert inside(values, mask()) == 0
    assert inside(values, torch.zeros(4, 1, SIDE, SIDE)) == 0


def test_the_adversary_moves_the_last_layer_as_far_as_the_rest():
    layer = torch.nn.Parameter(torch.ones(3))
    others = (layer * torch.tensor([3.0, 0.0, 4.0])).sum()
    assert balanced(others, 5 * layer[0], layer) == pytest.approx(1)
    assert balanced(others, layer[1] / 4, layer) == pytest.approx(20)
    assert balanced(others, 1e-4 * layer[1], layer) == MOST_WEIGHT  # and not 50,000 times
    assert not balanced(others, layer[1], layer).requires_grad


def test_its_own_weights_have_no_gradient_of_the_painters():
    adversary = Adversary(Accelerator(cpu=True), weight=0.5)
    contrast = torch.nn.Parameter(torch.ones(1))
    painted = contrast * teeth()
    loss = adversary.loss(painted, torch.zeros_like(painted), mask(), painted.square().mean(), contrast)
    loss.backward()
    assert contrast.grad is not None
    assert all(parameter.grad is None and parameter.requires_grad for parameter in adversary.judge.parameters())
