"""Single trained entries: exact gradients, exact optimiser steps, nothing dense kept, and merging as a no-op."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

import tiny
from tailor.backbones import describe
from tailor.errors import PlanError
from tailor.surgery import changed, load_changed_, trainable, write_through_
from tailor.tuning.apply import apply_, merge_
from tailor.tuning.methods.ssf import Ssf
from tailor.tuning.plan import Entries, Tune, TunePlan
from tailor.tuning.sparse import SparseWeight, merge_entries_, tune_entries_

CONVOLUTIONS = {
    "plain": nn.Conv2d(4, 6, 3),
    "strided": nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False),
    "dilated same": nn.Conv2d(4, 6, 3, padding="same", dilation=2),
    "depthwise": nn.Conv2d(4, 4, 3, padding=1, groups=4),
    "circular": nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="circular", stride=2),
    "reflect": nn.Conv2d(4, 6, 3, padding=2, padding_mode="reflect", dilation=2),
    "replicate": nn.Conv2d(4, 4, 3, padding=1, padding_mode="replicate", groups=4),
    "valid": nn.Conv2d(4, 6, (2, 3), padding="valid", dilation=2),
    "even same": nn.Conv2d(4, 6, (4, 2), padding="same"),
    "reflected same": nn.Conv2d(4, 6, 4, padding="same", padding_mode="reflect"),
    "dilated patches": nn.Conv2d(4, 6, 2, stride=2, dilation=3),
}


def _chosen(total, count, seed=0):
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    return order[:count].sort().values


@pytest.mark.parametrize("count", [1, 9, 200], ids=["one", "hull", "dense"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_s_gradients_are_the_dense_ones(count, bias):
    dense = nn.Linear(12, 18, bias=bias).double()
    site = SparseWeight(copy.deepcopy(dense), _chosen(216, count))
    assert site.dense == (count == 200)
    if bias:
        site.base.bias.requires_grad_(True)
    x = tiny.tokens().double()
    one, two = x.clone().requires_grad_(), x.clone().requires_grad_()
    dense(one).sin().sum().backward()
    site(two).sin().sum().backward()
    assert_close(site.delta.grad, dense.weight.grad.flatten()[site.indices], rtol=1e-13, atol=1e-13)
    assert_close(two.grad, one.grad, rtol=1e-13, atol=1e-13)
    assert site.base.weight.grad is None
    if bias:
        assert_close(site.base.bias.grad, dense.bias.grad, rtol=1e-13, atol=1e-13)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_convolution_s_gradients_are_the_dense_ones(kind):
    dense = copy.deepcopy(CONVOLUTIONS[kind]).double()
    site = SparseWeight(copy.deepcopy(dense), _chosen(dense.weight.numel(), 7))
    x = torch.randn(2, 4, 9, 8, generator=torch.Generator().manual_seed(1)).double()
    one, two = x.clone().requires_grad_(), x.clone().requires_grad_()
    assert_close(site(x), dense(x), rtol=1e-13, atol=1e-13)
    dense(one).sin().sum().backward()
    site(two).sin().sum().backward()
    assert_close(site.delta.grad, dense.weight.grad.flatten()[site.indices], rtol=1e-12, atol=1e-12)
    assert_close(two.grad, one.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", ["vit", "swin", "convnext", "resnet"])
def test_entries_of_every_kind_of_tensor_in_a_model(family):
    """Matrices, convolutions, norms and biases at once, against the gradients of the plain model."""
    plain = tiny.MODELS[family]().double().requires_grad_(True)
    anatomy = describe(plain)
    names = [n for n, p in plain.named_parameters() if not n.startswith(anatomy.heads) and p.ndim in (1, 2, 4)]
    entries = tuple(
        Entries(n, tuple(_chosen(plain.get_parameter(n).numel(), 5, seed).tolist())) for seed, n in enumerate(names)
    )
    tuned = apply_(copy.deepcopy(plain), TunePlan("mask", entries=entries), anatomy.heads)
    x = tiny.images(plain)
    assert_close(tuned(x), plain(x), rtol=0, atol=0)
    plain(x).sin().sum().backward()
    tuned(x).sin().sum().backward()
    for entry in entries:
        expected = plain.get_parameter(entry.tensor).grad.flatten()[list(entry.indices)]
        assert_close(_delta(tuned, entry.tensor).grad, expected, rtol=1e-9, atol=1e-11)


def _delta(model, tensor):
    path, _, leaf = tensor.rpartition(".")
    owner = model.get_submodule(path)
    if isinstance(owner, SparseWeight) and leaf == "weight":
        return owner.delta
    owner = owner.base if isinstance(owner, SparseWeight) else owner
    return owner.parametrizations[leaf][0].delta


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 4e-8), (torch.float64, 1e-13)], ids=["32", "64"])
def test_masked_adamw_and_delta_adamw_take_the_same_steps(dtype, allowed):
    generator = torch.Generator().manual_seed(3)
    start = nn.Linear(16, 12).to(dtype).requires_grad_(False)
    start.weight.copy_(0.02 * torch.randn(12, 16, generator=generator))
    indices = _chosen(192, 20)
    mask = torch.zeros(192, dtype=dtype).index_fill(0, indices, 1.0).view(12, 16)
    dense, site = copy.deepcopy(start), SparseWeight(copy.deepcopy(start), indices)
    one = torch.optim.AdamW([dense.weight.requires_grad_(True)], lr=1e-4, weight_decay=0.0)
    two = torch.optim.AdamW([site.delta], lr=1e-4, weight_decay=0.0)
    for _ in range(200):
        x, y = (torch.randn(8, width, generator=generator).to(dtype) for width in (16, 12))
        one.zero_grad()
        F.mse_loss(dense(x), y).backward()
        dense.weight.grad *= mask
        one.step()
        two.zero_grad()
        F.mse_loss(site(x), y).backward()
        two.step()
        write_through_(site)
    assert (site.base.weight - start.weight).abs().max() > 1e-3
    assert_close(site.base.weight, dense.weight.detach(), rtol=0, atol=allowed)
    assert torch.equal(site.base.weight[mask == 0], start.weight[mask == 0])


def test_backward_keeps_the_columns_and_no_copy_of_the_weight():
    site = SparseWeight(nn.Linear(64, 64), torch.tensor([3, 70, 3 + 64 * 9]))
    kept = []
    x = torch.randn(5, 7, 64)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        site(x).sum()
    own = [t for t in kept if t.untyped_storage().data_ptr() != site.base.weight.untyped_storage().data_ptr()]
    assert sum(t.numel() for t in own) == 5 * 7 * 2  # two columns


def test_autocast_runs_in_bfloat16_and_keeps_float32_gradients():
    layer = tiny.linear()
    site = SparseWeight(copy.deepcopy(layer), _chosen(216, 6))
    x = tiny.tokens().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = layer(x), site(x)
        assert found.dtype == torch.bfloat16
        assert_close(found, expected, rtol=0, atol=0)
        found.sum().backward()
    assert site.delta.grad.dtype == torch.float32 and x.grad.dtype == torch.float32
    assert_close(site.delta.grad, x.detach().sum((0, 1))[site.indices % 12], rtol=2e-2, atol=2e-2)


def test_merging_entries_leaves_the_plain_model():
    plain = tiny.vit()
    plan = TunePlan(
        "mask",
        full=("blocks.0.attn.qkv.bias[32:64]",),
        entries=(Entries("blocks.0.attn.qkv.weight", (1, 77)), Entries("blocks.1.norm1.weight", (0, 5))),
    )
    tuned = tiny.trained_(apply_(copy.deepcopy(plain), plan, ("head",)))
    x = tiny.images(plain)
    with torch.no_grad():
        expected = tuned(x)
        merged = merge_entries_(tuned)
        assert_close(merged(x), expected, rtol=1e-6, atol=1e-6)
        assert not torch.equal(merged(x), plain(x))
    assert merged.state_dict().keys() == plain.state_dict().keys()
    bias = merged.blocks[0].attn.qkv.bias != plain.blocks[0].attn.qkv.bias
    assert bias.nonzero().flatten().tolist() == list(range(32, 64))


def test_an_entry_below_a_merging_method_is_not_lost():
    """Folding a scale into a weight whose entries were written later would undo the scale there."""
    plain = tiny.vit().double()
    plan = TunePlan(
        "both", tunes=(Tune("blocks.0.mlp.fc1", Ssf()),), entries=(Entries("blocks.0.mlp.fc1.weight", (0, 40, 99)),)
    )
    tuned = tiny.trained_(apply_(plain, plan, ("head",)))
    x = tiny.images(tuned)
    with torch.no_grad():
        expected = tuned(x)
        merged = write_through_(merge_(tuned, plan))
        assert_close(merged(x), expected, rtol=1e-12, atol=1e-12)
    assert merged.state_dict().keys() == tiny.vit().state_dict().keys()


def test_loading_writes_the_entries_through():
    plan = TunePlan("mask", entries=(Entries("blocks.0.mlp.fc1.weight", (0, 40, 99)),))
    source = tiny.trained_(apply_(tiny.vit(), plan, ("head",)))
    target = load_changed_(apply_(tiny.vit(), plan, ("head",)), {n: t.clone() for n, t in changed(source).items()})
    assert torch.equal(target.blocks[0].mlp.fc1.base.weight, source.blocks[0].mlp.fc1.base.weight)
    assert set(changed(source)) == {"blocks.0.mlp.fc1.delta", "head.weight", "head.bias"}


def test_a_norm_s_entry_is_the_only_one_that_moves():
    owner = tune_entries_(nn.Sequential(nn.LayerNorm(8)), "0.weight", torch.tensor([2, 5]))
    assert set(trainable(owner)) == {"0.bias", "0.parametrizations.weight.0.delta"}
    tiny.trained_(owner)
    assert (owner[0].weight != 1).nonzero().flatten().tolist() == [2, 5]


@pytest.mark.parametrize("indices", [(3, 1), (1, 1), (-1, 2)])
def test_entries_are_sorted_distinct_and_not_negative(indices):
    with pytest.raises(PlanError, match="not sorted, not distinct, or negative"):
        Entries("head.weight", indices)


def test_a_plan_without_entries_of_a_tensor_is_refused():
    with pytest.raises(PlanError, match="the plan names no entry of `a"):
        Entries("a.weight", ())


def test_an_entry_beyond_the_tensor_is_refused():
    plan = TunePlan("mask", entries=(Entries("blocks.0.norm1.weight", (1, 32)),))
    with pytest.raises(PlanError, match=r"tunes entry 32 of `blocks.+`, which has 32"):
        apply_(tiny.vit(), plan, ("head",))
