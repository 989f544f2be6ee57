"""Laws of the elementwise scores, run over the table; and what each says about a loss where it is exact."""

import pytest
import torch
from torch.testing import assert_close

from tailor.criteria import CRITERIA
from tailor.criteria.scores import Stats, hessian, magnitude_l2, random, snip, taylor
from tailor.errors import PlanError


def stats(seed: int = 0) -> Stats:
    generator = torch.Generator().manual_seed(seed)
    weight, grad, squared = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    return Stats(weight, grad, squared.square())


@pytest.mark.parametrize("name", CRITERIA)
def test_a_score_is_not_negative_has_the_parameters_shape_and_changes_nothing(name):
    given = stats()
    before = [t.clone() for t in (given.weight, given.grad, given.squared)]
    score = CRITERIA[name](given)
    assert score.shape == given.weight.shape and bool((score >= 0).all()) and bool(score.any())
    assert_close([given.weight, given.grad, given.squared], before, rtol=0, atol=0)


@pytest.mark.parametrize("name", CRITERIA)
def test_signs_do_not_matter(name):
    given = stats()
    assert_close(CRITERIA[name](given), CRITERIA[name](Stats(-given.weight, -given.grad, given.squared)))


def test_taylor_is_the_exact_change_of_a_linear_loss():
    w = torch.tensor([2.0, -3.0, 0.5])
    slope = torch.tensor([1.0, 4.0, -6.0])
    change = torch.stack([(slope * w).sum() - (slope * w.index_fill(0, torch.tensor(i), 0)).sum() for i in range(3)])
    assert_close(taylor(Stats(w, slope, slope**2)), change.abs())


def test_snip_shares_sum_to_one_and_rank_as_taylor():
    given = stats()
    assert_close(snip(given).sum(), torch.ones((), dtype=torch.float64))
    assert torch.equal(snip(given).flatten().argsort(), taylor(given).flatten().argsort())
    assert not snip(Stats(given.weight, torch.zeros_like(given.grad), given.squared)).any()


def test_the_hessian_score_weighs_squares():
    given = stats()
    assert_close(hessian(given), magnitude_l2(given) * given.squared)


def test_random_repeats_with_its_generator():
    given = stats()
    draw = lambda seed: random(given, torch.Generator().manual_seed(seed))  # noqa: E731
    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))
    assert bool((draw(1) >= 0).all()) and bool((draw(1) < 1).all())


def test_other_shapes_are_refused():
    given = stats()
    with pytest.raises(PlanError, match=r"shapes \(4, 5\), \(4, 5\), \(4,\)"):
        Stats(given.weight, given.grad, given.squared[:, 0])
