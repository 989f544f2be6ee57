"""By what weights are ranked before a budget is placed: SPT's sensitivity, and the controls that its claim needs.

A criterion is a row: a pure function of a backbone's weights and of the squared gradients (empty where it `sees` no
images). What follows, the rule and the arithmetic of the budget, is the same for all. `random-sites` ranks matrices
rather than weights, so that modules land on matrices drawn by lot.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tailor.anatomy import Anatomy
from tailor.criteria.scores import Stats, hessian, magnitude_l1, sensitivity
from tailor.criteria.scores import random as drawn
from tailor.surgery import get_parameter
from tailor.tuning.spt.candidates import candidates
from tailor.tuning.spt.scores import Scores

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Placement:
    """One criterion: `score(weights, squares, anatomy, seed)` gives a score a weight, by parameter.

    `sees` says that it needs the squared gradients; without them `squares` is empty. `draws`, that the seed counts.
    """

    score: Callable[[Tensors, Tensors, Anatomy, int], dict[str, Tensor]]
    sees: bool = False
    draws: bool = False


def placed(criterion: str, model: nn.Module, anatomy: Anatomy, squares: Scores | None, seed: int) -> Scores:
    """The scores by which `criterion` ranks the candidates of `model`, the plain backbone; facts say which it was.

    `squares` are the squared gradients, which a criterion that `sees` must be given.
    """
    row = PLACEMENTS[criterion]
    names = dict.fromkeys(c.tensor for c in candidates(anatomy))
    weights = {name: get_parameter(model, name).detach().float() for name in names}
    facts: dict[str, str | int | float] = {"criterion": criterion}
    if row.draws:
        facts["criterion_seed"] = seed
    if row.sees:
        assert squares is not None, "a criterion that sees images is given their squared gradients"
        facts = {**squares.facts, **facts}
    return Scores(row.score(weights, squares.tensors if squares and row.sees else {}, anatomy, seed), facts)


def _sensitivity(weights: Tensors, squares: Tensors, anatomy: Anatomy, seed: int) -> dict[str, Tensor]:
    """g^2, summed over the images."""
    return {name: sensitivity(_stats(weights[name], squared)) for name, squared in squares.items()}


def _taylor(weights: Tensors, squares: Tensors, anatomy: Anatomy, seed: int) -> dict[str, Tensor]:
    """(w g)^2, summed over the images: of each image what its loss changes by, to first order, without the weight."""
    return {name: hessian(_stats(weights[name], squared)) for name, squared in squares.items()}


def _magnitude(weights: Tensors, squares: Tensors, anatomy: Anatomy, seed: int) -> dict[str, Tensor]:
    """|w|."""
    return {name: magnitude_l1(_stats(weight, weight)) for name, weight in weights.items()}


def _random(weights: Tensors, squares: Tensors, anatomy: Anatomy, seed: int) -> dict[str, Tensor]:
    """Uniform in [0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    return {name: drawn(_stats(weight, weight), generator) for name, weight in weights.items()}


def _random_sites(weights: Tensors, squares: Tensors, anatomy: Anatomy, seed: int) -> dict[str, Tensor]:
    """One number a matrix, drawn without repetition; vectors have none, so they never train."""
    found = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    matrices = [c for c in candidates(anatomy) if c.site is not None]
    order = torch.randperm(len(matrices), generator=torch.Generator().manual_seed(seed))
    for candidate, place in zip(matrices, order.tolist(), strict=True):
        candidate.view(found).fill_(1 + place)
    return found


def _stats(weight: Tensor, squared: Tensor) -> Stats:
    return Stats(weight, torch.zeros_like(weight), squared.to(weight.device))


PLACEMENTS = {
    "sensitivity": Placement(_sensitivity, sees=True),
    "taylor": Placement(_taylor, sees=True),
    "magnitude": Placement(_magnitude),
    "random": Placement(_random, draws=True),
    "random-sites": Placement(_random_sites, draws=True),
}
"""By the name that `--criterion` takes."""
