"""MACs and parameters from counts of units: what counting the cut model itself gives, for every family."""

import copy

import pytest
import torch

import tiny
from tailor.inputs import Inputs
from tailor.measure.count import macs, parameters
from tailor.tracing import cut_, mac_cost, parameter_cost, plan_widths, settle, trace
from tailor.tracing.trial.settle import uneven


@pytest.mark.parametrize("name", tiny.MODELS)
def test_the_price_of_a_plan_is_that_of_the_cut_model(name):
    model = tiny.MODELS[name]()
    x = tiny.images(model)
    traced = settle(model, trace(model, (x,)), (x,))
    counted, priced = parameter_cost(model, traced), mac_cost(traced)
    keep = uneven(traced.groups, seed=3)
    counts = {**traced.groups.sizes, **{name: len(units) for name, units in keep.items()}}
    cut = cut_(copy.deepcopy(model), plan_widths(traced.groups, keep))
    for widths, made in ((traced.groups.sizes, model), (counts, cut)):
        assert counted.at(widths) == parameters(made)
        assert priced.at(widths) == macs(made, Inputs.images(*x.shape[1:]))


class Mixed(torch.nn.Module):
    """Products of every kind, and two that no image flows into: of a table, and of positions made for each image."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Parameter(torch.randn(5, 12))
        self.lift, self.place = torch.nn.Linear(12, 16), torch.nn.Linear(5, 16)
        self.first = torch.nn.Conv2d(3, 16, 2, stride=2)
        self.grouped = torch.nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.up = torch.nn.ConvTranspose2d(16, 6, 2, stride=2)
        self.last = torch.nn.Linear(6, 4)

    def forward(self, x):
        y = self.grouped(self.first(x)).relu()
        y = y + torch.einsum("kc,bchw->bkhw", self.lift(self.table), y).mean(1, keepdim=True)
        y = y + self.place(torch.ones(len(x), 4, 4, 5)).movedim(-1, 1)
        return self.last(self.up(y).mean((2, 3)))


def test_every_kind_of_product_is_priced():
    model, x = Mixed().eval(), torch.randn(3, 3, 8, 8)
    traced = trace(model, (x,))
    keep = {group.id: tuple(range(group.size - 1)) for group in traced.groups.groups if group.size > 1}
    cut = cut_(copy.deepcopy(model), plan_widths(traced.groups, keep))
    counts = {**traced.groups.sizes, **{name: len(units) for name, units in keep.items()}}
    assert mac_cost(traced).at(counts) == macs(cut, Inputs.images(3, 8, 8))
    assert parameter_cost(model, traced).at(counts) == parameters(cut)
    assert mac_cost(traced).at(traced.groups.sizes) == macs(model, Inputs.images(3, 8, 8))


class Tied(torch.nn.Module):
    """An MLP whose second half is the first transposed."""

    def __init__(self):
        super().__init__()
        self.stem, self.up, self.head = torch.nn.Linear(6, 8), torch.nn.Linear(8, 16), torch.nn.Linear(8, 3)
        self.again = torch.nn.Linear(8, 16)
        self.again.weight = self.up.weight

    def forward(self, x):
        y = self.stem(x)
        return self.head(y + (self.up(y).relu() * self.again(y)) @ self.up.weight)


def test_a_tied_weight_is_priced_once():
    model, x = Tied().eval(), torch.randn(2, 6)
    traced = trace(model, (x,))
    assert parameter_cost(model, traced).at(traced.groups.sizes) == parameters(model)
