"""A measured table: where MACs are what is measured, it is the counted one."""

import arranged
import pytest

import tiny
from tailor import backbones
from tailor.measure import count
from tailor.pruning.convolve import places, table, timing


@pytest.mark.parametrize("make", [arranged.pooled, tiny.swin])
def test_measured_macs_are_counted_macs(make):
    model = make()
    anatomy = backbones.describe(model)
    found = places.find_places(model, anatomy)
    asked = []

    def macs(models):
        asked.append(list(models))
        return {name: count.macs(one, anatomy.inputs) for name, one in models.items()}

    made = timing.measured(model, found, (tiny.images(model),), macs, unit="MACs")
    assert made == table.counted(found, count.macs(model, anatomy.inputs))
    assert len(asked) == 1
    assert len(asked[0]) == 1 + 4 * len({(place.attention.grid, place.attention.inputs) for place in found})


def test_noise_does_not_make_a_cost_negative():
    model = arranged.pooled()
    found = places.find_places(model, backbones.describe(model))
    noisy = {"dense": 1.0, "0 none": 1.2, "0 conv1": 1.1, "0 conv3": 1.3, "0 half": 1.1}
    made = timing.measured(model, found, (tiny.images(model),), lambda models: noisy, unit="ms")
    assert made.measure == "ms"
    assert made.least >= 0
    assert made.dense == 1.0
