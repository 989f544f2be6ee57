"""The least-squares start against `lstsq` over the pooled tokens; parts of the images merge; modes are left alone."""

import family
import pytest
import torch
from torch.testing import assert_close

from tailor.stitching.start import start_, sums_of


def reference(model, number, x):
    """Weight and bias of layer `number` by `lstsq` on the tokens of all its pairs, walked by hand."""
    tokens, targets = [], []
    for route in model.plan.routes:
        if route.layers == (number,):
            a, b = route.legs
            front, tail = model.anchors[a.anchor], model.anchors[b.anchor]
            left, entered = front._pos_embed(front.patch_embed(x)), tail._pos_embed(tail.patch_embed(x))
            for block in front.blocks[: a.stop]:
                left = block(left)
            for block in tail.blocks[: b.start]:
                entered = block(entered)
            tokens.append(left.flatten(0, 1))
            targets.append(entered.flatten(0, 1))
    a, t = torch.cat(tokens), torch.cat(targets)
    solution = torch.linalg.lstsq(torch.cat([a, torch.ones_like(a[:, :1])], 1), t).solution
    return solution[:-1].t(), solution[-1]


@torch.no_grad()
def test_layers_start_at_the_joint_optimum():
    model = family.routed(family.vits()).double().train()
    x = family.images(model, 12, torch.float64)
    whole = sums_of(model, [x])
    assert model.training and model.anchors[0].blocks[0].training
    halves = [sums_of(model, [part]) for part in x.split(3)]
    merged = halves[0]
    for half in halves[1:]:
        merged = {n: merged[n].merge(half[n]) for n in merged}
    fits = start_(model.eval(), merged)
    for number, layer in enumerate(model.layers):
        assert_close(merged[number].gram, whole[number].gram, rtol=1e-12, atol=1e-9)
        weight, bias = reference(model, number, x)
        assert_close(layer.weight, weight, rtol=0, atol=1e-7)
        assert_close(layer.bias, bias, rtol=0, atol=1e-7)
        assert 0 < fits[number].explained < 1


@torch.no_grad()
@pytest.mark.parametrize("name", ["swin", "convnext", "resnet"])
def test_families_with_stages_start_better_than_by_chance(name):
    model = family.routed(family.FAMILIES[name]())
    x = family.images(model, 4)
    anchors = len(model.anchors)
    routes = range(anchors, len(model.plan.routes))

    def apart():
        return sum(float((model.set_route_(r)(x) - model.anchors[-1](x)).square().sum()) for r in routes)

    model.train()
    anew = sums_of(model, [x])  # in eval mode all the same: batch norms do not see the batch
    model.eval()
    before = apart()
    fits = start_(model, sums_of(model, [x]))
    assert apart() < before
    for number, part in sums_of(model, [x]).items():
        assert_close(part.gram, anew[number].gram, rtol=0, atol=0)
    assert all(0 < fit.explained <= 1 for fit in fits.values())
