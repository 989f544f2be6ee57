"""Scores: a number per weight, unit or block. A new elementwise score is one function and one row of `CRITERIA`."""

from collections.abc import Callable

from torch import Tensor

from tailor.criteria.scores import Stats, hessian, magnitude_l1, magnitude_l2, sensitivity, snip, taylor

Criterion = Callable[[Stats], Tensor]

# `scores.random` stands beside the table: it takes a generator as well.
CRITERIA: dict[str, Criterion] = {
    "taylor": taylor,
    "magnitude-l1": magnitude_l1,
    "magnitude-l2": magnitude_l2,
    "hessian": hessian,
    "snip": snip,
    "sensitivity": sensitivity,
}
