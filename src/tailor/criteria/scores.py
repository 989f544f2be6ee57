"""The elementwise scores: how much a weight matters, from its value and its gradients. Larger means: keep (or tune).

Sources: Taylor (Molchanov et al. 2019), SNIP (Lee et al. 2019), the Hessian's diagonal by the empirical Fisher
(LeCun et al. 1990). Sums over units, and their normalisers, are the pruners' business.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tailor.errors import PlanError


@dataclass(frozen=True)
class Stats:
    """One parameter and its gradients, all of one shape.

    `grad` is the gradient of the loss over the images scored, `squared` the mean over samples of the squared
    per-sample gradient (`squared_gradients` divided by the number of samples).
    """

    weight: Tensor
    grad: Tensor
    squared: Tensor

    def __post_init__(self) -> None:
        if not self.weight.shape == self.grad.shape == self.squared.shape:
            shapes = ", ".join(str(tuple(t.shape)) for t in (self.weight, self.grad, self.squared))
            raise PlanError(
                f"weight, gradient and squared gradient have the shapes {shapes}", hint="score the same model again"
            )


def taylor(stats: Stats) -> Tensor:
    """Change of the loss, to first order, if each element were zero: |w * dL/dw|."""
    return (stats.weight * stats.grad).abs()


def snip(stats: Stats) -> Tensor:
    """Connection sensitivity: a parameter's Taylor scores as shares that sum to 1 (0 where no gradient arrives)."""
    score = taylor(stats)
    return score / score.sum().clamp_min(torch.finfo(score.dtype).tiny)


def hessian(stats: Stats) -> Tensor:
    """Change of the loss, to second order, with the Hessian's diagonal as E[g^2]: w^2 * E[g^2]."""
    return stats.weight.square() * stats.squared


def sensitivity(stats: Stats) -> Tensor:
    """SPT's score, for tuning rather than pruning: E[g^2]."""
    return stats.squared


def magnitude_l1(stats: Stats) -> Tensor:
    """|w|."""
    return stats.weight.abs()


def magnitude_l2(stats: Stats) -> Tensor:
    """w^2, whose sum over a unit is its squared L2 norm."""
    return stats.weight.square()


def random(stats: Stats, generator: torch.Generator) -> Tensor:
    """Uniform in [0, 1): the control. The only score that draws; same generator state, same scores on any device."""
    drawn = torch.rand(stats.weight.shape, generator=generator, device=generator.device, dtype=torch.float32)
    return drawn.to(stats.weight.device)
