"""The stitching spaces against the counts and lists of the papers and of the released configurations."""

from dataclasses import replace

import pytest

from tailor.errors import PlanError
from tailor.stitching.space import Shape, Space, paired, pairs, stitch_plan, unpaired


def plain(depth, width=8):
    return Shape((0,) * depth, (width,) * depth, ((197,),) * depth)


def staged(*depths, width=8, spatial=False):
    stages = tuple(s for s, depth in enumerate(depths) for _ in range(depth))
    return Shape(stages, tuple(width * 2**s for s in stages), tuple((56 >> s,) * 2 for s in stages), spatial)


@pytest.mark.parametrize(
    ("window", "stride", "count", "layers"),
    [
        *[(1, 1, 12, 12), (2, 1, 34, 11), (2, 2, 24, 6), (3, 1, 54, 10), (3, 2, 44, 6), (3, 3, 36, 4)],
        *[(4, 1, 72, 9), (4, 2, 64, 5), (4, 4, 48, 3)],
    ],
)
def test_windows_over_twelve_blocks(window, stride, count, layers):
    found = paired(12, Space(window, stride, first=0))
    assert len(found) == count
    assert {at for *_, at in found} == set(range(layers))


def test_the_shared_layer_has_its_closed_form_and_the_released_order():
    found = paired(12, Space(first=0))
    assert all(at == max(max(j, k) - 1, 0) for j, k, at in found)
    assert [(j, k) for j, k, _ in found[:10]] == [
        *[(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (3, 2), (3, 3)]
    ]


@pytest.mark.parametrize(("first", "each", "all_in_all"), [(0, 34, 71), (1, 32, 67)])
def test_three_plain_anchors(first, each, all_in_all):
    plan = stitch_plan([plain(12, 192), plain(12, 384), plain(12, 768)], Space(first=first))
    assert len(plan.routes) == all_in_all == 3 + 2 * each
    assert [(layer.inputs, layer.outputs) for layer in plan.layers] == [(192, 384)] * 11 + [(384, 768)] * 11
    assert [route.name for route in plan.routes[:4]] == ["0", "1", "2", "0.0-1.0" if first == 0 else "0.0-1.1"]


@pytest.mark.parametrize(("front", "tail", "count"), [(6, 18, 17), (12, 24, 23), (32, 40, 39), (2, 6, 5), (2, 4, 3)])
def test_unequal_depths_share_the_layer_of_the_fronts_block(front, tail, count):
    found = unpaired(front, tail, Space())
    assert len(found) == count
    assert all(j == k * front // tail and k > j for j, k, _ in found)
    assert len({(j, at) for j, _, at in found}) == len({j for j, *_ in found}) == len({at for *_, at in found})


def test_lists_of_unequal_depths():
    assert unpaired(6, 18, Space())[:4] == ((0, 1, 0), (0, 2, 0), (1, 3, 1), (1, 4, 1))
    assert [(j, k) for j, k, _ in unpaired(2, 6, Space())] == [(0, 1), (0, 2), (1, 3), (1, 4), (1, 5)]
    assert len(unpaired(32, 40, Space(leading=True))) == 40


def test_a_deeper_front_reaches_every_block_of_the_tail_but_the_first():
    assert [(j, k) for j, k, _ in unpaired(6, 3, Space())] == [(2, 1), (4, 2)]


@pytest.mark.parametrize(
    ("shapes", "stages", "count"),
    [
        ([(2, 2, 6, 2), (2, 2, 18, 2), (2, 2, 18, 2)], (), 41),
        ([(2, 2, 2, 2), (3, 4, 6, 3)], (1, 2), 10),
        ([(2, 2, 2, 2), (2, 2, 6, 2)], (1, 2), 8),
        ([(4, 4, 4), (4, 4, 4)], (), 8),
        ([(3, 3, 9, 3), (3, 3, 27, 3), (3, 3, 27, 3)], (), 3 + 2 * (2 + 2) + 26 + 26),
    ],
    ids=["swin", "resnet", "resnet-swin", "levit", "convnext"],
)
def test_families_with_stages(shapes, stages, count):
    plan = stitch_plan([staged(*shape) for shape in shapes], Space(stages=stages))
    assert len(plan.routes) == count
    for route in plan.routes[len(shapes) :]:
        front, tail = (staged(*shapes[leg.anchor]) for leg in route.legs)
        j, k = route.legs[0].stop - 1, route.legs[1].start
        stage = front.stages[j]
        assert stage == tail.stages[k] < len(shapes[0]) - 1
        assert j - front.stages.index(stage) < k - tail.stages.index(stage)
        layer = plan.layers[route.layers[0]]
        assert (layer.inputs, layer.outputs) == (front.widths[j], tail.widths[k])


def test_swins_third_stage_has_six_and_seventeen_layers():
    small, large = staged(2, 2, 6, 2), staged(2, 2, 18, 2)
    assert len({at for j, _, at in pairs(small, large, Space()) if small.stages[j] == 2}) == 6
    assert len({at for j, _, at in pairs(large, large, Space()) if large.stages[j] == 2}) == 17


def test_other_stages_are_refused():
    with pytest.raises(PlanError, match="4 stages cannot be joined to one of 1"):
        pairs(staged(2, 2, 2, 2), plain(12), Space())
    with pytest.raises(PlanError, match="no stage 7"):
        pairs(staged(2, 2), staged(2, 2), Space(stages=(7,)))
    with pytest.raises(PlanError, match="56x56 tokens leave an anchor where 112x112 enter"):
        one = staged(2, 2)
        stitch_plan([one, replace(one, maps=((112, 112),) * 4)], Space())
    with pytest.raises(PlanError, match="channels before height"):
        stitch_plan([staged(2, 2), staged(2, 2, spatial=True)], Space())
    with pytest.raises(PlanError, match="no space"):
        Space(window=0)


def test_layers_that_no_route_uses_are_not_made():
    plan = stitch_plan([plain(12), plain(12), plain(12)], Space(window=1))
    assert len(plan.routes) == 3 + 2 * 11
    assert {at for route in plan.routes for at in route.layers} == set(range(len(plan.layers))) == set(range(22))
