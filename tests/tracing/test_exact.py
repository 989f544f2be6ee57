"""The law: a cut model equals the dense one with the removed units masked after every operator."""

import copy
from functools import cache

import pytest
import timm
import torch
from torch import Tensor, nn

from tailor.tracing import Traced, Verdict, cut, cut_, half, plan_widths, settle, trace, verify
from tracing.nets import NETS, build
from tracing.shake import shake_

MODELS = {
    "vit": ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 48}),
    "deit distilled": (
        "deit_tiny_distilled_patch16_224",
        {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 48},
    ),
    "deit3": (
        "deit3_small_patch16_224",
        {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 48, "num_heads": 4},
    ),
    "dinov2": ("vit_small_patch14_dinov2", {"img_size": 28, "depth": 2, "embed_dim": 48, "num_heads": 4}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 32, "window_size": 4, "depths": (2, 2), "num_heads": (2, 4), "embed_dim": 24},
    ),
    "swin v2": (
        "swinv2_tiny_window8_256",
        {"img_size": 32, "window_size": 4, "depths": (2, 2), "num_heads": (2, 4), "embed_dim": 24},
    ),
    "convnext": ("convnext_atto", {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}),
    "convnext v2": ("convnextv2_atto", {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}),
    "resnet": ("resnet26", {"layers": (1, 1, 1, 1)}),
    "resnext": ("resnext50_32x4d", {"layers": (1, 1, 1, 1)}),
    "mobilenet v2": ("mobilenetv2_035", {}),
    "mobilenet v3": ("mobilenetv3_small_050", {}),
    "regnet": ("regnety_002", {}),
}


def example(size: int = 32, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=dtype)


@cache
def net(name: str) -> tuple[nn.Module, Tensor, Traced]:
    """A micro-net or a small timm model in float64, shaken, its input, and what surgery can cut of it."""
    if name in MODELS:
        stock, settings = MODELS[name]
        model = timm.create_model(stock, num_classes=5, **settings)
    else:
        model = build(name)
    model = shake_(model.double()).eval()
    x = example(28 if name == "dinov2" else 32)
    return model, x, settle(model, trace(model, (x,)), (x,))


def cut_half(name: str, only: str | None = None, seed: int = 1) -> Verdict:
    model, x, traced = net(name)
    keep = half(traced.groups, seed)
    if only is not None:
        tied = next((tie for tie in traced.groups.ties if only in tie), (only,))
        keep = {name: keep[name] for name in tied}
    plan = plan_widths(traced.groups, keep)
    return verify(model, cut_(copy.deepcopy(model), plan), traced, plan, (x,))


# Classes whose code fixes a size that no attribute gives; all others are cut by surgery on the stock class.
RECORDED = {"fixed width": {"FixedWidth"}, "repeated keys": {"RepeatedKeys"}, "swin v2": {"WindowAttention"}}


@pytest.mark.parametrize("name", [*NETS, *MODELS])
def test_surgery_pins_nothing_that_the_graph_leaves_free(name):
    """A mistake in a rule would show as a failed trial, which `settle` answers with a pin or a recording."""
    model, x, settled = net(name)
    before, after = trace(model, (x,)).groups, settled.groups
    assert {type(model.get_submodule(path)).__name__ for path in settled.recordings} == RECORDED.get(name, set())
    assert [g.id for g in after.groups] == [g.id for g in before.groups]
    assert not any("the code of" in p.reason for p in after.pinned)


@pytest.mark.parametrize("name", [*NETS, *MODELS])
def test_half_of_every_group_gone_is_the_masked_model(name):
    verdict = cut_half(name)
    assert verdict.exact, verdict


@pytest.mark.parametrize("name", [*NETS, "vit", "swin", "convnext v2", "resnext"])
def test_half_of_one_group_gone_is_the_masked_model(name):
    for group in net(name)[2].groups.groups:
        verdict = cut_half(name, group.id)
        assert verdict.exact, (group, verdict)


@pytest.mark.parametrize("name", ["vit", "swin", "convnext", "resnet", "mobilenet v2"])
def test_float32_agrees_to_1e_5(name):
    model, x, traced = net(name)
    model = copy.deepcopy(model).float()
    plan = plan_widths(traced.groups, half(traced.groups, 2))
    single = trace(model, (x.float(),))
    assert single.groups.groups == traced.groups.groups
    verdict = verify(model, cut_(copy.deepcopy(model), plan), single, plan, (x.float(),))
    assert verdict.exact, verdict


@pytest.mark.parametrize("name", ["vit", "swin", "resnet"])
def test_a_cut_changes_the_output_and_a_whole_plan_does_not(name):
    model, x, traced = net(name)
    pruned = cut_(copy.deepcopy(model), plan_widths(traced.groups, half(traced.groups)))
    whole = cut_(copy.deepcopy(model), plan_widths(traced.groups, {}))
    with torch.no_grad():
        assert (pruned(x) - model(x)).abs().max() > 0.01
        assert torch.equal(whole(x), model(x))


@pytest.mark.parametrize("name", ["vit", "swin", "convnext", "mobilenet v2"])
def test_a_cut_model_can_be_traced_and_cut_again(name):
    model, x, traced = net(name)
    once = cut_(copy.deepcopy(model), plan_widths(traced.groups, half(traced.groups)))
    again = trace(once, (x,))
    plan = plan_widths(again.groups, half(again.groups, 5))
    verdict = verify(once, cut_(copy.deepcopy(once), plan), again, plan, (x,))
    assert verdict.exact, verdict


@pytest.mark.parametrize("name", ["vit", "swin", "convnext", "resnext"])
def test_a_cut_model_trains(name):
    model, x, traced = net(name)
    pruned = cut_(copy.deepcopy(model), plan_widths(traced.groups, half(traced.groups))).train()
    pruned(x).square().sum().backward()
    assert all(p.grad is None or (p.grad.isfinite().all() and p.grad.shape == p.shape) for p in pruned.parameters())


def test_verify_names_the_module_that_was_cut_wrongly():
    model, x, traced = net("vit")
    plan = plan_widths(traced.groups, half(traced.groups))
    pruned = cut_(copy.deepcopy(model), plan)
    with torch.no_grad():
        pruned.blocks[1].mlp.fc1.weight += 0.01
    verdict = verify(model, pruned, traced, plan, (x,))
    assert not verdict.exact
    assert verdict.module == "blocks.1.mlp.fc1"


def test_tied_weights_stay_tied():
    model, _, traced = net("reuse and tied weights")
    pruned = cut_(copy.deepcopy(model), plan_widths(traced.groups, half(traced.groups)))
    assert pruned.body.b.weight is pruned.body.c.weight
    assert pruned.body.b.weight.shape[0] < 8


def test_code_that_fixes_a_size_is_pinned_and_named():
    model, x, _ = net("fixed width")
    traced = settle(model, trace(model, (x,)), (x,), record_modules=False)
    reasons = {p.reason for p in traced.groups.pinned if p.tensor == "body.a.weight"}
    assert any("the code of `body` fixes its size" in reason for reason in reasons)


def test_a_scale_that_nothing_can_carry_pins_the_head_dim():
    traced = net("cosine scores")[2]
    assert [group.label for group in traced.groups.groups] == ["embedding", "heads"]


def test_rounding_is_no_difference_and_a_small_difference_is_no_rounding():
    """Hidden units in pairs that all but cancel: what is left of their sum is rounding."""
    model = nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 8)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        first, last = torch.randn(32, 8, generator=generator), 1e4 * torch.randn(8, 32, generator=generator)
        model[0].weight.copy_(torch.cat([first, first + 1e-3 * torch.randn(32, 8, generator=generator)]))
        model[0].bias.zero_()
        model[2].weight.copy_(torch.cat([last, -last], 1))
    example = (torch.randn(2, 8, generator=generator),)
    traced = trace(model, example)
    (group,) = traced.groups.groups
    plan = plan_widths(traced.groups, {group.id: tuple(n for n in range(64) if n % 32 > 2)})
    small = cut(model, plan)
    assert verify(model, small, traced, plan, example).exact
    small[2].bias = nn.Parameter(small[2].bias + 1e-3 * small(*example).abs().max())
    assert not verify(model, small, traced, plan, example).exact
