"""The solver against `lstsq`, its sums against one pass, and problems that do not determine their map."""

import pytest
import torch
from torch.testing import assert_close

from tailor.errors import DataError
from tailor.ridge import LEAST, Sums, solve


def rows(count=60, inputs=7, targets=4, seed=0, offset=3.0):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(count, inputs, generator=generator, dtype=torch.float64) + offset
    t = a @ torch.randn(inputs, targets, generator=generator, dtype=torch.float64)
    return a, t + 0.3 * torch.randn(count, targets, generator=generator, dtype=torch.float64) - offset


def sums(a, t):
    return Sums.zero(a.shape[-1], t.shape[-1]).add_(a, t)


def reference(a, t):
    solution = torch.linalg.lstsq(torch.cat([a, torch.ones(len(a), 1, dtype=a.dtype)], 1), t).solution
    return solution[:-1].t(), solution[-1]


def test_the_map_is_lstsqs():
    a, t = rows()
    fit = solve(sums(a, t))
    weight, bias = reference(a, t)
    assert_close(fit.weight, weight, rtol=0, atol=1e-10)
    assert_close(fit.bias, bias, rtol=0, atol=1e-10)
    left = t - a @ weight.t() - bias
    assert fit.explained == pytest.approx(1 - float(left.square().sum() / (t - t.mean(0)).square().sum()))
    assert fit.ridge == 0


@pytest.mark.parametrize("cuts", [(60,), (15, 15, 15, 15), (1, 29, 0, 30)])
def test_one_pass_and_merged_shards_are_the_same(cuts):
    a, t = rows()
    parts = [sums(x, y) for x, y in zip(a.split(cuts), t.split(cuts), strict=True)]
    left = parts[0]
    for part in parts[1:]:
        left = left.merge(part)
    right = parts[-1]
    for part in reversed(parts[:-1]):
        right = part.merge(right)
    whole = sums(a, t)
    for merged in (left, right):
        assert merged.rows == whole.rows
        for name in ("gram", "cross", "inputs", "targets", "square"):
            assert_close(getattr(merged, name), getattr(whole, name), rtol=1e-13, atol=1e-12)
        assert_close(solve(merged).weight, solve(whole).weight, rtol=0, atol=1e-11)


def test_leading_dimensions_are_rows_and_narrow_types_are_summed_wide():
    a, t = rows()
    tokens = Sums.zero(7, 4).add_(a.view(5, 12, 7).float(), t.view(5, 12, 4).float())
    assert_close(tokens.gram, a.float().double().t() @ a.float().double(), rtol=0, atol=1e-10)


def test_several_targets_of_the_same_inputs_are_so_many_rows():
    a, t = rows()
    once = Sums.zero(7, 4).add_(a, t, 2 * t - 1)
    twice = sums(a, t).add_(a, 2 * t - 1)
    assert once.rows == twice.rows == 120
    for name in ("gram", "cross", "inputs", "targets", "square"):
        assert_close(getattr(once, name), getattr(twice, name), rtol=1e-13, atol=1e-10)


@pytest.mark.parametrize("count", [5, 60])
def test_inputs_that_do_not_determine_the_map_are_fitted_as_well_as_can_be(count):
    a, t = rows(count)
    a = torch.cat([a, a[:, :2] @ a.new_ones(2, 2)], 1)  # repeated directions, and for 5 rows too few of them
    fit = solve(sums(a, t))
    weight, bias = reference(a, t)
    best = (t - a @ weight.t() - bias).square().sum()
    assert fit.ridge >= LEAST
    assert_close((t - a @ fit.weight.t() - fit.bias).square().sum(), best, rtol=1e-3, atol=1e-3)
    assert fit.weight.abs().max() < 1e3


def test_the_ridge_leaves_the_intercept_alone():
    a, t = rows()
    plain, shifted = solve(sums(a, t), 0.5), solve(sums(a + 100, t + 7), 0.5)
    assert_close(plain.weight, shifted.weight, rtol=0, atol=1e-7)
    assert plain.weight.norm() < solve(sums(a, t)).weight.norm()
    centred = a - a.mean(0)
    spread = centred.square().sum(0).mean()
    expected = torch.linalg.solve(centred.t() @ centred + 0.5 * spread * torch.eye(7).double(), centred.t() @ t).t()
    assert_close(plain.weight, expected, rtol=0, atol=1e-9)


def test_constant_inputs_leave_the_mean():
    t = rows()[1]
    fit = solve(sums(torch.ones(60, 3).double(), t))
    assert_close(fit.weight, torch.zeros(4, 3).double())
    assert_close(fit.bias, t.mean(0))


def test_no_rows_and_numbers_that_are_none_are_refused():
    with pytest.raises(DataError, match="no rows"):
        solve(Sums.zero(3, 2))
    a, t = rows()
    a[3, 1] = float("nan")
    with pytest.raises(DataError, match="not finite"):
        solve(sums(a, t))
