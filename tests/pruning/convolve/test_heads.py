"""The baselines that keep attention: gates on heads, and STEP's scores on heads and hidden units."""

from dataclasses import replace

import pytest
import torch
from test_search import SETTINGS, loss, plain_training
from torch.testing import assert_close

import tiny
from tailor import backbones
from tailor.errors import PlanError
from tailor.measure import count
from tailor.pruning.convolve import places, search, step, table
from tailor.pruning.convolve.settings import StepSearch


def known(make):
    model = make()
    anatomy = backbones.describe(model)
    return model, anatomy, places.find_places(model, anatomy), count.macs(model, anatomy.inputs)


def four():
    """A plain ViT with four heads."""
    return tiny.vit(num_heads=4, global_pool="avg")


def test_gates_on_heads_leave_the_mlp_alone():
    model, anatomy, found, dense = known(four)
    heads = places.heads_of(found)
    costs = table.counted(heads, dense)
    result = search.search(
        model,
        anatomy,
        heads,
        costs,
        0.8 * dense,
        replace(SETTINGS, parts=("hidden",), tolerance=0.05),
        loss=loss,
        train=plain_training(SETTINGS.updates),
        example=(tiny.images(model),),
    )
    assert result.cost == count.macs(result.model, anatomy.inputs) <= 0.8 * dense * 1.05
    assert not result.swaps.swaps
    for block, kept in zip(result.model.blocks, result.architecture.widths, strict=True):
        assert block.attn.num_heads == kept
        assert block.mlp.fc1.out_features == 128


@pytest.mark.parametrize("make", [four, lambda: tiny.swin(img_size=64)])
def test_step_keeps_an_equal_share_of_both_kinds(make):
    model, anatomy, found, dense = known(make)
    both = step.step_places(found)
    costs = table.counted(both, dense)
    settings = StepSearch(updates=5, gate_lr=0.1)
    result = step.step_search(
        model,
        both,
        costs,
        0.7 * dense,
        settings,
        loss=(lambda module, share: module(*anatomy.inputs.example(4)).square().mean()),
        train=plain_training(5),
        example=(tiny.images(model),),
    )
    assert 0.6 * dense < result.cost <= 0.7 * dense
    assert result.cost == count.macs(result.model, anatomy.inputs)
    shares = [
        sum(result.architecture.widths[i] for i in part) / sum(costs.blocks[i].units for i in part)
        for part in (range(len(found)), range(len(found), len(both)))
    ]
    assert shares[0] == pytest.approx(shares[1], abs=0.15)
    with pytest.raises(PlanError, match="must lie between"):
        step.step_search(
            model, both, costs, dense, settings, loss=loss, train=plain_training(1), example=(tiny.images(model),)
        )


def test_scores_pass_the_best_and_teach_all():
    ranked = step.RankGate(4, 1.0, torch.Generator().manual_seed(0))
    ranked.threshold = float(ranked.theta.detach().sort().values[2])
    passed = ranked()
    assert passed.sum() == 2
    passed.sum().backward()
    assert_close(ranked.theta.grad, torch.ones(4))
    ranked.threshold = 1e9
    assert ranked.opened().sum() == 1
