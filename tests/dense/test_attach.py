"""A decoder in the place of a classifier: any family, any size of image, copied, pruned and tuned like any model."""

import copy

import pytest
import torch
from torch.testing import assert_close

import tiny
from tailor import backbones
from tailor.dense import DECODERS, decode
from tailor.dense.attach import attach_, head_of, settle_
from tailor.errors import ModelError
from tailor.pruning.layers import LayerPlan, apply_layers_
from tailor.tracing import trace

CLASSES = 4
SMALL = {
    "masks": {"width": 32, "queries": 6, "heads": 2, "hidden": 32, "blocks": 2},
    "mask2former": {"width": 32, "queries": 6, "heads": 2, "hidden": 32, "blocks": 3, "encoder_layers": 1},
    "faseg": {"width": 32, "queries": 6, "heads": 2, "hidden": 32, "blocks": 5, "encoder_layers": 1},
    "setr-pup": {"width": 16},
    "mlp": {"width": 16},
}


def made(model, kind="masks"):
    return attach_(model, DECODERS[kind](**SMALL.get(kind, {})), CLASSES, seed=0).eval()


def values(model, images):
    with torch.no_grad():
        return decode.scores(model(images), (images.shape[-2], images.shape[-1]))


@pytest.mark.parametrize("family", [name for name in tiny.MODELS if name != "generic"])
@pytest.mark.parametrize("kind", ["masks", "faseg", "linear"])
def test_any_family_gives_scores_for_images_that_are_no_multiple(family, kind):
    model = made(tiny.MODELS[family](), kind)
    stride = backbones.describe(model).inputs.image[1] // 4 if family == "eva" else 1
    images = torch.randn(2, 3, 40 if stride == 1 else 32, 56 if stride == 1 else 32)
    found = values(model, images)
    assert found.shape == (2, CLASSES, *images.shape[-2:]) and found.isfinite().all()


@pytest.mark.parametrize("kind", [*DECODERS])
def test_the_head_is_all_that_stands_where_the_classifier_was(kind):
    model = tiny.vit()
    before = {name for name, _ in model.named_parameters() if not name.startswith("head.")}
    made(model, kind)
    assert {name for name, _ in model.named_parameters() if not name.startswith("head.")} == before
    assert backbones.describe(model).heads == ("head",)


def test_the_same_seed_starts_the_same_and_another_otherwise():
    one, same, other = (attach_(tiny.vit(), DECODERS["masks"](), CLASSES, seed) for seed in (1, 1, 2))
    tensors = [dict(m.head.named_parameters()) for m in (one, same, other)]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    assert any(not torch.equal(tensors[0][name], tensors[2][name]) for name in tensors[0])


def test_a_copy_is_a_model_of_its_own():
    model = made(tiny.vit())
    images = torch.randn(1, 3, 32, 32)
    twin, before = copy.deepcopy(model), values(model, images)
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    assert_close(values(model, images), before, rtol=0, atol=0)
    assert not torch.equal(values(twin, images), before)


def test_levels_move_with_the_blocks_that_are_left():
    model = made(tiny.vit(depth=6), "mlp")
    assert head_of(model).wanted == (1, 2, 3, 5)  # about the quarters of six
    images = torch.randn(1, 3, 32, 32)
    values(model, images)
    blocks = [f"blocks.{i}" for i in range(6)]
    plan = LayerPlan(kept=(0, 2, 3), dropped=tuple(blocks[i] for i in (1, 4, 5)), method="test")
    seen = {}
    for i in (0, 2, 3):
        model.get_submodule(blocks[i]).register_forward_hook(lambda m, a, out, i=i: seen.update({i: out}))
    apply_layers_(model, plan)
    maps = head_of(model).features(model)(images)
    for one, block in zip(maps, (0, 2, 3, 3)):
        assert_close(one.flatten(2).transpose(1, 2), seen[block][:, 1:])


def test_a_model_that_lost_its_last_blocks_is_traced_as_it_is():
    model = made(tiny.vit(depth=6), "linear")
    images = torch.randn(2, 3, 32, 32)
    values(model, images)
    apply_layers_(model, LayerPlan(kept=(0, 1), dropped=tuple(f"blocks.{i}" for i in range(2, 6)), method="test"))
    settle_(model)
    members = {member.tensor for group in trace(model, (images,)).groups.groups for member in group.members}
    assert {"blocks.0.mlp.fc1.weight", "blocks.1.mlp.fc1.weight"} <= members


def test_a_backbone_without_levels_is_refused():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(3, 2)

        def forward(self, x):
            return self.head(x.mean((2, 3)))

    with pytest.raises(ModelError, match="gives no maps"):
        made(Odd())
