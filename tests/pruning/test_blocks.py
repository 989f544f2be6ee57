"""Blocks by score after a cut: the score against plain sums, the choice, and the model that the plan leaves."""

import copy

import pytest
import torch
from torch.testing import assert_close

import tiny
from tailor import backbones
from tailor.errors import UsageError
from tailor.pruning.blocks import block_scores, keep_blocks, resizing
from tailor.pruning.elements import element_scores, gradients
from tailor.pruning.layers import apply_layers_
from tailor.pruning.settings import Shares, Widths
from tailor.pruning.width import choose, random_scores
from tailor.tracing import cut_, plan_widths, trace

STAGE = "stages.2.blocks"
LIST = tuple(f"{STAGE}.{i}" for i in range(4))


@pytest.fixture(scope="module")
def subject():
    model = tiny.convnext(depths=(1, 1, 4, 1)).double()
    groups = trace(model, (tiny.images(model),)).groups
    keep = choose(groups, random_scores(groups, 0), Shares(embedding=0.25, hidden=0.25), Widths(round_to=2))
    return model, plan_widths(groups, keep)


PAIRS = [(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64), tiny.labels(2))]


def test_a_blocks_score_is_the_mean_over_its_parameters_of_what_the_cut_left(subject):
    model, plan = subject
    names = [name for name, _ in model.named_parameters()]
    scores = block_scores(model, element_scores(model, names, "taylor", PAIRS), plan, LIST)
    slopes = gradients(model, names, PAIRS)
    values, sliced = copy.deepcopy(model), copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in sliced.named_parameters():
            parameter.copy_(slopes[name])
    for one in (values, sliced):
        cut_(one, plan)
    for path in LIST:
        pairs = zip(values.get_submodule(path).parameters(), sliced.get_submodule(path).parameters(), strict=True)
        slow = torch.stack([(weight * slope).detach().abs().mean() for weight, slope in pairs]).mean()
        assert_close(torch.tensor(scores[path], dtype=torch.float64), slow)


def test_the_highest_blocks_stay_in_their_order_and_keep_their_weights(subject):
    model, plan = subject
    blocks = [block.path for block in backbones.describe(model).blocks]
    layers = keep_blocks(blocks, dict.fromkeys(blocks, 0.0) | {LIST[3]: 3.0, LIST[1]: 2.0}, {STAGE: 2})
    assert layers.dropped == (LIST[0], LIST[2]) and len(layers.kept) == len(blocks) - 2
    narrow = cut_(copy.deepcopy(model), plan)
    short = apply_layers_(copy.deepcopy(narrow), layers)
    for path in layers.dropped:
        narrow.get_submodule(path).register_forward_hook(lambda module, args, output: args[0])
    x = tiny.images(model)
    with torch.no_grad():
        assert_close(short(x), narrow(x), rtol=0, atol=0)


def test_blocks_that_change_the_shape_stay():
    model = tiny.resnet()
    blocks = [block.path for block in backbones.describe(model).blocks]
    fixed = resizing(model, blocks, (tiny.images(model),))
    assert fixed and all(path.endswith(".0") for path in fixed)
    paths = [f"{blocks[0][:-1]}{i}" for i in range(3)]
    layers = keep_blocks(paths, {paths[0]: 0.0, paths[1]: 1.0, paths[2]: 2.0}, {blocks[0][:-2]: 2}, {paths[0]})
    assert layers.kept == (0, 2)


@pytest.mark.parametrize(
    ("keep", "says", "hint"),
    [({"stages.2.block": 2}, "no list of blocks", "`stages.2.blocks`"), ({STAGE: 4}, "has 4 blocks", "fewer")],
)
def test_lists_that_are_not_there_are_told(keep, says, hint):
    with pytest.raises(UsageError, match=says) as caught:
        keep_blocks(LIST, dict.fromkeys(LIST, 0.0), keep)
    assert hint in caught.value.hint
