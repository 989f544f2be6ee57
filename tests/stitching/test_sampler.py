"""The sampler: intervals, warm-up, the corrected average, the draw as a function of seed and step, what is deployed."""

import numpy as np
import pytest
import torch
from test_route_cost import large, pieces_of  # noqa: F401
from torch.testing import assert_close

from tailor.errors import PlanError, TrainingError
from tailor.stitching.cost import costs
from tailor.stitching.sampler import Sampler, Sampling, intervals_of

COSTS = [10, 20, 30, 12, 15, 21, 22, 29, 40]


def made(steps=1000, **settings):
    return Sampler(COSTS, 3, steps, Sampling(**{"intervals": 4, **settings}), seed=5)


def test_fifteen_intervals_of_vits(large):  # noqa: F811
    found = intervals_of(costs(*large), 3, 15)
    assert [len(members) for members in found] == [9, 12, 12, 1, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4]
    assert found[3] == (1,)


def test_intervals_hold_every_route_once_and_what_is_outside_at_the_ends():
    found = intervals_of(COSTS, 3, 4)
    assert sorted(route for members in found for route in members) == list(range(9))
    assert found == ((0, 3), (4,), (1, 5, 6), (2, 7, 8))
    assert intervals_of([7, 7, 7], 3, 5) == ((0, 1, 2),)


@pytest.mark.parametrize(("steps", "expected"), [(1000, 100), (200, 45), (100, 25), (0, 0)])
def test_warm_up_is_a_tenth_or_five_visits_and_at_most_a_quarter(steps, expected):
    assert made(steps).warmup == expected


def test_scores_are_averages_corrected_for_their_start():
    sampler = made()
    values = [4.0, 1.0, 7.0]
    for value in values:
        sampler.visit(6, value)
    weights = [0.1 * 0.9**age for age in (2, 1, 0)]
    assert float(sampler.scores[6]) == pytest.approx(np.average(values, weights=weights))
    sampler.visit(2, 3.0)
    assert float(sampler.scores[2]) == pytest.approx(3.0)
    assert sampler.scores[[0, 1, 3]].tolist() == [0, 0, 0]


def test_draws_follow_from_seed_step_and_scores():
    one, other = made(), made()
    one.visit(6, 2.0)
    one.visit(5, 1.0)
    other.load({name: tensor.clone() for name, tensor in one.state().items()})
    assert [one.draw(s) for s in range(0, 1000, 7)] == [other.draw(s) for s in range(0, 1000, 7)]
    other.seed = 6
    assert [one.draw(s) for s in range(100)] != [other.draw(s) for s in range(100)]


def test_after_the_warm_up_intervals_are_uniform_and_their_members_by_importance():
    sampler = made(steps=40_000)
    for route, score in ((1, 1.0), (5, 2.0), (6, 3.0)):
        sampler.visit(route, score)
    drawn = np.bincount([sampler.draw(step) for step in range(10_000, 22_000)], minlength=9) / 12_000
    for members in sampler.intervals:
        own = 0.2 if 0 in members else 0.0  # the smallest anchor, whose head nobody else trains
        assert drawn[list(members)].sum() == pytest.approx(0.2 + own, abs=0.02)
    z = torch.tensor([-1.0, 0.0, 1.0]).double() * 1.5**0.5  # standardised within the interval
    assert_close(torch.from_numpy(drawn[[1, 5, 6]] * 5), torch.softmax(z, 0), rtol=0, atol=0.03)
    assert drawn[0] - 0.2 == pytest.approx(drawn[3], abs=0.02)  # never visited: as good as any
    early = np.bincount([sampler.draw(step) for step in range(4000)], minlength=9) / 4000
    assert early == pytest.approx(np.full(9, 1 / 9), abs=0.02)
    uniform = made(steps=40_000, kind="uniform")
    late = np.bincount([uniform.draw(step) for step in range(30_000, 36_000)], minlength=9) / 6000
    assert late == pytest.approx(np.full(9, 1 / 9), abs=0.02)


def test_the_most_important_of_every_interval_is_deployed():
    sampler = made()
    for route, score in ((3, 1.0), (5, 2.0), (6, 3.0), (2, 1.0), (7, 1.0)):
        sampler.visit(route, score)
    assert sampler.deployed() == (3, 4, 6, 2)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(PlanError, match="20 intervals are more than the palette's 9 routes"):
        made(intervals=20)
    with pytest.raises(PlanError, match="out of range"):
        Sampling(momentum=1.0)
    with pytest.raises(TrainingError, match="saliency of a route is nan"):
        made().visit(1, float("nan"))
    with pytest.raises(TrainingError, match="other routes"):
        made().load({"averages": torch.zeros(3), "visited": torch.zeros(3)})
