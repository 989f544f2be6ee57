"""Supernets of the tiny models whose gates, ensembles and norms are shaken, and the plain models they become."""

import copy
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

import tiny
from tailor import backbones
from tailor.inputs import Inputs
from tailor.measure import count
from tailor.pruning.convolve import convert, places, read_off, table, wrap
from tailor.pruning.convolve.settings import Wrapping
from tailor.tracing import cut_

OPENED = {"none": (-1, -1, -1), "conv1": (1, -1, -1), "conv3": (1, 1, -1), "attention": (1, 1, 1)}
"""Gates that choose an operation by either closing rule."""


def pooled(seed=0):
    """A plain ViT whose head sees the mean of the patches, so that every patch counts."""
    return tiny.vit(seed, global_pool="avg")


def wide(seed=0):
    """A plain ViT on a grid that is not square."""
    model = tiny.vit(seed, img_size=(32, 48), global_pool="avg")
    model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (3, 32, 48)}
    return model


@dataclass
class Case:
    dense: nn.Module
    images: torch.Tensor
    places: tuple
    wrapping: Wrapping
    net: nn.Module
    gated: tuple

    @property
    def architecture(self):
        return read_off.architecture(self.gated, self.wrapping.closing)

    @property
    def table(self):
        macs = count.macs(self.dense, Inputs.images(*self.images.shape[1:]))
        return table.counted(self.places, macs, self.wrapping.scope)

    @cached_property
    def widths(self):
        return read_off.width_plan(self.swapped(), (self.images,), self.places, self.architecture)

    def plan(self, folded=False):
        w = self.wrapping
        return read_off.swap_plan(
            self.architecture, self.places, order=w.order, skip=w.skip, scope=w.scope, folded=folded
        )

    def swapped(self, folded=False):
        """The plain model with its hidden units still all there."""
        model = convert.apply_swaps_(copy.deepcopy(self.dense), self.plan(folded))
        return convert.searched_(model, self.net, self.gated, self.plan(folded)).eval()

    def plain(self, folded=False):
        """The plain model."""
        return cut_(self.swapped(folded), self.widths)


def case(make, operations, dtype=torch.float64, seed=0, **settings):
    """The supernet of a shaken model, its gates set to `operations` and to about half of the hidden units."""
    model = make().to(dtype)
    found = places.find_places(model, backbones.describe(model))
    wrapping = Wrapping(**settings)
    net = copy.deepcopy(model)
    gated = wrap.wrap_(net, found, wrapping)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for one, operation in zip(gated, operations, strict=True):
            at, hidden = one.attention, one.hidden
            if at.own:
                tiny.shake_(at.own, seed)
            else:
                at.mix.copy_(torch.randn(at.mix.shape, generator=generator, dtype=torch.float64))
            tiny.shake_(at.norms, seed)
            at.gates.theta.copy_(torch.tensor(OPENED[operation]))
            hidden.gates.theta.copy_(torch.randn(hidden.gates.theta.shape, generator=generator))
    return Case(model, tiny.images(model), found, wrapping, net.eval(), gated)
