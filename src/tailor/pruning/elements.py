"""Scores of single weights for the width methods: what they take from the model, its gradients and its data.

Gradients as in Isomorphic Pruning's code: in eval mode, of the task's plain loss (cross-entropy without smoothing),
summed with their signs over the batches before anything is multiplied; the Hessian's diagonal from per-sample squared
gradients.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tailor.criteria import CRITERIA
from tailor.criteria.samples import Loss, called, count, cross_entropy, placed, summed
from tailor.criteria.scores import Stats
from tailor.criteria.squared_gradient import squared_gradients
from tailor.errors import ModelError, PlanError, UsageError, nearest
from tailor.surgery import eval_mode, forget_

NAMES: Mapping[str, str] = {"l1": "magnitude-l1", "l2": "magnitude-l2", "taylor": "taylor", "hessian": "hessian"}
"""The criteria that score single weights, by their names on the command line."""
KNOWN = (*NAMES, "salience", "random")
"""All of them: `salience` scores units, `random` draws."""
DATA = ("taylor", "hessian", "salience")
"""Those that need labelled images."""
INSTEAD = "use `--criterion taylor`, which asks only for the gradients of the weights"
"""A hint where a criterion cannot see into a model."""


@dataclass(frozen=True)
class Pairs:
    """Labelled images as (images (B, 3, H, W), labels (B,)), made anew at every pass."""

    make: Callable[[], Iterable[Any]]

    def __iter__(self) -> Any:
        for batch in self.make():
            yield batch.images, batch.targets


def element_scores(
    model: nn.Module,
    names: Iterable[str],
    criterion: str,
    pairs: Iterable[tuple[Any, Any]] | None,
    loss: Loss = cross_entropy,
) -> dict[str, Tensor]:
    """The criterion's score of every element of the named parameters, in their shapes.

    `pairs` are inputs and targets of any kind, `loss` the task's, one number a sample.
    """
    if criterion not in NAMES:
        raise UsageError(f"unknown criterion `{criterion}`", hint=nearest(criterion, KNOWN))
    if criterion in DATA and pairs is None:
        raise UsageError(f"`{criterion}` needs labelled images", hint="add `--data DATA`, or use `--criterion l1`")
    known = dict(model.named_parameters())
    weights = {name: known[name].detach() for name in names if name in known}
    zeros = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    first, second = zeros, zeros
    if criterion == "taylor":
        assert pairs is not None
        first = gradients(model, weights, pairs, loss)
    elif criterion == "hessian":
        assert pairs is not None
        second = _squares(model, weights, pairs, loss)
    score = CRITERIA[NAMES[criterion]]
    return {name: score(Stats(weight, first[name], second[name])) for name, weight in weights.items()}


def _squares(model: nn.Module, names: Iterable[str], pairs: Iterable[tuple[Any, Any]], loss: Loss) -> dict[str, Tensor]:
    """Squared per-sample gradients; PlanError where code of the model or of a tune hides them."""
    try:
        return squared_gradients(model, pairs, parameters=tuple(names), loss=loss)
    except ModelError as error:
        raise PlanError(f"`hessian` cannot score this model: {error.message}", hint=INSTEAD) from None


def gradients(
    model: nn.Module, names: Iterable[str], pairs: Iterable[tuple[Any, Any]], loss: Loss = cross_entropy
) -> dict[str, Tensor]:
    """The gradient of the loss, summed over all samples, of each named parameter; the model stays as it was."""
    known = dict(model.named_parameters())
    wanted = {name: known[name] for name in names}
    before = {name: p.requires_grad for name, p in known.items()}
    place = next(iter(wanted.values()))
    sums = {name: torch.zeros_like(p, requires_grad=False) for name, p in wanted.items()}
    seen = 0
    try:
        for name, parameter in known.items():
            parameter.requires_grad_(name in wanted)
        with eval_mode(model):
            for inputs, targets in pairs:
                samples = count(inputs)
                seen += samples
                output = called(forget_(model), placed(inputs, place.device, place.dtype))
                whole = summed(loss, output, placed(targets, place.device), samples)
                found = torch.autograd.grad(whole, list(wanted.values()), allow_unused=True)
                for total, grad in zip(sums.values(), found, strict=True):
                    if grad is not None:
                        total += grad
    finally:
        for name, parameter in known.items():
            parameter.requires_grad_(before[name])
    if not seen:
        raise PlanError("there is no image to score the weights on", hint="give at least one")
    return sums
