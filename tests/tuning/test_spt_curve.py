"""The ranking against Python's own sort, and the cost of every tau against counting."""

import pytest
import torch
from torch import Tensor

from tailor.errors import PlanError
from tailor.tuning.spt.curve import Terms, curve, rank


def scores() -> list[Tensor]:
    """Three tensors with many equal values, some of them zero."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 5, (n,), generator=generator).float() for n in (7, 20, 13)]


def ordered(tensors: list[Tensor]) -> list[tuple[int, int]]:
    places = [(-v, s, i) for s, t in enumerate(tensors) for i, v in enumerate(t.tolist()) if v > 0]
    return [(s, i) for _, s, i in sorted(places)]


def test_the_largest_come_first_and_ties_in_order_at_every_length():
    tensors = scores()
    expected = ordered(tensors)
    assert len(expected) < 40
    for count in range(1, 45):
        ranking = rank(tensors, count)
        assert list(zip(ranking.segment.tolist(), ranking.index.tolist(), strict=True)) == expected[:count]
        assert ranking.complete or count < 40


def test_a_ranking_that_is_not_complete_says_so():
    assert not rank([torch.ones(10)], 9).complete
    assert rank([torch.ones(10)], 10).complete
    assert rank([torch.tensor([1.0, 0.0, 0.0])], 2).complete


@pytest.mark.parametrize("single", [0, 1])
def test_every_tau_costs_what_counting_gives(single):
    ranking = rank(scores(), 40)
    limits, wholes = [3, 8, 100], [6, 8, 50]
    costs = curve(ranking, Terms(torch.tensor(limits), torch.tensor(wholes), single), fixed=5)
    for tau in range(len(ranking) + 1):
        counts = torch.bincount(ranking.segment[:tau], minlength=3).tolist()
        assert costs[tau] == 5 + sum(
            w if n >= limit else single * n for n, limit, w in zip(counts, limits, wholes, strict=True)
        )


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    with pytest.raises(PlanError, match="not finite"):
        rank([torch.ones(3), torch.tensor([1.0, bad])], 2)
