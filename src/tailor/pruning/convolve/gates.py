"""Binary gates that train: Bernoulli draws with a straight-through gradient, and which operation their values open.

A gate's chance is sigmoid(theta). A draw is binary-concrete: 1 where logit(u) + theta > 0, with the gradient of the
sigmoid of that. Drawn from torch's default generator in train mode, once for the whole batch; in eval mode fixed.
"""

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from tailor.pruning.convolve.plan import Closing


class Gates(nn.Module):
    """`count` gates, all starting at `start`; open in eval mode where theta lies above `threshold`.

    With `never_empty` the largest stays open where none is.
    """

    def __init__(self, count: int, start: float = 1.5, never_empty: bool = False) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.full((count,), float(start)))
        self.threshold = 0.0
        self.never_empty = never_empty

    def forward(self) -> Tensor:
        """Their values (count,), 0 or 1."""
        if not self.training:
            return self.opened().to(self.theta.dtype)
        drawn = torch.rand_like(self.theta).clamp(1e-6, 1 - 1e-6)
        logits = torch.logit(drawn) + self.theta
        soft = logits.sigmoid()
        return (logits > 0).to(soft.dtype) + (soft - soft.detach())

    @torch.no_grad()
    def opened(self) -> Tensor:
        """Which of them (count,) are open without chance."""
        opened = self.theta > self.threshold
        if self.never_empty and not opened.any():
            opened[self.theta.argmax()] = True
        return opened

    def indicators(self) -> Tensor:
        """`opened` as 0 or 1, with the gradient of sigmoid(chance - 1/2): what the cost is counted on."""
        soft = (self.theta.sigmoid() - 0.5).sigmoid()
        return self.opened().to(soft.dtype) + (soft - soft.detach())

    def chances(self) -> Tensor:
        """The probability (count,) that each is open in a draw."""
        return self.theta.sigmoid()

    @torch.no_grad()
    def entropy(self) -> float:
        """Mean entropy of a gate in bits: 0 where all are decided."""
        p = self.theta.double().sigmoid().clamp(1e-12, 1 - 1e-12)
        return float(-(p * p.log() + (1 - p) * (1 - p).log()).mean() / math.log(2))


def chosen(gates: Tensor, closing: Closing) -> Tensor:
    """The weights (operations,) of operations in order of cost that their gates (operations,) leave: at most one is 1.

    `dominant` (the thesis): the most expensive with an open gate. `product` (the released code): an operation needs the
    gates of all cheaper ones open as well, and only the most expensive open gate gets the task's gradient.
    """
    if closing == "dominant":
        return gates * _none_above(gates)
    opened: list[Tensor] = []
    for gate in gates:
        if opened and float((opened[-1] * gate).detach()) > 0.5:
            opened[-1] = opened[-1].detach()
        opened.append(opened[-1] * gate if opened else gate)
    stacked = torch.stack(opened)
    return stacked * _none_above(stacked)


@cache
def needed(opened: tuple[bool, ...], closing: Closing) -> tuple[bool, ...]:
    """Of which operations a training step needs the output, where these gates are open.

    Those with a weight, and those whose weight some gate would move: the others change neither output nor gradient.
    """
    with torch.inference_mode(False), torch.enable_grad():
        gates = torch.tensor([float(one) for one in opened], requires_grad=True)
        weights = chosen(gates, closing)
        moved = [torch.autograd.grad(weight, gates, retain_graph=True)[0] for weight in weights]
    return tuple(bool(weight) or bool(by.any()) for weight, by in zip(weights, moved, strict=True))


class Weighed(torch.autograd.Function):
    """The sum of branches (B, N, C) by weights (branches,), most of which are 0.

    The gradient of a weight needs its branch, that of a branch only its weight: a branch of weight 0 gets none, and may
    have been computed without a graph.
    """

    @staticmethod
    def forward(ctx: Any, weights: Tensor, *branches: Tensor) -> Tensor:
        """(B, N, C)."""
        ctx.save_for_backward(weights, *branches)
        shares = weights.tolist()
        used = [b if share == 1 else share * b for share, b in zip(shares, branches, strict=True) if share]
        return sum(used[1:], used[0]) if used else torch.zeros_like(branches[0])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Of the weights and of each branch."""
        weights, *branches = ctx.saved_tensors
        own = torch.stack([(gradient * b).sum() for b in branches]).to(weights.dtype)
        wanted = zip(weights.tolist(), branches, ctx.needs_input_grad[1:], strict=True)
        return own, *(share * gradient.to(b.dtype) if share and asked else None for share, b, asked in wanted)


def cost_of(gates: Tensor, costs: Tensor, closing: Closing) -> Tensor:
    """What the operation that `gates` (operations,) open costs, of `costs` (operations,) in order; differentiable."""
    if closing == "dominant":
        return (gates * _none_above(gates) * costs).sum()
    steps = torch.diff(costs, prepend=costs.new_zeros(1))
    return (gates.cumprod(0) * steps).sum()


def _none_above(gates: Tensor) -> Tensor:
    """For each gate, the product of 1 - gate over those behind it."""
    closed = (1 - gates).flip(0).cumprod(0).flip(0)
    return torch.cat([closed[1:], closed.new_ones(1)])
