"""The ranking of all weights, and what every cut of it would cost: arithmetic on tensors, no model, no plan.

One selection of the largest scores serves every tau (the released code runs 79 of them).
Each further weight changes the cost by an amount that depends only on how many of its tensor came before it, so the
cost of every tau is one cumulative sum: no grid of taus, and nothing between two taus is missed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tailor.criteria.select import ranked_segments
from tailor.errors import PlanError


@dataclass(frozen=True)
class Ranking:
    """The most sensitive weights, best first: `segment` (K,) says whose each is, `index` (K,) its place inside.

    `complete` says that there is no further weight with a score above zero.
    """

    segment: Tensor
    index: Tensor
    complete: bool

    def __len__(self) -> int:
        return len(self.segment)


@dataclass(frozen=True)
class Terms:
    """What selected weights of each tensor cost: `single` apiece, from `limit` (T,) on `whole` (T,) together."""

    limit: Tensor
    whole: Tensor
    single: int


def curve(ranking: Ranking, terms: Terms, fixed: int) -> Tensor:
    """(K + 1,) int64: the trainable parameters if the best 0, 1, ..., K weights are selected, `fixed` included."""
    segment = ranking.segment
    occurrence = occurrences(segment)
    limit = terms.limit[segment]
    jump = terms.whole[segment] - terms.single * (limit - 1)
    change = torch.where(occurrence == limit, jump, torch.where(occurrence < limit, terms.single, 0))
    return fixed + torch.cat([change.new_zeros(1), change.cumsum(0)])


def occurrences(segment: Tensor) -> Tensor:
    """(K,): how often the value at each place has occurred up to and including it."""
    order = segment.argsort(stable=True)
    counts = torch.bincount(segment)
    before = counts.cumsum(0) - counts
    places = torch.arange(1, len(segment) + 1, device=segment.device)
    result = torch.empty_like(segment)
    result[order] = places - before[segment[order]]
    return result


def rank(scores: Sequence[Tensor], count: int) -> Ranking:
    """The `count` largest scores above zero over all tensors; ties go to the earlier tensor, then the earlier index.

    A weight with a score of zero is no candidate: no gradient would train it.
    """
    if not all(bool(score.isfinite().all()) for score in scores):
        raise PlanError("a score is not finite", hint="score again; look for broken weights or images")
    total = sum(score.numel() for score in scores)
    positive = sum(int((score > 0).sum()) for score in scores)
    ranked = ranked_segments({str(i): score for i, score in enumerate(scores)}, min(count, positive))
    return Ranking(ranked.segments, ranked.indices, count >= total or positive < count)
