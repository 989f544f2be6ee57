"""Architectures as written and as drawn: they cost what they should, and a mistake is named."""

import arranged
import pytest
import torch

import tiny
from tailor import backbones
from tailor.errors import PlanError
from tailor.inputs import Inputs
from tailor.measure import count
from tailor.pruning.convolve import places, read_off, table, written
from tailor.pruning.convolve.settings import LETTERS, Written

HOW = {"order": "bn-relu", "skip": "zero", "scope": "map", "folded": False}


def known(make):
    model = make()
    anatomy = backbones.describe(model)
    found = places.find_places(model, anatomy)
    return model, found, table.counted(found, count.macs(model, anatomy.inputs))


@pytest.mark.parametrize(("make", "operations"), [(arranged.pooled, "3SA"), (tiny.swin, "13SA")])
def test_what_is_written_is_made(make, operations):
    model, found, costs = known(make)
    hidden = tuple(range(5, 5 + len(found)))
    architecture = written.as_written(model, found, Written(operations, hidden))
    images = tiny.images(model)
    result = written.made(model, found, architecture, costs, (images,), HOW, "swap")
    assert count.macs(result.model, Inputs.images(*images.shape[1:])) == result.cost
    assert result.architecture.widths == hidden
    assert result.model(images).isfinite().all()
    again = result.swaps.facts
    assert again["operations"] == [LETTERS[letter] for letter in operations]


def test_the_units_with_the_largest_weights_stay():
    model, found, _ = known(arranged.pooled)
    hidden = found[1].hidden
    mlp = model.get_submodule(hidden.path)
    with torch.no_grad():
        mlp.fc1.weight[7] *= 100
        mlp.fc2.weight[:, 11] *= 100
    assert written.as_written(model, found, Written(hidden=(1, 2, 3))).units[1] == (7, 11)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"operations": "3BA"}, "`B` is no operation"),
        ({"operations": "3A"}, "written for 2 blocks, the model has 3"),
        ({"hidden": (1, 2, 3, 4)}, "written for 4 blocks, the model has 3"),
        ({"hidden": (1, 2, 999)}, "has 128 hidden units, 999 are to stay"),
    ],
)
def test_mistakes(settings, why):
    model, found, _ = known(arranged.pooled)
    with pytest.raises(PlanError, match=why):
        written.as_written(model, found, Written(**settings))


@pytest.mark.parametrize("parts", [{}, {"attention": False}, {"hidden": False}])
def test_random_architectures_cost_the_same(parts):
    _, found, costs = known(tiny.swin)
    target = 0.7 * costs.dense
    several = [written.drawn(found, costs, target, seed, **parts) for seed in range(3)]
    for one in several:
        assert read_off.cost(one, costs) == pytest.approx(target, rel=0.01)
    assert len({one.operations + one.widths for one in several}) == 3
    assert written.drawn(found, costs, target, 0, **parts) == several[0]
    with pytest.raises(PlanError, match="no random architecture"):
        written.drawn(found, costs, 0.01 * costs.dense, 0, **parts)
