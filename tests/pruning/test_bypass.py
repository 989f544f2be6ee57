"""A linear map in place of dropped blocks: it starts as their absence, keeps the count of blocks, and is solved for."""

import copy

import pytest
import torch
from torch.testing import assert_close

import tiny
from tailor import backbones
from tailor.errors import PlanError
from tailor.pruning.bypass import Bypass, bypasses
from tailor.pruning.layers import LayerPlan, apply_layers_
from tailor.pruning.recover import repair_
from tailor.pruning.recover.places import left_as
from tailor.pruning.settings import Repair
from tailor.ridge import Sums, solve
from tailor.tracing import cut, half, plan_widths, settle, trace

FAMILIES = {
    "vit": (lambda: tiny.vit(depth=5), (1, 2, 4)),
    "eva": (lambda: tiny.eva(), (1,)),
    "swin": (lambda: tiny.swin(), (1, 3)),
    "convnext": (lambda: tiny.convnext(depths=(1, 1, 3, 1)), (3, 4)),
    "resnet": (lambda: tiny.resnet(layers=(1, 3, 1, 1)), (2, 3)),
}
EACH = pytest.mark.parametrize("family", FAMILIES)


def bridged(model, indices):
    blocks = backbones.describe(model).blocks
    dropped = tuple(blocks[i].path for i in indices)
    kept = tuple(i for i in range(len(blocks)) if i not in indices)
    return LayerPlan(kept, dropped, bypasses=bypasses(blocks, dropped))


def images(model, count=3):
    return lambda: (tiny.images(model, 4, seed) for seed in range(count))


@EACH
def test_it_starts_as_if_nothing_stood_there(family):
    make, indices = FAMILIES[family]
    model, given = make().eval(), None
    plan, given = bridged(model, indices), tiny.images(model)
    bare = apply_layers_(copy.deepcopy(model), LayerPlan(plan.kept, plan.dropped))
    with_map = apply_layers_(copy.deepcopy(model), plan)
    with torch.no_grad():
        assert_close(with_map(given), bare(given), rtol=0, atol=1e-6)
        assert_close(backbones.parts(with_map)(given), with_map(given), rtol=0, atol=1e-5)
    assert len(backbones.describe(with_map).blocks) == len(plan.kept)
    assert all(p.requires_grad for p in with_map.get_submodule(left_as(plan.bypasses[0].path, [plan])).parameters())


@EACH
def test_the_map_is_least_squares_of_what_the_blocks_did(family):
    make, indices = FAMILIES[family]
    model = make().eval()
    plan = bridged(model, indices)
    first = plan.bypasses[0]
    short = apply_layers_(copy.deepcopy(model), plan)
    before = {name: tensor.clone() for name, tensor in short.state_dict().items()}
    done = repair_(short, model, [plan], images(model), Repair(layers="bypass"))
    paths = [left_as(bypass.path, [plan]) for bypass in plan.bypasses]
    assert [layer.path for layer in done.layers] == paths
    assert all(layer.after < layer.before for layer in done.layers)
    rows = {"given": [], "made": []}
    block, last = model.get_submodule(first.blocks[0]), model.get_submodule(first.blocks[-1])
    handles = [
        block.register_forward_pre_hook(lambda m, args: rows["given"].append(args[0])),
        last.register_forward_hook(lambda m, args, made: rows["made"].append(made)),
    ]
    with torch.no_grad():
        for x in images(model)():
            model(x)
    for handle in handles:
        handle.remove()
    a, t = (torch.cat([x.movedim(1, -1) if first.spatial else x for x in rows[key]]) for key in rows)
    fit = solve(Sums.zero(a.shape[-1], t.shape[-1]).add_(a, t - a), 1e-2)
    expected = fit.weight + torch.eye(first.width)
    assert_close(short.get_submodule(paths[0]).weight.flatten(1).double(), expected, rtol=1e-3, atol=1e-4)
    inside = tuple(f"{path}." for path in paths)
    moved = {name for name, tensor in short.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved and all(name.startswith(inside) for name in moved)


@pytest.mark.parametrize(("dropped", "repaired"), [((2,), ("blocks.2", "blocks.3", "head")), ((3, 4), ("head",))])
def test_without_a_map_the_layers_behind_dropped_blocks_make_up_for_them(dropped, repaired):
    model = tiny.vit(depth=5).eval()
    kept = tuple(i for i in range(5) if i not in dropped)
    plan = LayerPlan(kept, tuple(f"blocks.{i}" for i in dropped))
    short = apply_layers_(copy.deepcopy(model), plan)

    def error():
        with torch.no_grad():
            return sum(float((short.eval()(x) - model(x)).square().sum()) for x in images(model)())

    before = error()
    done = repair_(short, model, [plan], images(model))
    assert {layer.path.removesuffix(".mlp.fc2") for layer in done.layers} >= set(repaired)
    assert all(layer.path.startswith(repaired) for layer in done.layers)
    assert error() < 0.5 * before


def test_behind_a_cut_it_makes_the_channels_that_are_left():
    model = tiny.vit(depth=4).eval()
    example = (tiny.images(model),)
    groups = settle(model, trace(model, example), example).groups
    width = plan_widths(groups, half(groups))
    narrow = cut(model, width)
    plan = bridged(narrow, (1, 2))
    assert plan.bypasses[0].width == 16
    short = apply_layers_(copy.deepcopy(narrow), plan)
    done = repair_(short, model, [width, plan], images(model))
    assert "blocks.1" in {layer.path for layer in done.layers} and not done.skipped
    assert all(layer.after <= layer.before for layer in done.layers)


def test_names_behind_it_and_what_cannot_be():
    model = tiny.vit(depth=5)
    plan = bridged(model, (1, 2))
    assert plan.bypasses == (Bypass(("blocks.1", "blocks.2"), 32),) and plan.gone == ("blocks.1",)
    assert [left_as(f"blocks.{i}", [plan]) for i in range(5)] == ["blocks.0", None, "blocks.1", "blocks.2", "blocks.3"]
    with pytest.raises(PlanError, match="100 stored numbers do not fit"):
        apply_layers_(model, plan, most=100)
    with pytest.raises(PlanError, match="where no block was dropped"):
        LayerPlan((0, 1), ("blocks.2",), bypasses=(Bypass(("blocks.1",), 32),))
    with pytest.raises(PlanError, match="no block"):
        Bypass((), 32)
