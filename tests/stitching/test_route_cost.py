"""MACs of routes: the sum of the pieces is what is counted, and what the papers' counter says of ViT-Ti, S and B."""

import family
import pytest
import timm
import torch

from tailor import backbones
from tailor.measure.count import macs, macs_along
from tailor.stitching.cost import Pieces, costs, route_cost
from tailor.stitching.join import shape_of
from tailor.stitching.space import Space, stitch_plan

TOKENS = 197


def pieces_of(anchors):
    anatomies = [backbones.describe(anchor) for anchor in anchors]
    paths = [[block.path for block in anatomy.blocks] for anatomy in anatomies]
    inputs = [anatomy.inputs for anatomy in anatomies]
    return [Pieces.along(macs_along(*one)) for one in zip(anchors, inputs, paths, strict=True)]


@pytest.mark.parametrize("name", family.FAMILIES)
def test_pieces_add_up_to_what_is_counted(name):
    model = family.routed(family.FAMILIES[name]())
    shapes = [shape_of(anchor, anatomy) for anchor, anatomy in zip(model.anchors, model.anatomies, strict=True)]
    inputs = model.anatomies[0].inputs
    for number, cost in enumerate(costs(model.plan, shapes, pieces_of(model.anchors))):
        assert cost == macs(model.view(number), inputs)


@pytest.fixture(scope="module")
def large():
    with torch.device("meta"):
        anchors = [timm.create_model(f"vit_{name}_patch16_224").eval() for name in ("tiny", "small", "base")]
        shapes = [shape_of(anchor, backbones.describe(anchor)) for anchor in anchors]
        return stitch_plan(shapes, Space()), shapes, pieces_of(anchors)


def with_norms(plan, shapes, route):
    """What the papers' counter adds: five for each number that a norm sees; two norms a block, one at the end."""
    norms = sum(2 * 5 * TOKENS * shapes[leg.anchor].widths[0] * (leg.stop - leg.start) for leg in route.legs)
    return norms + 5 * TOKENS * shapes[route.tail].widths[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("0", 1_258_411_200),
        ("1", 4_608_338_304),
        ("2", 17_582_740_224),
        ("0.0-1.1", 4_317_240_960),
        ("0.7-1.7", 2_759_346_048),
        ("1.6-2.7", 10_048_796_928),
        ("0.11-1.11", 1_652_464_512),
        ("0.10-1.11", 1_550_037_120),
    ],
)
def test_the_papers_counts(large, name, expected):
    plan, shapes, pieces = large
    route = plan.routes[plan.find(name)]
    assert route_cost(plan, route, shapes, pieces) + with_norms(plan, shapes, route) == expected


def test_the_cheapest_and_the_dearest_stitch(large):
    plan, shapes, pieces = large
    found = {r.name: route_cost(plan, r, shapes, pieces) for r in plan.routes if r.layers}
    assert min(found, key=found.__getitem__) == "0.10-1.11"
    assert max(found, key=found.__getitem__) == "1.2-2.1"
    assert round((found["1.2-2.1"] + with_norms(plan, shapes, plan.routes[plan.find("1.2-2.1")])) / 1e9, 3) == 17.265


def test_blocks_of_a_plain_vit_have_the_closed_form(large):
    _, shapes, pieces = large
    for shape, piece in zip(shapes, pieces, strict=True):
        width = shape.widths[0]
        assert piece.stem == 150_528 * width
        assert set(piece.blocks) == {12 * width**2 * TOKENS + 2 * TOKENS**2 * width}
        assert piece.tail == 1000 * width
