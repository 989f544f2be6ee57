"""What trains in a palette of ViT-Ti, S and B, counted on the meta device, against the paper's figures."""

import family
import pytest
import timm
import torch

from tailor import backbones
from tailor.stitching.adapt import Adapt, bias_plan, heads_of, tune_plan
from tailor.stitching.join import shape_of
from tailor.stitching.routed import Routed
from tailor.stitching.space import Space, stitch_plan
from tailor.surgery import get_module, trainable


@pytest.fixture(scope="module")
def large():
    with torch.device("meta"):
        anchors = [timm.create_model(f"vit_{n}_patch16_224", num_classes=100).eval() for n in ("tiny", "small", "base")]
        anatomies = [backbones.describe(anchor) for anchor in anchors]
        shapes = [shape_of(anchor, anatomy) for anchor, anatomy in zip(anchors, anatomies, strict=True)]
        return Routed(anchors, anatomies, stitch_plan(shapes, Space()))


def heads(model):
    return sum(p.numel() for path in heads_of(model) for p in get_module(model, path).parameters())


def test_estas_trainable_parameters(large):
    tune, bias = tune_plan(large, Adapt()), bias_plan(large, Adapt())
    intercept = 11 * 384 + 11 * 768
    assert intercept == 12_672
    assert bias.cost == 1_410_048
    assert tune.cost - intercept == 1_327_104 + 1_520_640
    assert tune.cost - intercept + bias.cost + heads(large) == 4_392_492
    assert round(tune.cost - intercept + bias.cost + 234.6 * (192 + 384 + 768 + 3)) == 4_573_798


def test_the_cheap_mode_has_half_the_biases(large):
    assert bias_plan(large, Adapt(biases=("q", "proj"))).cost == 705_024
    assert bias_plan(large, Adapt(biases=("qkv",))).cost == 1_057_536
    assert bias_plan(large, Adapt(biases=())).cost == 0


def test_stitching_layers_trained_whole(large):
    whole, ranked = tune_plan(large, Adapt(divisor=0)), tune_plan(large, Adapt())
    assert whole.cost - ranked.cost == 11 * (192 * 384 + 384 * 768) - 1_520_640
    everything = sum(p.numel() for p in large.parameters()) - heads(large)
    assert tune_plan(large, Adapt(full=True)).cost == everything


@pytest.mark.parametrize("name", family.FAMILIES)
def test_plans_count_what_then_trains(name):
    model, _ = family.adapted(family.FAMILIES[name]())
    anchors = len(model.anchors)
    fresh = family.routed(family.FAMILIES[name]())
    settings = Adapt(ranks=(2,) * anchors)
    counted = tune_plan(fresh, settings).cost + bias_plan(fresh, settings).cost + heads(fresh)
    assert sum(p.numel() for p in trainable(model).values()) == counted
