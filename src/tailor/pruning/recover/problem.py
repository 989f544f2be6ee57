"""One layer's least-squares problem: its sums over the images, and the weights that solve it.

What is solved for is the change of the weights that the cut left, so that a ridge draws towards these and a layer of
which nothing was lost stays as it is. A layer without bias has its offset in the batch norm behind it, or none.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tailor.layer_rows import weight_rows
from tailor.ridge import Sums, solve


@dataclass(frozen=True)
class Solved:
    """The squared error before and after, as shares of the targets' variance, and the largest ridge taken."""

    before: float
    after: float
    ridge: float


@dataclass(frozen=True)
class Problem:
    """Sums of what a layer is given and of what it lacks, one a group of a convolution; `total` (M) and `square` (M)
    are those of its targets."""

    sums: tuple[Sums, ...]
    total: Tensor
    square: Tensor

    @classmethod
    def zero(cls, layer: Any, device: torch.device | str = "cpu") -> "Problem":
        """The problem of no rows."""
        groups, outputs, inputs = weight_rows(layer).shape
        nothing = torch.zeros(groups * outputs, dtype=torch.float64, device=device)
        return cls(tuple(Sums.zero(inputs, outputs, device) for _ in range(groups)), nothing, nothing.clone())

    def add_(self, given: Tensor, made: Tensor, wanted: Tensor) -> "Problem":
        """Take in rows: `given` (r, groups, n), what the layer `made` of them (r, M), and what it should have."""
        wanted = wanted.to(self.total)
        lacking = (wanted - made.to(wanted)).unflatten(1, (len(self.sums), -1))
        for group, sums in enumerate(self.sums):
            sums.add_(given[:, group], lacking[:, group])
        self.total.add_(wanted.sum(0))
        self.square.add_(wanted.square().sum(0))
        return self

    def merge(self, other: "Problem") -> "Problem":
        """The problem of both parts' rows."""
        sums = tuple(a.merge(b) for a, b in zip(self.sums, other.sums, strict=True))
        return Problem(sums, self.total + other.total, self.square + other.square)


@torch.no_grad()
def solve_(layer: Any, problem: Problem, ridge: float, norm: nn.Module | None = None) -> Solved:
    """Give the layer the weights of least error; `norm` is the batch norm right behind it, if there is one.

    The values are set anew, not changed in place: a cut copy may share them with the dense model.
    """
    shifts = layer.bias is not None or norm is not None
    changes, offsets, before, after, taken = [], [], 0.0, 0.0, 0.0
    for sums in problem.sums:
        fit = solve(sums if shifts else _through_origin(sums), ridge)
        offset = fit.bias if shifts else torch.zeros_like(fit.bias)
        changes.append(fit.weight)
        offsets.append(offset)
        before += float(sums.square.sum())
        after += _missed(sums, fit.weight, offset)
        taken = max(taken, fit.ridge)
    layer.weight.data = layer.weight + torch.cat(changes).view_as(layer.weight).to(layer.weight)
    offset = torch.cat(offsets)
    if layer.bias is not None:
        layer.bias.data = layer.bias + offset.to(layer.bias)
    elif isinstance(norm, _BatchNorm) and norm.running_mean is not None:
        norm.running_mean = norm.running_mean - offset.to(norm.running_mean)
    rows = max(problem.sums[0].rows, 1)
    spread = max(float((problem.square - problem.total.square() / rows).sum()), 1e-30)
    return Solved(before / spread, after / spread, taken)


def _through_origin(sums: Sums) -> Sums:
    """The same problem without an intercept: nothing is centred."""
    return replace(sums, inputs=torch.zeros_like(sums.inputs), targets=torch.zeros_like(sums.targets))


def _missed(sums: Sums, weight: Tensor, offset: Tensor) -> float:
    """The squared error of the map, over all rows and outputs."""
    error = sums.square.sum() - 2 * (weight.t() * sums.cross).sum() - 2 * (offset * sums.targets).sum()
    error = error + (weight @ sums.gram * weight).sum() + 2 * (offset * (weight @ sums.inputs)).sum()
    return max(float(error + sums.rows * offset.square().sum()), 0.0)
