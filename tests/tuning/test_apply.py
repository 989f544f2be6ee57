"""Applying and undoing plans: several methods at one place, ranges, modes, and plans that do not fit."""

import copy

import pytest
import torch
from torch.testing import assert_close

import tiny
from tailor.errors import PlanError
from tailor.surgery import trainable
from tailor.tuning.apply import apply_, merge_
from tailor.tuning.method import Geometry
from tailor.tuning.methods.adaptformer import AdaptFormer
from tailor.tuning.methods.lora import Lora, LoraLinear
from tailor.tuning.methods.repadapter import RepAdapter
from tailor.tuning.methods.ssf import Ssf
from tailor.tuning.plan import Tune, TunePlan

LAYER = "blocks.1.attn.qkv"
STACKS = [
    (Lora(rank=2), Ssf()),
    (Ssf(), Lora(rank=2)),
    (Lora(rank=2), RepAdapter(width=2)),
    (RepAdapter(width=2), Ssf(), Lora(rank=2)),
]


@pytest.mark.parametrize("methods", STACKS, ids=lambda methods: "-".join(m.kind for m in methods))
def test_methods_stacked_at_one_layer_merge_exactly(methods):
    plan = TunePlan("stack", tunes=tuple(Tune(LAYER, method) for method in methods))
    model = tiny.trained_(apply_(tiny.vit().double(), plan, ("head",)).eval())
    x = tiny.images(model)
    with torch.no_grad():
        expected = model(x)
        merged = merge_(model, plan)
        assert_close(merged(x), expected, rtol=1e-11, atol=1e-12)
    assert type(merged.get_submodule(LAYER)) is torch.nn.Linear


def test_a_method_around_an_mlp_leaves_one_inside_it_alone():
    inside, around = Tune("blocks.1.mlp.fc1", Lora(rank=2)), Tune("blocks.1.mlp", AdaptFormer(), geometry=Geometry(32))
    one, two = (
        tiny.trained_(apply_(tiny.vit(), TunePlan("both", tunes=tunes), ("head",)).eval())
        for tunes in ((inside, around), (around, inside))
    )
    x = tiny.images(one)
    with torch.no_grad():
        assert_close(one(x), two(x), rtol=0, atol=0)
    assert isinstance(one.blocks[1].mlp.base.fc1, LoraLinear)


def test_parts_of_a_fused_layer_share_one_wrapper():
    tunes = tuple(Tune(f"{LAYER}[{part}]", Lora(rank=2), rows) for part, rows in (("v", (64, 96)), ("q", (0, 32))))
    model = apply_(tiny.vit(), TunePlan("parts", tunes=tunes), ("head",))
    layer = model.get_submodule(LAYER)
    assert layer.rows == ((0, 32), (64, 96)) and not isinstance(layer.base, LoraLinear)
    tiny.trained_(model).eval()
    x = torch.randn(2, 3, 32)
    with torch.no_grad():
        assert torch.equal(layer(x)[..., 32:64], layer.base(x)[..., 32:64])
        assert not torch.equal(layer(x)[..., 64:], layer.base(x)[..., 64:])


def test_nothing_but_the_plan_and_the_head_trains():
    model = tiny.vit().requires_grad_(True)
    plan = TunePlan("few", full=("norm.weight",), tunes=(Tune(LAYER, Lora(rank=2)),))
    names = set(trainable(apply_(model, plan, ("head",))))
    assert names == {"head.weight", "head.bias", "norm.weight", f"{LAYER}.down", f"{LAYER}.up"}


@pytest.mark.parametrize("mode", [True, False])
def test_new_modules_stand_in_the_mode_of_the_layer(mode):
    plan = TunePlan("one", tunes=(Tune(LAYER, Lora()),))
    model = apply_(tiny.vit().train(mode), plan, ("head",))
    assert all(module.training == mode for module in model.modules())
    assert all(module.training == mode for module in merge_(model, plan).modules())


def test_another_seed_draws_other_modules():
    plan = TunePlan("one", tunes=(Tune(LAYER, Lora()),))
    one, two = (apply_(tiny.vit(), plan, ("head",), seed=seed) for seed in (3, 4))
    assert not torch.equal(one.get_submodule(LAYER).down, two.get_submodule(LAYER).down)


def test_merging_leaves_the_rest_of_the_model_as_it_was():
    plain = tiny.vit()
    plan = TunePlan("one", tunes=(Tune(LAYER, Lora()),))
    merged = merge_(tiny.trained_(apply_(copy.deepcopy(plain), plan, ("head",))), plan)
    differing = {n for n, t in merged.state_dict().items() if not torch.equal(t, plain.state_dict()[n])}
    assert differing == {f"{LAYER}.weight", "head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (TunePlan("x", full=("blocks.0.norm3.weight",)), "has no parameter `blocks.0.norm3.weight`"),
        (TunePlan("x", full=("norm.bias[8:64]",)), r"tunes `norm.bias\[8:64\]`, which is not a range of it"),
        (TunePlan("x", full=("norm.bias[8:8]",)), "which is not a range of it"),
        (TunePlan("x", tunes=(Tune("blocks.9.mlp.fc1", Lora()),)), "has no module `blocks.9.mlp.fc1`"),
    ],
    ids=["name", "range", "empty", "module"],
)
def test_a_plan_of_another_backbone_is_refused(plan, message):
    with pytest.raises(PlanError, match=message) as refusal:
        apply_(tiny.vit(), plan, ("head",))
    assert refusal.value.hint
