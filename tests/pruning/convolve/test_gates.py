"""Gates: what a draw gives and teaches, which operation is left, and what the cost teaches."""

import itertools

import pytest
import torch
from torch.testing import assert_close

from tailor.pruning.convolve.gates import Gates, chosen, cost_of

COSTS = torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64)
EVERY = list(itertools.product([0.0, 1.0], repeat=3))


def by_hand(gates, closing):
    """The operation left, from the definitions: 0 for none, 3 for attention."""
    if closing == "dominant":
        return max((i + 1 for i, g in enumerate(gates) if g), default=0)
    return next((i for i, g in enumerate(gates) if not g), 3)


@pytest.mark.parametrize("closing", ["dominant", "product"])
@pytest.mark.parametrize("gates", EVERY)
def test_one_operation_is_left_and_paid_for(gates, closing):
    weights = chosen(torch.tensor(gates, dtype=torch.float64), closing)
    left = by_hand(gates, closing)
    assert weights.tolist() == [float(i + 1 == left) for i in range(3)]
    price = cost_of(torch.tensor(gates, dtype=torch.float64), COSTS, closing)
    assert price == (COSTS[left - 1] if left else 0)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_of_the_open_gates_only_the_most_expensive_learns_of_the_task(count):
    values = torch.tensor([1.0] * count + [0.0] * (3 - count), dtype=torch.float64, requires_grad=True)
    (chosen(values, "product") * COSTS).sum().backward()
    assert [bool(g) for g in values.grad[:count]] == [False] * (count - 1) + [True]


def test_chances_of_the_operations_at_the_start():
    """Attention 0.818, 3x3 0.149, 1x1 0.027, none 0.006 by the thesis; 0.546, 0.122, 0.149, 0.182 by the code."""
    p = float(torch.tensor(1.5).sigmoid())
    for closing, expected in (("dominant", (0.027, 0.149, 0.818)), ("product", (0.149, 0.122, 0.546))):
        mean = sum(
            chosen(torch.tensor(g, dtype=torch.float64), closing) * p ** sum(g) * (1 - p) ** (3 - sum(g)) for g in EVERY
        )
        assert mean.tolist() == pytest.approx(expected, abs=5e-4)


def test_a_draw_is_bernoulli_and_lets_the_gradient_through():
    gates = Gates(20_000, start=1.0)
    torch.manual_seed(0)
    drawn = gates()
    assert set(drawn.tolist()) == {0.0, 1.0}
    assert float(drawn.detach().mean()) == pytest.approx(float(torch.tensor(1.0).sigmoid()), abs=0.01)
    drawn.sum().backward()
    assert (gates.theta.grad > 0).all()
    torch.manual_seed(0)
    assert_close(gates(), drawn)


def test_without_chance():
    gates = Gates(3).eval()
    with torch.no_grad():
        gates.theta.copy_(torch.tensor([-0.1, 0.1, 2.0]))
    assert gates().tolist() == [0, 1, 1]
    gates.threshold = 1.0
    assert gates().tolist() == [0, 0, 1]
    gates.threshold = 3.0
    assert gates().tolist() == [0, 0, 0]
    gates.never_empty = True
    assert gates().tolist() == [0, 0, 1]


def test_entropy_is_one_bit_at_a_coin_and_nothing_when_decided():
    assert Gates(4, start=0.0).entropy() == pytest.approx(1.0)
    assert Gates(4, start=30.0).entropy() < 1e-9


@pytest.mark.parametrize("closing", ["dominant", "product"])
def test_the_cost_pulls_gates_down(closing):
    gates = Gates(3)
    cost_of(gates.indicators().double(), COSTS, closing).backward()
    assert gates.theta.grad[-1] > 0
