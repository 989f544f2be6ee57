"""Low-rank updates that begin in their layers' inputs: the principal directions, and no other function."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import tiny
from tailor import backbones
from tailor.errors import PlanError
from tailor.tuning.apply import apply_
from tailor.tuning.methods.lora import Lora
from tailor.tuning.plan import Tune, TunePlan
from tailor.tuning.planner import parse, plan
from tailor.tuning.spt.settings import Spt
from tailor.tuning.start import Moments, start_


def batches(model, count=3):
    found = [tiny.images(model, 4, seed) for seed in range(count)]
    return lambda: iter(found)


def begun(model, tune, images):
    wrapped = apply_(copy.deepcopy(model), tune, ())
    start_(wrapped, tune, images)
    return wrapped


@pytest.mark.parametrize("family", ["vit", "swin", "convnext", "resnet"])
def test_the_function_is_the_same_and_the_directions_are_orthonormal(family):
    model = tiny.shake_(getattr(tiny, family)()).eval()
    tune = plan(model, backbones.describe(model), parse("eva-2"))
    images = batches(model)
    wrapped = begun(model, tune, images)
    with torch.inference_mode():
        assert_close(wrapped(next(images())), model(next(images())), rtol=1e-5, atol=1e-5)
    for one in tune.tunes:
        down = wrapped.get_submodule(one.path).down.flatten(1)
        assert_close(down @ down.T, torch.eye(2), rtol=1e-4, atol=1e-5)


def test_they_are_those_of_the_largest_variance():
    model = tiny.shake_(tiny.vit()).eval()
    method = Lora(rank=3, start="inputs")
    parts = {"q": (0, 8), "v": (16, 24)}
    tune = TunePlan("eva", tunes=tuple(Tune(f"blocks.1.attn.qkv[{p}]", method, rows) for p, rows in parts.items()))
    images, seen = batches(model), []
    handle = model.blocks[1].attn.qkv.register_forward_pre_hook(lambda _, given: seen.append(given[0].flatten(0, 1)))
    for one in images():
        model(one)
    handle.remove()
    rows = torch.cat(seen)
    best = torch.linalg.svd(rows - rows.mean(0)).Vh[:3]
    first, second = begun(model, tune, images).blocks[1].attn.qkv.down.chunk(2)
    assert torch.equal(first, second)
    assert_close((first @ best.T).abs(), torch.eye(3), rtol=1e-3, atol=2e-3)


def test_what_varies_in_fewer_directions_leaves_the_rest_at_random():
    found = Moments()
    found.add_(torch.randn(20, 2) @ torch.randn(2, 6))
    assert found.directions(4).shape == (2, 6)


def test_only_what_asks_is_moved_and_convolutions_count_as_matrices():
    model = tiny.shake_(tiny.resnet()).eval()
    tune = TunePlan(
        "mixed", tunes=(Tune("layer1.0.conv1", Lora(rank=2, start="inputs")), Tune("layer2.0.conv1", Lora(rank=2)))
    )
    plain, wrapped = apply_(copy.deepcopy(model), tune, ()), apply_(copy.deepcopy(model), tune, ())
    assert start_(wrapped, tune, batches(model)) == 1
    assert torch.equal(plain.layer2[0].conv1.down, wrapped.layer2[0].conv1.down)
    images, seen = batches(model), []
    conv = model.layer1[0].conv1
    conv.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for one in images():
        model(one)
    patches = nn.functional.unfold(torch.cat(seen), conv.kernel_size, padding=conv.padding, stride=conv.stride)
    rows = patches.transpose(1, 2).flatten(0, 1)
    best = torch.linalg.svd(rows - rows.mean(0), full_matrices=False).Vh[:2]
    assert_close((wrapped.layer1[0].conv1.down.flatten(1) @ best.T).abs(), torch.eye(2), rtol=1e-2, atol=1e-1)


def test_names_and_settings():
    assert parse("eva-4") == Lora(rank=4, start="inputs")
    assert Spt(start="inputs").name == "spt-eva" and Spt(start="inputs").module().start == "inputs"
    with pytest.raises(PlanError, match="only LoRA"):
        Spt(structured="site-adapter", start="inputs")
