"""What a whole model says of itself after a cut: widths as they are, for whoever builds on its features."""

import copy

import pytest
import torch

import tiny
from tailor.backbones import describe
from tailor.surgery import get_module
from tailor.tracing import cut_, plan_widths, settle, trace
from tailor.tracing.trial.settle import uneven

FAMILIES = ["vit", "swin", "swin2", "convnext", "convnext_nchw", "resnet"]


@pytest.fixture(scope="module", params=FAMILIES)
def narrow(request):
    """A tiny model with about half of everything gone, and the dense one."""
    dense = tiny.MODELS[request.param]()
    traced = settle(dense, trace(dense, (tiny.images(dense),)), (tiny.images(dense),))
    return cut_(copy.deepcopy(dense), plan_widths(traced.groups, uneven(traced.groups))), dense


def test_widths_of_the_whole_model_are_true(narrow):
    model, dense = narrow
    head = describe(model).heads[0]
    reads = get_module(model, head).in_features
    assert reads < get_module(dense, head).in_features
    assert model.num_features == model.head_hidden_size == reads
    with torch.no_grad():
        features = model.forward_features(tiny.images(model))
    assert reads in features.shape
    if hasattr(model, "embed_dim"):
        assert model.embed_dim == model.patch_embed.proj.out_channels


def test_feature_levels_are_true(narrow):
    model, dense = narrow
    found = {}
    for level in model.feature_info:
        get_module(model, level["module"]).register_forward_hook(
            lambda m, given, out, name=level["module"]: found.update({name: out})
        )
    with torch.no_grad():
        model(tiny.images(model))
    for level, before in zip(model.feature_info, dense.feature_info, strict=True):
        assert level["num_chs"] in found[level["module"]].shape[1:], level
        assert level["num_chs"] < before["num_chs"]
    for feature in describe(model).features:
        assert feature.width in {level["num_chs"] for level in model.feature_info}
