"""Backbones with convolutions that standardise their weight or pad by the image: left out by name, never miscounted."""

import pytest
import timm
import torch
from torch import nn

import tiny
from tailor.backbones import describe
from tailor.errors import PlanError
from tailor.surgery import computes_plainly, trainable
from tailor.tuning import planner
from tailor.tuning.apply import apply_, merge_
from tailor.tuning.methods import MODULES
from tailor.tuning.sparse import tune_entries_

SMALL = {
    "resnetv2_18": {"conv_layer": timm.layers.StdConv2d},
    "test_nfnet": {},
    "tf_mobilenetv3_small_minimal_100": {},
}


@pytest.fixture(params=SMALL)
def model(request):
    torch.manual_seed(0)
    made = timm.create_model(request.param, num_classes=5, **SMALL[request.param])
    return tiny.shake_(made).double().eval()


def shown(model):
    return torch.randn(2, 3, 67, 67, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_they_are_named_and_are_no_sites(model):
    anatomy = describe(model)
    odd = {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and not computes_plainly(m)}
    assert odd and not odd & {site.path for site in anatomy.sites} and not odd & set(anatomy.operations)
    assert any("compute in a way of their own" in note for note in anatomy.notes)


@pytest.mark.parametrize("kind", ["lora", "ssf", "site-adapter"])
def test_methods_merge_exactly_or_say_that_they_have_no_place(model, kind):
    anatomy, images = describe(model), shown(model)
    try:
        plan = planner.plan(model, anatomy, MODULES[kind]())
    except PlanError as error:
        assert error.hint
        return
    tuned = apply_(model, plan, anatomy.heads).eval()
    with torch.no_grad():
        for parameter in trainable(tuned).values():
            parameter.add_(0.05 * torch.randn(parameter.shape, dtype=parameter.dtype))
        before = tuned(images)
        if MODULES[kind].merges:
            torch.testing.assert_close(merge_(tuned, plan)(images), before, atol=1e-9, rtol=1e-9)


def test_single_entries_compute_alike_with_and_without_gradients(model):
    odd = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and not computes_plainly(m)]
    images, plain = shown(model), model(shown(model)).detach()
    model.requires_grad_(False)
    for path in odd[:3]:
        tune_entries_(model, f"{path}.weight", torch.tensor([0, 3]))
    learnt = model(images)
    torch.testing.assert_close(learnt, plain)
    learnt.sum().backward()
    deltas = [p for n, p in model.named_parameters() if n.endswith("delta")]
    assert len(deltas) == 3 and all(p.grad is not None and p.grad.any() for p in deltas)
    with torch.no_grad():
        for delta in deltas:
            delta.add_(0.1)
        wanted = model(images)
    torch.testing.assert_close(model(images).detach(), wanted)
    assert not torch.equal(wanted, plain)


def test_a_plan_that_names_one_is_refused():
    layer = timm.layers.StdConv2d(3, 4, 3)
    for kind in ("lora", "site-adapter", "ssf"):
        with pytest.raises(PlanError, match="StdConv2d"):
            MODULES[kind]().wrap(layer)
