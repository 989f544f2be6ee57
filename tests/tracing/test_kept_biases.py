"""Modules that keep position biases for evaluation, as LeViT's: scored batch by batch, copied, and cut afterwards."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import tiny
from tailor.criteria.squared_gradient import squared_gradients
from tailor.pruning.elements import element_scores
from tailor.tracing import cut_, half, plan_widths, settle, trace, verify
from tailor.tracing.widths.checks import check_plan
from tailor.tracing.widths.plan import Recorded, Replay, WidthPlan


@pytest.fixture(scope="module")
def levit():
    sizes = {"embed_dim": (16, 16, 16), "key_dim": 8, "num_heads": (2, 2, 2), "depth": (1, 1, 1)}
    model = timm.create_model("levit_128s", img_size=64, num_classes=tiny.CLASSES, **sizes)
    x = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return tiny.shake_(model).double().eval(), x


def kept(model):
    return [module for module in model.modules() if getattr(module, "attention_bias_cache", None)]


def test_scores_over_several_batches_are_those_of_a_loop_and_the_model_can_be_copied(levit):
    model, x = levit
    y = tiny.labels(4)
    pairs = [(x[:2], y[:2]), (x[2:], y[2:])]
    assert model(x).requires_grad and kept(model)  # someone looked at the model before
    squares = squared_gradients(model, pairs, parameters=None)
    taylor = element_scores(model, squares, "taylor", pairs)
    assert not kept(model)
    copy.deepcopy(model)
    model.train().eval()
    names, parameters = zip(*model.named_parameters(), strict=True)
    each = [
        torch.autograd.grad(F.cross_entropy(model.train().eval()(x[[i, i]]), y[[i, i]]), parameters) for i in range(4)
    ]
    model.train().eval()
    for name, weight, *grads in zip(names, parameters, *each, strict=True):
        assert_close(squares[name], sum(g.square() for g in grads), rtol=1e-8, atol=1e-14)
        assert_close(taylor[name], (weight * sum(grads)).abs().detach(), rtol=1e-8, atol=1e-14)


def test_a_cut_is_exact_after_an_evaluation(levit):
    model, x = levit
    with torch.no_grad():
        model(x)
    traced = settle(model, trace(model, (x[:2],)), (x[:2],))
    plan = plan_widths(traced.groups, half(traced.groups))
    with torch.no_grad():
        model(x)
    assert kept(model)
    cut = cut_(copy.deepcopy(model), plan)
    assert not kept(cut)
    assert verify(model, cut, traced, plan, (x[:2],)).exact


def test_parts_of_a_recorded_split_lie_side_by_side():
    """Four widths of 200 are 800 numbers, not 1,600,000,000."""
    layer = torch.nn.Sequential(torch.nn.Linear(4, 4))
    step = Recorded("split_with_sizes.default", ({"value": 0}, [200] * 4, -1), {})
    check_plan(layer, WidthPlan((), (), replays=(Replay("0", (step,), ({"value": 0},), True),)))
