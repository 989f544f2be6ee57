"""The largest scores over many tensors, in rank order: identical to a stable sort of everything, at a few passes.

A sample of the scores gives a floor that a little more than k of them reach; only those are collected, tensor by
tensor, and sorted. A floor that turns out too high is lowered, so the result never depends on the sample
(`>= threshold` alone is not exactly k under ties).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tailor.errors import PlanError

_SAMPLE = 1 << 20
# A prime, so that sampling in steps of it does not stay in a few columns of a matrix.
_STEP = 97


@dataclass(frozen=True)
class Ranked:
    """The largest scores, best first: `segments` (K,) says in which of `names` each lies, `indices` (K,) where.

    Both are int64; `indices` count the flattened tensor. Every prefix is the selection for a smaller K.
    """

    names: tuple[str, ...]
    segments: Tensor
    indices: Tensor


def ranked_segments(scores: Mapping[str, Tensor], k_max: int) -> Ranked:
    """The `k_max` largest scores (all, where there are fewer); ties go to the earlier tensor, then the earlier index.

    The tensors share a device and a floating type. PlanError for a negative `k_max`, and for NaN, naming the tensor.
    """
    if k_max < 0:
        raise PlanError(f"{k_max} scores cannot be selected", hint="ask for at least one")
    flats = [score.detach().reshape(-1) for score in scores.values()]
    for name, flat in zip(scores, flats, strict=True):
        if flat.numel() and bool(flat.amax().isnan()):  # the maximum hands a NaN on, in one pass
            raise PlanError(
                f"the score of `{name}` is not a number", hint="score again; look for broken weights or images"
            )
    k = min(k_max, sum(flat.numel() for flat in flats))
    if k == 0:
        nothing = torch.zeros(0, dtype=torch.int64)
        return Ranked(tuple(scores), nothing, nothing.clone())
    values, segments, indices = _reaching(flats, k)
    cut = values.topk(k, sorted=False).values.amin()
    above = (values > cut).nonzero().squeeze(1)
    equal = (values == cut).nonzero().squeeze(1)[: k - len(above)]
    order = torch.cat([above[values[above].argsort(descending=True, stable=True)], equal])
    return Ranked(tuple(scores), segments[order], indices[order])


def top(scores: Mapping[str, Tensor], k: int) -> dict[str, Tensor]:
    """The flat indices (int64, ascending) of the `k` largest scores in each tensor; see `ranked_segments`."""
    ranked = ranked_segments(scores, k)
    return {name: ranked.indices[ranked.segments == i].sort().values for i, name in enumerate(ranked.names)}


def _reaching(flats: list[Tensor], k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values, segments and indices, in order, of at least `k` elements that hold the `k` largest."""
    for floor in _floors(flats, k):
        places = [(flat >= floor).nonzero().squeeze(1) for flat in flats]
        if sum(map(len, places)) >= k:
            break
    segments = torch.cat([torch.full_like(place, i) for i, place in enumerate(places)])
    return torch.cat([flat[place] for flat, place in zip(flats, places, strict=True)]), segments, torch.cat(places)


def _floors(flats: list[Tensor], k: int) -> list[float]:
    """Falling guesses of what the `k` largest reach, the last one minus infinity."""
    total = sum(flat.numel() for flat in flats)
    step = _STEP if total > _SAMPLE else 1
    sample = torch.cat([flat[::step] for flat in flats])
    expected = k * len(sample) / total
    ranks = [int(f * expected + 4 * (f * expected) ** 0.5 + 8) for f in (1.0, 2.0, 8.0)]
    ranks = [r for r in ranks if r < len(sample) // 2]
    guesses = sample.topk(ranks[-1]).values[[r - 1 for r in ranks]].tolist() if ranks else []
    return [*guesses, float("-inf")]
