"""The hand-checked anatomies: what is a site, a vector, an operation; and that every site is really called."""

import itertools

import pytest
import torch
from torch import nn

import tiny
from tailor import backbones
from tailor.backbones import generic, walk
from tailor.tuning import planner
from tailor.tuning.methods.bias import Bias
from tailor.tuning.methods.full import Full


def meta(name, **settings):
    import timm

    with torch.device("meta"):
        return timm.create_model(name, **settings)


@pytest.mark.parametrize("name", list(tiny.MODELS))
def test_every_site_is_called_as_a_module(name):
    model = tiny.MODELS[name]()
    for module in model.modules():
        if hasattr(module, "qkv_bias_separate"):
            module.qkv_bias_separate = True
    anatomy = backbones.describe(model)
    assert anatomy.family != "generic"
    silent = generic._uncalled(model, anatomy.inputs)
    assert not [s.path for s in anatomy.sites if s.path in silent]


@pytest.mark.parametrize("name", list(tiny.MODELS))
def test_sites_and_vectors_lie_in_the_model_and_do_not_overlap(name):
    model = tiny.MODELS[name]()
    anatomy = backbones.describe(model)
    parameters = dict(model.named_parameters())
    seen = {}
    for site in anatomy.sites:
        weight = parameters[site.tensor]
        rows = site.rows or (0, weight.shape[0])
        assert rows[1] - rows[0] == site.outputs
        assert weight[0].numel() == site.inputs
        seen.setdefault(site.tensor, []).append(rows)
    for vector in anatomy.vectors:
        rows = vector.rows or (0, parameters[vector.tensor].numel())
        assert rows[1] - rows[0] == vector.size
        seen.setdefault(vector.tensor, []).append(rows)
    for spans in seen.values():
        ordered = sorted(spans)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(ordered))
    assert not any(walk.within(t, anatomy.heads) for t in seen)


def test_vit_b_has_the_candidates_of_the_released_code():
    anatomy = backbones.describe(meta("vit_base_patch16_224"))
    assert len(anatomy.sites) == 72
    assert len(anatomy.vectors) == 122
    assert sum(s.size for s in anatomy.sites) == 84_934_656
    assert sum(v.size for v in anatomy.vectors) == 121_344
    assert anatomy.tokens == ("cls_token",)


@pytest.mark.parametrize(
    ("name", "parameters", "biases"),
    [
        ("vit_tiny_patch16_224", 5_524_416, None),
        ("vit_small_patch16_224", 21_665_664, None),
        ("vit_base_patch16_224", 85_798_656, 102_912),
        ("vit_large_patch16_224", 303_301_632, 272_384),
        ("swin_base_patch4_window7_224", 86_743_224, 137_216),
        ("convnext_base", 87_566_464, 130_304),
    ],
)
def test_parameter_counts_without_head(name, parameters, biases):
    """What full tuning and bias tuning cost, as published: the classifier, which the anatomy finds, is not counted."""
    model = meta(name, num_classes=7)
    anatomy = backbones.describe(model)
    assert planner.plan(model, anatomy, Full()).cost == parameters
    if biases:
        assert planner.plan(model, anatomy, Bias()).cost == biases


def test_a_model_nobody_described_says_so():
    model = backbones.create("regnetx_002", "random", 64)
    anatomy = backbones.describe(model)
    assert anatomy.family == "generic"
    assert "not described by hand" in anatomy.notes[0]
    assert anatomy.sites


def test_the_head_starts_small_and_seeded():
    one, two = tiny.vit(), tiny.vit()
    backbones.attach_head_(one, 4, seed=7)
    backbones.attach_head_(two, 4, seed=7)
    assert torch.equal(one.head.weight, two.head.weight)
    assert not one.head.bias.any()
    assert 0.01 < one.head.weight.std().item() < 0.03


def test_drop_path_rises_from_zero_and_goes_away_again():
    model = backbones.create("tailor_mini_s", "random")
    backbones.set_drop_path_(model, 0.1)
    rates = [getattr(b.drop_path1, "drop_prob", 0.0) for b in model.blocks]
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(0.1)
    backbones.set_drop_path_(model, 0.0)
    assert all(isinstance(b.drop_path2, nn.Identity) for b in model.blocks)
