"""A supernet whose gates are fixed, and the plain modules it becomes, compute the same."""

import copy
import itertools
from functools import lru_cache

import arranged
import pytest
import torch
from torch.testing import assert_close

import tiny
from tailor import backbones
from tailor.errors import PlanError
from tailor.inputs import Inputs
from tailor.measure import count
from tailor.pruning.convolve import convert, read_off
from tailor.pruning.convolve.gates import Gates, chosen, needed
from tailor.pruning.convolve.places import find_places
from tailor.pruning.convolve.settings import Wrapping
from tailor.pruning.convolve.wrap import UnifiedAttention, shifted_means, wrap_

VIT = ("conv3", "none", "attention")
SWIN = ("conv3", "none", "conv1", "attention")
CASES = {
    "vit": (arranged.pooled, VIT, {}),
    "vit, class token": (tiny.vit, ("conv3", "conv1", "attention"), {"order": "relu-bn", "temperature": 0.3}),
    "vit, norm skip": (arranged.pooled, ("none", "conv3", "conv1"), {"skip": "norm", "closing": "product"}),
    "not square": (arranged.wide, VIT, {}),
    "distilled": (tiny.distilled, ("conv3", "none", "attention"), {"skip": "norm"}),
    "eva": (tiny.eva, VIT, {}),
    "swin": (tiny.swin, SWIN, {}),
    "swin, shifted conv3": (tiny.swin, ("attention", "conv3", "none", "conv3"), {"order": "relu-bn"}),
    "swin, in windows": (tiny.swin, ("attention", "conv3", "conv1", "none"), {"scope": "window", "skip": "norm"}),
    "two paths": (tiny.swin, ("attention", "conv3", "conv1", "none"), {"paths": "multi", "order": "relu-bn"}),
    "swin2": (tiny.swin2, SWIN, {}),
}
cases = pytest.mark.parametrize("name", CASES)


@lru_cache
def made(name, dtype=torch.float64):
    make, operations, settings = CASES[name]
    return arranged.case(make, operations, dtype, **settings)


@cases
def test_the_plain_model_computes_as_the_supernet(name):
    one = made(name)
    assert one.architecture.operations == CASES[name][1]
    for folded in (False, True):
        with torch.no_grad():
            assert_close(one.plain(folded)(one.images), one.net(one.images), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_in_single_precision(name):
    one = made(name, torch.float32)
    for folded in (False, True):
        with torch.no_grad():
            assert_close(one.plain(folded)(one.images), one.net(one.images), rtol=1e-5, atol=1e-5)


@cases
def test_the_table_counts_what_is_counted(name):
    one = made(name)
    model = one.plain()
    assert read_off.cost(one.architecture, one.table) == count.macs(model, Inputs.images(*one.images.shape[1:]))
    assert one.table.dense == count.macs(one.dense, Inputs.images(*one.images.shape[1:]))


@pytest.mark.parametrize("name", ["vit", "swin, shifted conv3", "swin, in windows"])
def test_a_transposed_kernel_is_another_function(name):
    one = made(name)
    model = one.plain()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3):
                module.weight.copy_(module.weight.transpose(2, 3).clone())
        assert (model(one.images) - one.net(one.images)).abs().max() > 1e-3


@cases
def test_open_gates_change_nothing(name):
    one = copy.deepcopy(made(name))
    for part in read_off.gates_of(one.gated):
        torch.nn.init.constant_(part.theta, 1.5)
    with torch.no_grad():
        assert_close(one.net(one.images), one.dense(one.images), rtol=0, atol=1e-12)


def slowly(self, x, *args, **kwargs):
    """Every branch, all with a graph, weighed one by one."""
    branches = [self.attend(x, *args, **kwargs)]
    kept = self.attention.qkv.take()
    branches = [*(self.own[i](x) if self.own else self.convolution(i, x, kept) for i in range(2)), *branches]
    weights = chosen(self.gates(), self.wrapping.closing)
    y = sum(weight * branch for weight, branch in zip(weights, branches, strict=True))
    return y + (1 - weights.sum()) * x if self.wrapping.skip == "norm" else y


@pytest.mark.parametrize("closing", ["dominant", "product"])
@pytest.mark.parametrize("values", list(itertools.product([0.0, 1.0], repeat=3)))
@pytest.mark.parametrize(
    ("make", "settings"),
    [(tiny.vit, {}), (tiny.vit, {"paths": "multi", "skip": "norm"}), (tiny.swin, {}), (tiny.eva, {})],
    ids=["single", "multi", "swin", "eva"],
)
def test_what_a_step_leaves_out_changes_neither_output_nor_gradient(make, settings, values, closing, monkeypatch):
    def fixed(gates):
        soft = gates.theta.sigmoid()
        return (torch.tensor(values) if len(soft) == 3 else soft.detach()) + (soft - soft.detach())

    monkeypatch.setattr(Gates, "forward", fixed)
    images = tiny.images(make().double())
    seen = []
    for forward in (UnifiedAttention.forward, slowly):
        monkeypatch.setattr(UnifiedAttention, "forward", forward)
        torch.manual_seed(0)  # of the convolutions on paths of their own
        model = tiny.shake_(make()).double().requires_grad_(True)
        wrap_(model, find_places(model, backbones.describe(model)), Wrapping(closing=closing, **settings))
        output = model.double().train()(images)
        output.square().sum().backward()
        seen.append((output, {n: p.grad for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}))
    (one, its), (other, theirs) = seen
    assert_close(one, other, rtol=0, atol=1e-10)
    assert sum("attn.gates" in name for name in its) >= (3 if closing == "dominant" else 0)
    assert_close(its, theirs)


def test_with_all_gates_open_the_cheapest_is_not_computed():
    assert needed((True, True, True), "dominant") == (False, True, True)
    assert needed((True, False, True), "dominant") == (True, False, True)
    assert needed((False, False, False), "dominant") == (True, True, True)


@cases
def test_the_anatomy_says_what_stands_there(name):
    blocks = backbones.describe(made(name).plain()).blocks
    for block, operation in zip(blocks, CASES[name][1], strict=True):
        assert (block.attention is not None) == (operation == "attention")
        assert (block.convolution is not None) == operation.startswith("conv")


def test_a_stock_model_with_the_plans_takes_every_tensor():
    one = made("swin")
    model = one.plain()
    again = convert.apply_swaps_(tiny.swin(seed=5).double(), one.plan())
    again = arranged.cut_(again, one.widths)
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert_close(again.eval()(one.images), model(one.images), rtol=0, atol=0)


def test_shifted_means_of_values_by_hand():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, 4, 5, 3, 6, dtype=torch.float64, generator=generator)
    shares = torch.rand(3, 3, 3, dtype=torch.float64, generator=generator)
    y = torch.zeros(2, 4, 5, 6, dtype=torch.float64)
    for row in range(4):
        for column in range(5):
            for r in range(3):
                for s in range(3):
                    i, j = row + r - 1, column + s - 1
                    if 0 <= i < 4 and 0 <= j < 5:
                        y[:, row, column] += torch.einsum("bhd,h->bd", values[:, i, j], shares[:, r, s])
    maps = values.permute(0, 3, 4, 1, 2)
    assert_close(shifted_means(maps, shares), y.permute(0, 3, 1, 2))
    centre = torch.einsum("bhdyx,h->bdyx", maps, shares[:, 1, 1])
    assert_close(shifted_means(maps, shares[:, 1:2, 1:2]), centre)


def test_a_plan_is_for_one_backbone_and_for_once():
    one = made("vit")
    plan = one.plan()
    with pytest.raises(PlanError, match="the plan expects"):
        convert.apply_swaps_(tiny.vit(embed_dim=64), plan)
    with pytest.raises(PlanError, match="no attention any more"):
        convert.apply_swaps_(convert.apply_swaps_(arranged.pooled().double(), plan), plan)
    with pytest.raises(PlanError, match="has no module"):
        convert.apply_swaps_(tiny.swin(), plan)
