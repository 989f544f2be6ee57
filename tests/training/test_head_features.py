import pytest
import timm
import torch
import toys
from torch import nn

from tailor.surgery import freeze_
from tailor.training import Recipe, fit
from tailor.training.features import collect, head_only

RECIPE = Recipe(epochs=3, batch_size=16, lr=0.02, select="last")


def vit(**changes):
    settings = {"img_size": toys.SIZE, "patch_size": 2, "depth": 2, "embed_dim": 24, "num_heads": 2, "num_classes": 3}
    torch.manual_seed(0)
    model = freeze_(timm.create_model("vit_tiny_patch16_224", **settings, **changes)).double()
    model.head.requires_grad_(True)
    return model


def convolution():
    model = freeze_(toys.model(dropout=0.0)).double()
    model[7].requires_grad_(True)
    return model


def with_dropout_inside():
    model = convolution()
    model[7] = nn.Sequential(nn.Dropout(0.3), model[7])
    return model


@pytest.mark.parametrize(
    ("make", "head"), [(vit, "head"), (convolution, "7"), (with_dropout_inside, "7")], ids=["vit", "norms", "dropout"]
)
def test_training_the_head_alone_is_training_the_model(tmp_path, make, head):
    data, whole, parts = toys.Data(), make(), make()
    fit(whole, RECIPE, toys.TASK, batches=data, steps_per_epoch=data.steps, run=tmp_path / "whole")
    before = toys.everything(parts)
    split = head_only(parts, head, data.images[:4])
    assert split is not None
    frozen, last = split
    shuffled = [data.take(torch.arange(start, 50, 3)) for start in range(3)]
    features = collect(frozen, shuffled)
    assert toys.equal(toys.everything(parts), before) and features.values.dtype == torch.float64

    def batches(epoch, start, process, processes):
        plan = [batch.indices.tolist() for batch in data(epoch)]
        return features.batches(plan, start, process, processes)

    fit(last, RECIPE, toys.TASK, batches=batches, steps_per_epoch=data.steps, run=tmp_path / "parts")
    assert toys.furthest(toys.everything(whole), toys.everything(parts)) < 1e-10
    assert not toys.equal(toys.everything(parts), before)


def test_features_come_in_the_shares_of_the_ordinary_batches():
    data = toys.Data()
    features = collect(nn.Sequential(nn.Flatten(), nn.Linear(3 * toys.SIZE**2, 4)), data.everything())
    plan = [batch.indices.tolist() for batch in data(1)]
    for process in range(3):
        for mine, theirs in zip(features.batches(plan, 1, process, 3), data(1, 1, process, 3), strict=True):
            assert torch.equal(mine.indices, theirs.indices) and torch.equal(mine.targets, theirs.targets)
            assert mine.sources == theirs.sources and torch.equal(mine.images, features.values[theirs.indices])


def trained_outside():
    model = vit()
    model.norm.weight.requires_grad_(True)
    return model, "head"


def frozen_head():
    return freeze_(vit()), "head"


def with_dropout_before():
    return vit(proj_drop_rate=0.1), "head"


def with_drop_path():
    return vit(drop_path_rate=0.2), "head"


def more_than_a_head():
    model = convolution()
    model.append(nn.Softmax(dim=1))
    return model, "7"


@pytest.mark.parametrize(
    "make",
    [trained_outside, frozen_head, with_dropout_before, with_drop_path, more_than_a_head],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("mode", [True, False])
def test_what_cannot_be_split_is_said_and_left_alone(make, mode):
    model, head = make()
    model.train(mode)
    torch.manual_seed(1)
    before, random = toys.everything(model), torch.get_rng_state()
    assert head_only(model, head, toys.Data().images[:8]) is None
    assert toys.equal(toys.everything(model), before) and all(m.training is mode for m in model.modules())
    assert torch.equal(torch.get_rng_state(), random)
