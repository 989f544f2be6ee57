"""The search: it meets its target, is a function of the seed, and says what it cannot do."""

from dataclasses import replace

import arranged
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import tiny
from tailor import backbones
from tailor.errors import ModelError, PlanError
from tailor.inputs import Inputs
from tailor.measure import count
from tailor.pruning.convolve import places, read_off, table
from tailor.pruning.convolve.search import check_target, search, supernet
from tailor.pruning.convolve.settings import Search

SETTINGS = Search(updates=60, gate_lr=0.1, lr=1e-3)


def plain_training(updates, seed=0, stop=None):
    """Trains by AdamW on fixed random images, without the engine."""

    def train(module, step, apart, before):
        own = {id(p) for group in apart for p in group["params"]}
        rest = [p for p in module.parameters() if id(p) not in own and p.requires_grad]
        optimizer = torch.optim.AdamW([{"params": rest, "lr": 1e-3}, *apart])
        module.train()
        for update in range(updates):
            before(update)
            torch.manual_seed(seed * 1000 + update)
            share = torch.randn(8, 3, 32, 32), torch.arange(8) % tiny.CLASSES
            optimizer.zero_grad()
            step(module, share).backward()
            optimizer.step()

    return train


def loss(module, share):
    return F.cross_entropy(module(share[0]), share[1])


def run(model, share, settings=SETTINGS, progress=None, seed=0):
    anatomy = backbones.describe(model)
    found = places.find_places(model, anatomy)
    costs = table.counted(found, count.macs(model, anatomy.inputs), settings.scope)
    return search(
        model,
        anatomy,
        found,
        costs,
        share * costs.dense,
        settings,
        loss=loss,
        train=plain_training(settings.updates, seed),
        example=(tiny.images(model),),
        progress=progress,
    ), costs


@pytest.mark.parametrize("share", [0.75, 0.4])
def test_an_adaptive_search_meets_its_target(share):
    heard = []
    found, costs = run(arranged.pooled(), share, progress=heard.append)
    assert found.cost == pytest.approx(share * costs.dense, rel=0.03)
    assert count.macs(found.model, Inputs.images(3, 32, 32)) == found.cost
    assert heard[0].cost == 1.0
    assert heard[-1].aim == pytest.approx(share)
    assert heard[-1].expected < heard[0].expected


def test_the_model_stays_and_the_seed_decides():
    model = arranged.pooled()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found, _ = run(model, 0.6)
    again, _ = run(model, 0.6)
    for name, tensor in model.state_dict().items():
        assert_close(tensor, before[name], rtol=0, atol=0)
    assert (again.swaps, again.widths) == (found.swaps, found.widths)
    for name, tensor in found.model.state_dict().items():
        assert_close(again.model.state_dict()[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("part", ["attention", "hidden"])
def test_a_part_alone(part):
    found, costs = run(arranged.pooled(), 0.7, replace(SETTINGS, parts=(part,)))
    whole = [block.units for block in costs.blocks]
    assert (list(found.architecture.widths) == whole) == (part == "attention")
    assert (not found.swaps.swaps) == (part == "hidden")


def test_a_fixed_pull_ends_where_it_ends():
    """No threshold moves, and a pull of nothing leaves everything open."""
    found, costs = run(arranged.pooled(), 0.5, replace(SETTINGS, pull=1e-6))
    assert found.swaps.facts["threshold"] == 0
    assert found.cost > 0.6 * costs.dense


def test_settling_takes_the_smallest_gates_first():
    one = arranged.case(arranged.pooled, ("attention",) * 3)
    wanted = 0.5 * one.table.dense
    read_off.settle_(one.gated, one.table, one.wrapping.closing, wanted)
    assert wanted * 0.97 <= read_off.cost(one.architecture, one.table) <= wanted
    for gated in one.gated:
        theta = gated.hidden.gates.theta
        kept = torch.tensor(one.architecture.units[one.gated.index(gated)])
        assert theta[kept].min() >= theta.sort(descending=True).values[len(kept) - 1]


def test_what_cannot_be_searched_is_said_before_anything_is_paid_for():
    with pytest.raises(PlanError, match="no gate could close"):
        Search(updates=100)
    with pytest.raises(PlanError, match="names nothing"):
        Search(parts=())
    model = arranged.pooled()
    found = places.find_places(model, backbones.describe(model))
    costs = table.counted(found, count.macs(model, Inputs.images(3, 32, 32)))
    with pytest.raises(PlanError, match="not below that"):
        check_target(costs, costs.dense, SETTINGS)
    with pytest.raises(PlanError, match="the search can reach"):
        check_target(costs, 0.99 * costs.least, SETTINGS)
    with pytest.raises(PlanError, match="the search can reach"):
        check_target(costs, 0.3 * costs.dense, replace(SETTINGS, parts=("hidden",)))


@pytest.mark.parametrize("make", [tiny.convnext, tiny.resnet])
def test_models_without_attention(make):
    model = make()
    with pytest.raises(ModelError, match="have no attention"):
        places.find_places(model, backbones.describe(model))


def test_a_model_whose_patches_have_no_fixed_grid():
    """As of models that take patches of any image, in any order."""
    model = tiny.vit()
    with pytest.raises(ModelError, match="no fixed grid of rows and columns"):
        places.find_places(model, replace(backbones.describe(model), grid=None))


def test_class_attention_and_attention_that_norms_its_heads():
    import timm

    model = timm.create_model("cait_xxs24_224", depth=2, embed_dim=32, num_heads=2, img_size=32).eval()
    with pytest.raises(ModelError, match="blocks are not known"):
        places.find_places(model, backbones.describe(model))
    model = tiny.vit(scale_attn_norm=True)
    with pytest.raises(ModelError, match="norms or gates"):
        places.find_places(model, backbones.describe(model))


def test_a_converted_model_is_searched_where_attention_is_left():
    one = arranged.case(arranged.pooled, ("conv3", "none", "attention"), torch.float32)
    model = one.plain()
    anatomy = backbones.describe(model)
    found = places.find_places(model, anatomy)
    assert [place.attention is not None for place in found] == [False, False, True]
    costs = table.counted(found, count.macs(model, Inputs.images(3, 32, 32)))
    net = supernet(model, found, costs, 0.5 * costs.dense, SETTINGS).eval()
    with torch.no_grad():
        assert_close(net(one.images), model(one.images), rtol=1e-5, atol=1e-6)
    assert float(net.cost().detach()) == pytest.approx(1.0)
