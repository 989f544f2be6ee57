"""Laws of the routed model: what a route computes, what training reaches, and that a pick is the route."""

import copy

import family
import pytest
import torch
from torch.testing import assert_close

import tiny
from tailor import backbones
from tailor.errors import PlanError
from tailor.stitching.adapt import Adapt
from tailor.stitching.biases import RouteBias
from tailor.stitching.join import joined
from tailor.stitching.picked import picked
from tailor.stitching.space import Space
from tailor.surgery import trainable

NAMES = list(family.FAMILIES)


def by_hand(front, layer, tail, route, x):
    """A route of plain ViTs, written out."""
    a, b = route.legs
    x = front.norm_pre(front._pos_embed(front.patch_embed(x)))
    for block in front.blocks[: a.stop]:
        x = block(x)
    x = layer(x)
    for block in tail.blocks[b.start :]:
        x = block(x)
    return tail.forward_head(tail.norm(x))


def test_a_route_is_its_legs_one_after_the_other():
    model = family.routed(family.vits())
    x = family.images(model)
    for number, route in enumerate(model.plan.routes):
        found = model.set_route_(number)(x)
        if len(route.legs) == 1:
            assert_close(found, model.anchors[number](x), rtol=0, atol=0)
        else:
            front, tail = model.anchors[route.front], model.anchors[route.tail]
            assert_close(found, by_hand(front, model.layers[route.layers[0]], tail, route, x), rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_an_anchor_stitched_to_itself_by_the_identity_is_itself(name):
    anchor = family.FAMILIES[name]()[-1]
    model = family.routed([anchor, copy.deepcopy(anchor)])
    x = family.images(model)
    checked = 0
    for number, route in enumerate(model.plan.routes):
        if len(route.legs) == 2 and route.legs[0].stop == route.legs[1].start:
            layer = model.layers[route.layers[0]]
            with torch.no_grad():
                layer.weight.copy_(torch.eye(len(layer.bias)).view_as(layer.weight))
                layer.bias.zero_()
            assert_close(model.set_route_(number)(x), anchor(x), rtol=0, atol=1e-5)
            checked += 1
    assert checked


@pytest.mark.parametrize("name", NAMES)
def test_nothing_changes_until_it_is_trained(name):
    plain = family.routed(family.FAMILIES[name]())
    model, _ = family.adapted(family.FAMILIES[name](), trained=False)
    x = family.images(model)
    for number in range(len(model.plan.routes)):
        assert_close(model.set_route_(number)(x), plain.set_route_(number)(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("biases", [("qkv", "proj"), ("q", "proj")])
@pytest.mark.parametrize("name", NAMES)
def test_a_picked_route_is_the_route(name, biases):
    anchors = family.FAMILIES[name]()
    model, plan = family.adapted(anchors, Adapt(ranks=(2,) * len(anchors), biases=biases))
    model.double()
    x = family.images(model, dtype=torch.float64)
    for number, route in enumerate(model.plan.routes):
        plain = picked(model, plan, number)
        assert type(plain) is type(model.anchors[route.front])
        assert not [m for m in plain.modules() if isinstance(m, RouteBias) or hasattr(m, "base")]
        assert_close(plain(x), model.set_route_(number)(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_only_what_a_route_crosses_gets_a_gradient(name):
    model, _ = family.adapted(family.FAMILIES[name]())
    x = family.images(model)
    for number, route in enumerate(model.plan.routes):
        model.zero_grad(set_to_none=True)
        model.set_route_(number)(x).square().sum().backward()
        touched = {n for n, p in trainable(model).items() if p.grad is not None}
        assert touched
        assert {n for n in touched if n.startswith("biases.")} == ({f"biases.{number}"} if route.layers else set())
        assert {int(n.split(".")[1]) for n in touched if n.startswith("layers.")} == set(route.layers)
        assert {int(n.split(".")[1]) for n in touched if n.startswith("anchors.")} <= {leg.anchor for leg in route.legs}


def test_biases_reach_exactly_the_rows_of_their_site():
    model, _ = family.adapted(family.vits(), Adapt(ranks=(2, 2, 2), biases=("q",)), trained=False)
    number = len(model.anchors)
    layer = next(m for m in model.modules() if isinstance(m, RouteBias))
    with torch.no_grad():
        model.biases[str(number)] += 1
    model.current.biases = model.biases_of(number)
    x = torch.randn(2, 5, 32)
    width = layer.rows[1]
    assert_close(layer(x)[..., :width], layer.base(x)[..., :width] + 1)
    assert_close(layer(x)[..., width:], layer.base(x)[..., width:], rtol=0, atol=0)


def test_modes_and_copies_reach_what_only_a_view_has():
    model, _ = family.adapted(family.vits())
    x = family.images(model)
    number = model.plan.find("0.0-1.1")
    expected = model.set_route_(number)(x)
    model.train()
    assert all(m.training for m in model.view(number).modules())
    model.eval()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.zero_()
    assert_close(twin(x), expected, rtol=0, atol=0)
    assert twin.view(number).blocks[0] is twin.anchors[0].blocks[0]


def test_what_cannot_be_joined_is_refused():
    vit, other = tiny.vit(), tiny.swin()
    with pytest.raises(PlanError, match="cannot go on in one at"):
        joined(vit, vit.blocks[0], torch.nn.Identity(), other, other.layers[0].blocks[1])
    with pytest.raises(PlanError, match="has no route `7"):
        family.routed(family.vits()).plan.find("7.1-2.2")
    with pytest.raises(PlanError, match="17 tokens leave an anchor where 65 enter"):
        family.routed([tiny.vit(), tiny.vit(patch_size=4)])
    with pytest.raises(PlanError, match="rotary"):
        family.routed([tiny.eva(), tiny.eva()])
    with pytest.raises(PlanError, match="2 ranks were given for 3"):
        family.adapted(family.vits(), Adapt(ranks=(2, 2)))


def test_unequal_depths_run():
    model = family.routed([tiny.vit(depth=2), tiny.vit(depth=4, embed_dim=48)], Space())
    assert [r.name for r in model.plan.routes] == ["0", "1", "0.0-1.1", "0.1-1.2", "0.1-1.3"]
    x = family.images(model)
    assert all(model.set_route_(n)(x).shape == (2, tiny.CLASSES) for n in range(5))


def test_a_pick_takes_a_fresh_head_of_its_tails_width():
    model, plan = family.adapted(family.vits())
    plain = backbones.attach_head_(picked(model, plan, model.plan.find("0.1-1.1")), 7)
    assert plain(family.images(model)).shape == (2, 7)
