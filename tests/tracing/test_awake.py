"""Comparisons that could not fail: what a fresh start silences, and outputs far below one."""

import copy
import importlib

import pytest
import timm
import torch
from torch import nn
from torch.testing import assert_close

import tailor.tracing
import tiny
from tailor.errors import ModelError
from tailor.tracing import awakened, cut_, plan_widths, settle, trace, verify

NARROW = importlib.import_module("tailor.workflow.planners.widths")


def fresh():
    """A ConvNeXt whose layer scales are still 1e-6."""
    model = timm.create_model("convnext_atto", num_classes=5, depths=(1, 1, 1, 1), dims=(8, 16, 16, 24)).eval()
    return model, torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def first_hidden_halved(groups):
    hidden = next(group for group in groups.groups if group.label == "hidden")
    return plan_widths(groups, {hidden.id: tuple(range(hidden.size // 2))})


def spoiled_(model):
    with torch.no_grad():
        model.stages[0].blocks[0].mlp.fc1.weight.zero_()
    return model


def test_the_check_of_prune_sees_what_fresh_layer_scales_hide(monkeypatch):
    model, x = fresh()
    traced = trace(model, (x,))
    plan = first_hidden_halved(traced.groups)
    NARROW._check(model, traced, plan, (x,))
    monkeypatch.setattr(tailor.tracing, "cut", lambda model, plan: spoiled_(cut_(copy.deepcopy(model), plan)))
    with pytest.raises(ModelError, match=r"not exact at `stages.0.blocks.0"):
        NARROW._check(model, traced, plan, (x,))


class Scaled(nn.Module):
    """Code that fixes the width of its hidden layer, behind a scale that starts at nothing."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(8, 6), nn.Linear(6, 8), nn.Linear(8, 3)
        self.gamma = nn.Parameter(torch.tensor(0.0))

    def forward(self, x):
        hidden = self.a(x)
        return self.head(x + self.gamma * self.b(hidden * (6 / hidden.shape[-1])))


def test_a_trial_sees_what_a_scale_of_zero_hides():
    x = torch.randn(2, 8)
    settled = settle(model := Scaled(), trace(model, (x,)), (x,), record_modules=False)
    assert not settled.groups.groups
    assert any("the code of" in pinned.reason for pinned in settled.groups.pinned)
    assert float(model.gamma.detach()) == 0


def test_an_error_is_relative_to_outputs_far_below_one():
    model, x = tiny.vit(), tiny.images(tiny.vit())
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter *= 1e-5
    traced = trace(model, (x,))
    plan = first_hidden_halved(traced.groups)
    cut = cut_(copy.deepcopy(model), plan)
    assert verify(model, cut, traced, plan, (x,)).exact
    with torch.no_grad():
        cut.blocks[0].mlp.fc1.weight.zero_()
    assert not verify(model, cut, traced, plan, (x,)).exact


def test_an_output_of_zeros_is_no_division_by_zero():
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    with torch.no_grad():
        for parameter in model[1].parameters():
            parameter.zero_()
    traced = trace(model, (x := torch.randn(2, 4),))
    plan = plan_widths(traced.groups, {traced.groups.groups[0].id: (0, 1)})
    verdict = verify(model, cut_(copy.deepcopy(model), plan), traced, plan, (x,))
    assert verdict.exact and verdict.error == 0


def test_only_what_is_near_zero_is_drawn_and_the_model_stays_as_it_was():
    model, _ = fresh()
    with torch.no_grad():
        model.head.fc.weight.zero_()
        model.stages[0].blocks[0].gamma.fill_(0.3)
    before = copy.deepcopy(model.state_dict())
    awake = awakened(model)
    assert_close(model.state_dict(), before, rtol=0, atol=0)
    changed = {name for name, tensor in awake.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"stages.{i}.blocks.0.gamma" for i in (1, 2, 3)} | {"head.fc.weight"}
    assert all(float(awake.get_parameter(f"stages.{i}.blocks.0.gamma").detach().min()) >= 0.5 for i in (1, 2, 3))
    assert_close(awakened(model).state_dict(), awake.state_dict(), rtol=0, atol=0)
