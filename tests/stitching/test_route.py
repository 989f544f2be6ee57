"""A picked route from its plan: the stock backbone, joined anew, holds the picked tensors and computes the route."""

import family
import pytest
from torch.testing import assert_close

import tiny
from tailor import backbones
from tailor.errors import PlanError
from tailor.pruning.layers import LayerPlan
from tailor.stitching.picked import picked
from tailor.stitching.plan import Layer
from tailor.stitching.route import Continuation, RoutePlan, go_on_, route_plans


def made(names, plans=((), ())):
    anchors = [backbones.attach_head_(backbones.create(name, "random", seed=i), 5) for i, name in enumerate(names)]
    parts = [Continuation(name, None, plan) for name, plan in zip(names, plans, strict=True)]
    return [tiny.shake_(anchor, i) for i, anchor in enumerate(anchors)], parts


def test_a_route_is_rebuilt_from_names():
    anchors, parts = made(["tailor_mini_ti", "tailor_mini_s"])
    model, tune = family.adapted(anchors)
    x = family.images(model)
    for name in ("0.3-1.4", "0.11-1.11"):
        route = model.plan.find(name)
        plain = picked(model, tune, route)
        (plan,) = route_plans(model, route, parts)
        again = go_on_(backbones.attach_head_(backbones.create(parts[0].name, "random"), 5), plan, most=10**6)
        again.load_state_dict(plain.state_dict())
        assert_close(again(x), model.set_route_(route)(x), rtol=0, atol=1e-5)
        anatomy = backbones.describe(again)
        assert [b.width for b in anatomy.blocks] == [64] * model.plan.routes[route].legs[0].stop + [96] * (
            12 - model.plan.routes[route].legs[1].start
        )
        assert anatomy.width == 96
        parted = backbones.parts(again)
        assert_close(parted(x), again(x), rtol=0, atol=1e-5)


def test_plans_of_a_pruned_tail_come_first():
    anchors, parts = made(
        ["tailor_mini_ti", "tailor_mini_s"], ((), (LayerPlan((0, 1, 2), tuple(f"blocks.{i}" for i in range(3, 12))),))
    )
    del anchors[1].blocks[3:]
    model, tune = family.adapted(anchors)
    route = len(model.plan.routes) - 1
    (plan,) = route_plans(model, route, parts)
    again = go_on_(backbones.attach_head_(backbones.create(parts[0].name, "random"), 5), plan)
    again.load_state_dict(picked(model, tune, route).state_dict())
    x = family.images(model)
    assert_close(again(x), model.set_route_(route)(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["swin", "convnext", "resnet", "efficientnet"])
def test_a_joined_family_with_stages_is_described_and_taken_apart(name):
    model, tune = family.adapted(family.FAMILIES[name]())
    x = family.images(model)
    for number, route in enumerate(model.plan.routes):
        plain = picked(model, tune, number)
        anatomy = backbones.describe(plain)
        blocks = sum(leg.stop - leg.start for leg in route.legs)
        assert len(anatomy.blocks) == blocks
        again = [b.width for leg in route.legs for b in model.anatomies[leg.anchor].blocks[leg.start : leg.stop]]
        assert [b.width for b in anatomy.blocks] == again
        parted = backbones.parts(plain)
        assert_close(parted(x), plain(x), rtol=0, atol=1e-5)
        assert sum(part.residual for part in parted.blocks) == blocks


def test_a_joint_that_cannot_be_is_refused():
    anchors, parts = made(["tailor_mini_ti", "tailor_mini_s"])
    with pytest.raises(PlanError, match="stored numbers do not fit"):
        go_on_(anchors[0], RoutePlan(parts[1], "blocks.0", "blocks.1", Layer(0, 1, 64, 10**7)), most=10**6)
    with pytest.raises(PlanError, match="no module"):
        go_on_(anchors[0], RoutePlan(parts[1], "blocks.40", "blocks.1", Layer(0, 1, 64, 96)))
    with pytest.raises(PlanError, match=r"`norm` takes no bias"):
        go_on_(anchors[0], RoutePlan(parts[1], "blocks.0", "blocks.1", Layer(0, 1, 64, 96), biased=("norm",)))
