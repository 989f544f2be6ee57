"""What every kind of plan promises, over the table: it is carried out, described, added to others, read from JSON."""

import copy
import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

import tiny
from tailor import backbones
from tailor.errors import PlanError
from tailor.plans import PLANS, AnyPlan, Circumstances, pruning, renumbered, tuning
from tailor.tuning import planner

ADAPTER: TypeAdapter[AnyPlan] = TypeAdapter(AnyPlan)


@cache
def model() -> nn.Module:
    return tiny.vit().eval()


def anatomy(of: nn.Module):
    return backbones.describe(of)


def a_tune():
    return planner.plan(model(), anatomy(model()), planner.parse("lora-2"))


def some_layers():
    from tailor.pruning.layers import LayerPlan

    return LayerPlan((0, 2), ("blocks.1",), method="by-hand")


def a_width():
    from tailor.tracing import plan_widths, trace

    groups = trace(model(), (tiny.images(model()),)).groups
    keep = {g.id: tuple(range(0, g.size, 2)) for g in groups.groups if g.label == "hidden"}
    return plan_widths(groups, keep)


def a_route():
    from tailor.stitching.plan import Layer
    from tailor.stitching.route import Continuation, RoutePlan

    return RoutePlan(Continuation("tailor_mini_ti"), "blocks.1", "blocks.9", Layer(0, 1, 32, 64), route="0.1-1.9")


def a_swap():
    from tailor.pruning.convolve.plan import Swap, SwapPlan

    return SwapPlan(
        (Swap("blocks.1.attn", "conv3", 32, 16, 32, (4, 4)), Swap("blocks.2.attn", "none", 32, 16, 32, (4, 4)))
    )


EXAMPLES: dict[str, Callable[[], Any]] = {
    "tune": a_tune,
    "layers": some_layers,
    "width": a_width,
    "route": a_route,
    "swap": a_swap,
}
"""A plan of each kind for the small ViT; a new row of `PLANS` brings its own."""
STORED = {"route"}
"""Kinds that give an architecture alone: a route is picked merged, so its values are all its bundle's."""
MERGED = {"swap"}
"""Kinds before which tunes are folded in: beside the layers they would be lost, so the plan says so."""
made = cache(lambda kind: EXAMPLES[kind]())
KIND = pytest.mark.parametrize("kind", PLANS)
SETTING = Circumstances(("head",), seed=3)


def carried_out(plans, setting=SETTING):
    changed = copy.deepcopy(model())
    for plan in plans:
        assert PLANS[plan.kind].apply_(changed, plan, setting) is changed
    return changed.eval()


@torch.no_grad()
def said(by: nn.Module):
    return by(tiny.images(model()))


@KIND
def test_a_plan_is_carried_out_in_place_and_the_same_each_time(kind):
    plan = made(kind)
    first, second = carried_out([plan]), carried_out([plan])
    assert isinstance(plan, PLANS[kind].plan) and plan.kind == kind
    a, b = first.state_dict(), second.state_dict()
    assert {name: tensor.shape for name, tensor in a.items()} == {name: tensor.shape for name, tensor in b.items()}
    if kind not in STORED:
        assert all(torch.equal(a[name], b[name]) for name in a) and torch.equal(said(first), said(second))
    assert torch.isfinite(said(first)).all()
    if PLANS[kind].trains:
        assert torch.equal(said(first), said(model())), "until it is trained, a tune changes nothing"
        assert any(not p.requires_grad for p in first.parameters())
    else:
        assert not torch.equal(said(first), said(model()))


@KIND
def test_it_is_one_line_for_people_and_plain_values_for_programs(kind):
    plan, row = made(kind), PLANS[kind]
    line = row.line(plan)
    assert line.startswith(f"{kind}: ") and "\n" not in line and "None" not in line
    stored = json.loads(ADAPTER.dump_json(plan))
    summary = row.summary(stored)
    assert summary and json.loads(json.dumps(summary)) == summary


@KIND
def test_it_survives_json_and_nothing_unknown_is_read(kind):
    plan = made(kind)
    text = ADAPTER.dump_json(plan)
    assert ADAPTER.validate_json(text) == plan
    with pytest.raises(ValidationError):
        ADAPTER.validate_json(json.dumps(json.loads(text) | {"surprise": 1}))
    with pytest.raises(ValidationError):
        ADAPTER.validate_json(json.dumps(json.loads(text) | {"kind": "nonsense"}))


@KIND
def test_added_to_none_it_stands_alone(kind):
    blocks = [block.path for block in anatomy(model()).blocks]
    assert PLANS[kind].add((), made(kind), blocks) == (made(kind),)


@pytest.mark.parametrize("kind", [kind for kind, row in PLANS.items() if not row.trains and kind not in STORED])
@pytest.mark.parametrize("method", ["lora-2", "bias"])
def test_added_behind_a_tune_the_plans_still_build_and_the_tunes_still_start_as_nothing(kind, method):
    blocks = [block.path for block in anatomy(model()).blocks]
    tune = planner.plan(model(), anatomy(model()), planner.parse(method))
    added = PLANS[kind].add((tune,), made(kind), blocks)
    if kind in MERGED and tune.tunes:
        with pytest.raises(PlanError, match="no attention with plain"):
            carried_out(added)
        return
    assert len(pruning(added)) == 1 and len(tuning(added)) == 1
    assert (pruning(added)[0].kind, tuning(added)[0].method) == (kind, tune.method)
    both = carried_out(renumbered(added))
    torch.testing.assert_close(said(both), said(carried_out([made(kind)])), rtol=1e-5, atol=1e-5)
    assert any(p.requires_grad for name, p in both.named_parameters() if not name.startswith("head."))


@pytest.mark.parametrize("kind", [kind for kind, row in PLANS.items() if not row.trains])
def test_a_name_after_the_plan_is_that_of_the_same_tensor(kind):
    before, left, after = dict(model().named_parameters()), carried_out([made(kind)]), PLANS[kind].name_after
    now, same = dict(left.named_parameters()), 0
    for name, tensor in before.items():
        moved = now.get(after(made(kind), name))
        if moved is not None and moved.shape == tensor.shape and name.startswith(("blocks.0.", "blocks.2.")):
            assert torch.equal(moved, tensor), name
            same += 1
    assert same > 5 or kind == "route"


def test_blocks_that_move_up_take_their_names_along():
    after = PLANS["layers"].name_after
    assert after(made("layers"), "blocks.2.attn.qkv.weight") == "blocks.1.attn.qkv.weight"
    assert after(made("layers"), "blocks.0.attn.qkv.weight") == "blocks.0.attn.qkv.weight"
    assert after(made("layers"), "norm.weight") == "norm.weight"


def test_what_was_to_train_in_a_block_that_goes_is_left_out():
    blocks = [block.path for block in anatomy(model()).blocks]
    for method in ("lora-2", "bias"):
        tune = planner.plan(model(), anatomy(model()), planner.parse(method))
        (left,) = tuning(PLANS["layers"].add((tune,), made("layers"), blocks))
        before, after = ([*plan.full, *(t.site for t in plan.tunes)] for plan in (tune, left))
        stay = [name for name in before if not name.startswith("blocks.1.")]
        if left.tunes:  # the cut comes first, and its names are those of what is left
            stay = [name.replace("blocks.2.", "blocks.1.") for name in stay]
        assert after == stay and len(after) < len(before)


@pytest.mark.parametrize("kind", ["tune", "route"])
def test_new_modules_are_bounded(kind):
    with pytest.raises(PlanError, match="stored numbers do not fit"):
        carried_out([made(kind)], Circumstances(("head",), most=10))
