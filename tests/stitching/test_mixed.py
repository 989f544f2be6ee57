"""A batch of mixed routes computes what its samples would one by one, and no block twice."""

import family
import pytest
import torch
from torch.testing import assert_close

from tailor.errors import PlanError
from tailor.stitching.mixed import forward_mixed
from tailor.stitching.plan import Leg, Route, StitchPlan
from tailor.stitching.routed import Routed


@torch.no_grad()
@pytest.mark.parametrize("name", family.FAMILIES)
def test_mixed_routes_equal_one_by_one(name):
    model, _ = family.adapted(family.FAMILIES[name]())
    model.double()
    count = len(model.plan.routes)
    order = torch.randperm(2 * count, generator=torch.Generator().manual_seed(0)) % count
    x = family.images(model, 2 * count, torch.float64)
    expected = torch.cat([model.set_route_(route)(x[i : i + 1]) for i, route in enumerate(order.tolist())])
    calls = []
    hooks = [
        model.block(a, b).register_forward_hook(lambda module, i, o: calls.append(module))
        for a, anatomy in enumerate(model.anatomies)
        for b in range(len(anatomy.blocks))
    ]
    assert_close(forward_mixed(model, x, order.tolist()), expected, rtol=0, atol=1e-10)
    assert len(calls) == len(set(calls)) == len(hooks)
    calls.clear()
    assert_close(forward_mixed(model, x[:2], order[:2].tolist()), expected[:2], rtol=0, atol=1e-10)
    assert len(calls) == len(set(calls))
    for hook in hooks:
        hook.remove()
    assert_close(model.set_route_(count - 1)(x[:1]), model(x[:1]), rtol=0, atol=0)


def test_requests_that_do_not_fit_are_refused():
    model, _ = family.adapted(family.vits())
    x = family.images(model)
    with pytest.raises(PlanError, match="3 routes were given for 2 images"):
        forward_mixed(model, x, [0, 1, 2])
    layers = model.plan.layers
    legs = (Leg(0, 0, 1), Leg(1, 1, 2), Leg(0, 2, 3))
    back = StitchPlan((*layers, layers[0].__class__(1, 0, 48, 32)), (Route(legs, (0, len(layers))),))
    turning = Routed(list(model.anchors), model.anatomies, back)
    with pytest.raises(PlanError, match="goes back to an anchor"):
        forward_mixed(turning, x, [0, 0])
    assert turning.set_route_(0)(x).shape == (2, 5)
