"""The released architectures, to the digit: parameters, counted MACs, and the cost by the released code's own table.

Nothing has values: models live on the meta device.
"""

import pytest
import timm
import torch
from torch import nn

from tailor import backbones, recipes
from tailor.inputs import Inputs
from tailor.measure.count import macs, parameters
from tailor.pruning.convolve import convert, places, read_off, table
from tailor.pruning.convolve.settings import LETTERS, Written

IMAGES = Inputs.images(3, 224, 224)
TABLE = {
    "deit-ti-1.0g": (4_774_808, 4_774_552, 1.0367, 1.0386),
    "deit-s-3.3g": (15_870_724, 15_870_596, 3.3465, 3.3532),
    "deit-b-8.4g": (41_583_639, 41_582_999, 8.3906, 8.4091),
    "deit-b-11.7g": (58_320_928, 58_320_416, 11.7308, 11.7642),
    "swin-t-3.3g": (26_232_230, 26_232_102, 3.3342, 3.3304),
    "swin-s-6.1g": (38_922_496, 38_922_368, 6.1432, 6.1376),
    "swin-b-11.4g": (67_542_142, 67_542_078, 11.3922, 11.3847),
}
"""Parameters with batch norms, with them folded; G by the released table, as counted (from the indicator files)."""

DENSE = {"deit-ti": 1.2511, "deit-s": 4.5865, "deit-b": 17.5108, "swin-t": 4.4944, "swin-s": 8.7465, "swin-b": 15.4385}
"""G by the released table, nothing removed."""


def narrowed_(model, found, architecture):
    """MLPs with so many hidden units, which ones is no matter without values."""
    for place, units in zip(found, architecture.units, strict=True):
        mlp, width = model.get_submodule(place.hidden.path), len(units)
        mlp.fc1, mlp.fc2 = nn.Linear(mlp.fc1.in_features, width), nn.Linear(width, mlp.fc2.out_features)
    return model


@pytest.mark.parametrize("name", TABLE)
def test_sizes_and_costs(name):
    settings = recipes.read(f"spvit/{name}")
    architecture = Written(**{**settings["swap"], "hidden": tuple(settings["swap"]["hidden"])})
    with_norms, folded, released, counted = TABLE[name]
    with torch.device("meta"):
        model = timm.create_model(settings["name"]).eval()
        found = places.find_places(model, backbones.describe(model))
        wanted = read_off.Architecture(
            tuple(LETTERS[letter] for letter in architecture.operations),
            tuple(tuple(range(width)) for width in architecture.hidden),
        )
        costs = table.counted(found, macs(model, IMAGES))
        theirs = table.released(found, IMAGES.image, 1000)
        assert round(theirs.dense / 1e9, 4) == DENSE[name.rpartition("-")[0]]
        assert round(read_off.cost(wanted, theirs) / 1e9, 4) == released
        assert round(read_off.cost(wanted, costs) / 1e9, 4) == counted
        for fold, expected in ((False, with_norms), (True, folded)):
            plan = read_off.swap_plan(wanted, found, order=architecture.order, skip=architecture.skip, folded=fold)
            made = narrowed_(convert.apply_swaps_(timm.create_model(settings["name"]).eval(), plan), found, wanted)
            assert parameters(made) == expected
            assert macs(made, IMAGES) == read_off.cost(wanted, costs)
