"""The one least-squares solver: an affine map from inputs to targets, from sums that are streamed and merged.

Sums are kept in float64 and take memory for the widths only, however many rows come. Where the inputs do not determine
the map, a ridge does: relative to their mean variance, and never on the intercept. What the rows are (tokens, pixels)
and which problems are solved together is for the caller to say: problems that share a map add their sums.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tailor.errors import DataError

SINGULAR = 1e-12
"""A pivot below this share of the largest says that the inputs do not determine the map (float64 keeps 1e-16)."""
LEAST = 1e-8
"""The ridge that a singular problem gets, a share of the mean variance of the inputs."""


@dataclass
class Sums:
    """What least squares needs of rows `a` (n) and `t` (m): their number, sums and products, in float64.

    `gram` (n, n) is the sum of `a a'`, `cross` (n, m) of `a t'`, `inputs` (n) of `a`, `targets` (m) of `t`, `square`
    (m) of `t * t`.
    """

    rows: int
    gram: Tensor
    cross: Tensor
    inputs: Tensor
    targets: Tensor
    square: Tensor

    @classmethod
    def zero(cls, inputs: int, targets: int, device: torch.device | str = "cpu") -> "Sums":
        """The sums of no rows."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        return cls(0, zeros(inputs, inputs), zeros(inputs, targets), zeros(inputs), zeros(targets), zeros(targets))

    @torch.no_grad()
    def add_(self, inputs: Tensor, *targets: Tensor) -> "Sums":
        """Take in rows: `inputs` (..., n) once for each of `targets` (..., m), which all have as many rows."""
        a = inputs.detach().flatten(0, -2).to(self.gram)
        each = [target.detach().flatten(0, -2).to(self.gram) for target in targets]
        assert all(len(a) == len(t) for t in each), "every row has a target"
        t = each[0] if len(each) == 1 else torch.stack(each).sum(0)
        self.rows += len(a) * len(each)
        self.gram.addmm_(a.t(), a, alpha=len(each))
        self.cross.addmm_(a.t(), t)
        self.inputs += len(each) * a.sum(0)
        self.targets += t.sum(0)
        for target in each:
            self.square += target.square().sum(0)
        return self

    def merge(self, other: "Sums") -> "Sums":
        """The sums of both parts' rows: parts may be taken and merged in any order."""
        return Sums(
            self.rows + other.rows,
            self.gram + other.gram,
            self.cross + other.cross,
            self.inputs + other.inputs,
            self.targets + other.targets,
            self.square + other.square,
        )


@dataclass(frozen=True)
class Fit:
    """The map `t = weight a + bias`: `weight` (m, n), `bias` (m), float64; the `ridge` it took, and `explained`.

    `explained` is the share of the targets' variance over the rows that the map reproduces, from 0 to 1.
    """

    weight: Tensor
    bias: Tensor
    ridge: float
    explained: float


def solve(sums: Sums, ridge: float = 0.0) -> Fit:
    """The map of least squared error over the rows, plus `ridge` times the inputs' mean variance times its square.

    A singular problem takes at least a ridge of `LEAST`. DataError where there is no row or a sum is not finite.
    """
    if not sums.rows:
        raise DataError("a least-squares problem has no rows", hint="give it at least one image")
    if not all(bool(torch.isfinite(part).all()) for part in (sums.gram, sums.cross, sums.square)):
        raise DataError("the activations of a least-squares problem are not finite", hint="look at the weights")
    mean, middle = sums.inputs / sums.rows, sums.targets / sums.rows
    gram = sums.gram - torch.outer(sums.inputs, mean)
    cross = sums.cross - torch.outer(sums.inputs, middle)
    taken, weight = _solved(gram, cross, ridge)
    bias = middle - weight @ mean
    variance = float((sums.square - sums.targets * middle).sum())
    missed = variance - 2 * float((weight.t() * cross).sum()) + float((weight @ gram * weight).sum())
    explained = 1.0 if variance <= 0 else min(max(1 - missed / variance, 0.0), 1.0)
    return Fit(weight, bias, taken, explained)


def _solved(gram: Tensor, cross: Tensor, ridge: float) -> tuple[float, Tensor]:
    """The ridge taken and the weight (m, n) of the centred problem."""
    spread = float(gram.diagonal().mean().clamp_min(0))
    if spread == 0:  # constant inputs: the intercept says it all
        return ridge, torch.zeros_like(cross).t()
    while True:
        factor, failed = torch.linalg.cholesky_ex(gram + ridge * spread * torch.eye(len(gram)).to(gram))
        pivots = factor.diagonal().square()
        if not int(failed) and (float(pivots.min()) > SINGULAR * float(pivots.max()) or ridge >= LEAST):
            return ridge, torch.cholesky_solve(cross, factor).t()
        ridge = max(LEAST, 10 * ridge)
