"""Widths of small Swin-, ConvNeXt- and ResNet-like models through the verbs, shaken: cut, read, cut again, used."""

import importlib

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import register_model

import tailor
import tiny
from tailor import backbones, bundle
from tailor.backbones import describe
from tailor.surgery import get_module

VERB = importlib.import_module("tailor.workflow.prune")
X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
SHORT = {"epochs": 1, "batch_size": 12}


@register_model
def tailor_test_swin(pretrained=False, **settings):
    """A Swin of two stages."""
    small = {"embed_dim": 32, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4, "img_size": 32}
    return timm.create_model("swin_tiny_patch4_window7_224", **{**small, **settings})


@register_model
def tailor_test_convnext(pretrained=False, **settings):
    """A ConvNeXt of four thin stages."""
    return timm.create_model("convnext_atto", dims=(16, 24, 32, 48), depths=(1, 1, 2, 1), **settings)


@register_model
def tailor_test_resnet(pretrained=False, **settings):
    """A ResNet of bottlenecks with a thin stem."""
    thin = {"layers": (1, 1, 1, 1), "channels": (16, 16, 32, 32), "stem_width": 16}
    return timm.create_model("resnet26", **thin, **settings)


@pytest.fixture(scope="module", params=["tailor_test_swin", "tailor_test_convnext", "tailor_test_resnet"])
def adapted(request, photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    shaken = tiny.shake_(backbones.create(request.param, "random", 32))
    save_file({name: t.contiguous() for name, t in shaken.state_dict().items()}, folder / "weights.safetensors")
    return tailor.adapt(
        photos,
        model=request.param,
        weights=str(folder / "weights.safetensors"),
        image_size=32,
        method="lora-2",
        out=folder / "a",
        **SHORT,
    )


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("adapters", ["merge", "keep"])
def test_cut_read_cut_again_and_used(adapted, photos, tmp_path, adapters):
    settings = {"data": photos, "method": "isomorphic", "criterion": "taylor", "adapters": adapters}
    settings["recipe"] = {"drop_path": 0.1}
    once = tailor.prune(adapted.bundle, emb="25%", mlp="25%", out=tmp_path / "1", **settings)
    twice = tailor.prune(once.bundle, macs="92%", retrain="1clr", out=tmp_path / "2", **settings, **SHORT)
    assert twice.macs_after <= 0.92 * once.macs_after
    assert twice.accuracy_before == once.accuracy_after and twice.macs_before == once.macs_after
    assert [plan.kind for plan in bundle.read(twice.bundle).spec.plans].count("width") == 2
    assert tailor.evaluate(twice.bundle, photos).accuracy == twice.accuracy_after
    model = tailor.load(twice.bundle)
    assert model.num_features == get_module(model, describe(model).heads[0]).in_features
    assert tailor.predict(twice.bundle, f"{photos}/test/red/0.png")[0].label in ("red", "green", "blue")
    merged = tailor.merge(twice.bundle, out=tmp_path / "m")
    with torch.no_grad():
        torch.testing.assert_close(tailor.load(merged.bundle)(X), model(X), rtol=1e-4, atol=1e-4)
    written = tailor.export(twice.bundle, out=tmp_path / "model.pt2")  # compared with the eager model before it is kept
    assert (tmp_path / "model.pt2").is_file() and written
