"""The decision from a curve, and the surgery: a cut model is the whole one with its trailing blocks skipped."""

import copy
import dataclasses

import pytest
import torch
from pydantic import TypeAdapter
from torch.testing import assert_close

import tiny
from tailor.backbones import describe
from tailor.errors import PlanError
from tailor.pruning.layers import LayerPlan, apply_layers_, choose
from tailor.pruning.settings import Sls
from tailor.surgery import changed
from tailor.tuning import planner
from tailor.tuning.apply import apply_, merge_, merges
from tailor.tuning.methods import MODULES, SELECTIONS
from tailor.tuning.methods.vpt_deep import PromptedBlock
from tailor.tuning.plan import without

BLOCKS = tuple(f"blocks.{i}" for i in range(6))
METHODS = {**SELECTIONS, **MODULES}


def kept(curve, alpha=0.5, blocks=BLOCKS, fixed=(), **settings):
    return choose(curve, Sls(alpha, **settings), blocks, fixed)


@pytest.mark.parametrize(
    ("curve", "alpha", "depth", "reason"),
    [
        ((0.1, 0.2, 0.3, 0.5, 0.6, 0.8), 0.5, 4, "block 3 has SC 0.300, below 0.400"),
        ((0.1, 0.9, 0.1, 0.5, 0.6, 0.8), 0.5, 4, "block 3"),  # one bad block stops the walk
        ((0.4, 0.5, 0.6, 0.7, 0.8, 0.8), 0.5, 1, "every block down to 1"),  # a value at the threshold passes
        ((0.1, 0.2, 0.3, 0.5, 0.6, 0.8), 1.0, 6, "block 5"),
        ((-0.5, -0.3, -0.9, 0.0, 0.1, 0.8), -1.0, 4, "block 3 has SC -0.900, below -0.800"),
        ((0.9, 0.9, 0.9, 0.9, 0.9, -0.1), 0.5, 6, "does not separate the classes: SC -0.100"),
        ((0.9, 0.9, 0.9, 0.9, 0.9, 0.0), 0.5, 6, "does not separate the classes"),
        ((-1.0,) * 6, 0.5, 6, "does not separate the classes"),  # constant features everywhere
        ((None, None, 0.1, 0.5, 0.6, 0.8), 0.5, 4, "block 3"),  # what lies below the end need not be known
    ],
)
def test_the_walk_ends_where_it_should(curve, alpha, depth, reason):
    plan = kept(curve, alpha)
    assert plan.kept == tuple(range(depth))
    assert plan.dropped == BLOCKS[depth:]
    assert reason in plan.facts["reason"]
    assert plan.curve == curve


def test_the_walk_is_the_papers_minimum():
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        curve = torch.rand(6, generator=generator).tolist()
        alpha = float(torch.rand((), generator=generator))
        deep = [n for n in range(1, 7) if all(score >= alpha * curve[-1] for score in curve[n - 1 :])]
        assert len(kept(curve, alpha).kept) == min(deep)


def test_a_negative_end_can_shift_the_threshold_instead():
    plan = kept((-0.9, -0.9, -0.2, -0.1, -0.12, -0.1), 0.5, below_zero="shift")  # -0.1 - 0.5 * 0.1
    assert plan.facts["threshold"] == pytest.approx(-0.15)
    assert len(plan.kept) == 4


def test_a_lowest_depth_bounds_the_walk():
    assert len(kept((0.8,) * 6, lowest=3).kept) == 3


def test_blocks_that_resize_maps_stay_and_lists_lose_only_their_tail():
    blocks = ("layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1")
    plan = kept((0.8,) * 6, blocks=blocks, fixed=(0, 2, 5))
    assert plan.dropped == ("layer1.1", "layer2.1")  # layer3.0 stands before one that stays


def test_a_curve_that_ends_too_early_is_no_decision():
    with pytest.raises(PlanError, match="ends before the decision"):
        kept((0.1, None, 0.7, 0.7, 0.8, 0.8))
    with pytest.raises(PlanError, match="5 values for 6 blocks"):
        kept((0.8,) * 5)


@pytest.mark.parametrize("alpha", [-1.1, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(alpha):
    with pytest.raises(PlanError, match="alpha lies between -1 and 1"):
        Sls(alpha)


@pytest.mark.parametrize(
    ("made", "says"), [({"kept": ()}, "no block"), ({"kept": (1, 0)}, "ascending"), ({"kept": (0, 7)}, "block 7 of 2")]
)
def test_plans_that_mean_nothing_are_refused(made, says):
    with pytest.raises(PlanError, match=says):
        LayerPlan(**made)


def test_a_plan_survives_json():
    plan = kept((None, 0.1, 0.3, 0.5, 0.6, 0.8))
    adapter = TypeAdapter(LayerPlan)
    assert adapter.validate_json(adapter.dump_json(plan)) == plan


def plan_for(model, depth, fixed=()):
    blocks = [block.path for block in describe(model).blocks]
    curve = [0.0] * depth + [1.0] * (len(blocks) - depth)
    return choose([*curve[1:], 1.0] if depth else curve, Sls(0.5), blocks, fixed)


def skipping(model, dropped):
    """The whole model, its dropped blocks as if they were not there."""
    for path in dropped:
        block = model.get_submodule(path)
        if isinstance(block, PromptedBlock) and block.leaves and not block.enters:
            block.base = torch.nn.Identity()  # the prompts of other blocks leave here
        else:
            block.register_forward_hook(lambda module, given, output: given[0])
    return model


FIXED = {"resnet": (0, 1, 2, 3)}
DEPTHS = {"vit": (1, 2), "distilled": (2,), "eva": (2,), "swin": (1, 2, 3), "swin2": (2, 3), "convnext": (1, 3)}


@pytest.mark.parametrize(("family", "depth"), [(f, d) for f, depths in DEPTHS.items() for d in depths])
def test_a_cut_model_is_the_whole_one_with_blocks_skipped(family, depth):
    whole = tiny.MODELS[family]().double()
    plan = plan_for(whole, depth)
    assert len(plan.kept) == depth and plan.dropped
    cut = apply_layers_(copy.deepcopy(whole), plan)
    x = tiny.images(whole)
    with torch.no_grad():
        found, expected = cut(x), skipping(whole, plan.dropped)(x)
    assert_close(found, expected, rtol=0, atol=1e-10)
    assert not [n for n in cut.state_dict() if n.startswith(tuple(f"{path}." for path in plan.dropped))]
    assert [block.path for block in describe(cut).blocks] == [
        block.path for i, block in enumerate(describe(whole).blocks) if i in plan.kept
    ]


def test_a_residual_network_loses_what_keeps_its_maps():
    whole = tiny._made("resnet26", 0, 32, layers=(2, 1, 2, 3), channels=(4, 8, 8, 16), stem_width=8).double()
    plan = plan_for(whole, 1, fixed=(0, 2, 3, 5))
    assert plan.dropped == ("layer1.1", "layer3.1", "layer4.1", "layer4.2")
    cut = apply_layers_(copy.deepcopy(whole), plan)
    x = tiny.images(whole)
    with torch.no_grad():
        assert_close(cut(x), skipping(whole, plan.dropped)(x), rtol=0, atol=1e-10)


PLACED = [(kind, family) for kind in METHODS for family in ("vit", "swin") if (kind, family) != ("vpt-shallow", "swin")]


@pytest.mark.parametrize(("kind", "family"), PLACED)
def test_layers_compose_with_every_tuning_method(kind, family):
    """Tuned and then cut; planned for what stays, cut, and given the tensors; both merged where that is possible."""
    plain = tiny.MODELS[family]().double()
    anatomy = describe(plain)
    method = METHODS[kind]()
    off = {f.name: 0.0 for f in dataclasses.fields(method) if f.name in ("dropout", "drop_path")}
    tuning = planner.plan(plain, anatomy, dataclasses.replace(method, **off))
    layers = plan_for(plain, 2)
    whole = tiny.trained_(apply_(copy.deepcopy(plain), tuning, anatomy.heads).eval())
    fewer = without(tuning, [b.path for b in anatomy.blocks], layers.dropped)
    cut = apply_layers_(apply_(copy.deepcopy(plain), fewer, anatomy.heads).eval(), layers)
    known = changed(whole)
    with torch.no_grad():
        for name, tensor in changed(cut).items():
            tensor.copy_(known[name])
    x = tiny.images(plain)
    with torch.no_grad():
        expected = skipping(whole, layers.dropped)(x)
        assert_close(cut(x), expected, rtol=0, atol=1e-10)
        if merges(fewer):
            assert_close(merge_(cut, fewer)(x), expected, rtol=0, atol=1e-10)
    assert not [t for t in fewer.tunes if t.path.startswith(layers.dropped)]
    assert not [n for n in fewer.full if n.startswith(layers.dropped)]


@pytest.mark.parametrize("depth", [1, 2])
def test_prompts_that_travel_leave_after_the_last_block_that_stays(depth):
    plain = tiny.vit(class_token=False, global_pool="avg", fc_norm=False)
    anatomy = describe(plain)
    tuning = planner.plan(plain, anatomy, METHODS["vpt-shallow"]())
    layers = plan_for(plain, depth)
    fewer = without(tuning, [b.path for b in anatomy.blocks], layers.dropped)
    assert fewer.tunes[-1].site == f"blocks.{depth - 1}" and fewer.tunes[-1].geometry.leaves
    cut = apply_layers_(apply_(copy.deepcopy(plain), fewer, anatomy.heads).eval(), layers)
    seen = []
    cut.norm.register_forward_hook(lambda module, given, output: seen.append(given[0].shape[1]))
    cut(tiny.images(plain))
    assert seen == [16]


def test_sparse_entries_of_dropped_blocks_are_forgotten():
    from tailor.tuning.plan import Entries, TunePlan

    entries = tuple(Entries(f"blocks.{i}.mlp.fc1.weight", (0, 5)) for i in range(3))
    fewer = without(TunePlan("by-hand", entries=entries), BLOCKS[:3], ("blocks.2",))
    assert [e.tensor for e in fewer.entries] == ["blocks.0.mlp.fc1.weight", "blocks.1.mlp.fc1.weight"]


def test_cutting_twice_composes():
    model, x = tiny.vit(depth=4).double(), None
    x = tiny.images(model)
    twice = apply_layers_(copy.deepcopy(model), plan_for(model, 3))
    apply_layers_(twice, plan_for(twice, 2))
    once = apply_layers_(copy.deepcopy(model), plan_for(model, 2))
    with torch.no_grad():
        assert_close(twice(x), once(x), rtol=0, atol=0)


def test_a_plan_for_another_or_an_already_cut_model_is_refused():
    model = tiny.vit()
    plan = plan_for(model, 2)
    apply_layers_(model, plan)
    with pytest.raises(PlanError, match=r"no module `blocks\.2`"):
        apply_layers_(model, plan)
    with pytest.raises(PlanError, match="`head` is not a block"):
        apply_layers_(model, LayerPlan((0, 1), ("head",)))
