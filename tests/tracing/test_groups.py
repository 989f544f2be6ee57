"""What is found in whole models: counts that can be derived by hand, labels, members, reasons."""

import pytest
import timm
import torch
from torch import nn

from tailor.errors import ModelError
from tailor.tracing import trace

COUNTS = {
    "deit_small_distilled_patch16_224": 1 + 3 * 12,  # embedding; heads, head dim and hidden of 12 blocks
    "deit3_small_patch16_224": 1 + 3 * 12,
    "vit_small_patch14_dinov2": 3 * 12,  # without head, so the embedding is the output
    "resnet50": 5 + 32,  # stem and four stages; two inner widths of 16 blocks
    "mobilenetv2_100": 25,
    "convnext_tiny": 4 + 18,
    "swin_tiny_patch4_window7_224": 4 + 3 * 12,
    "efficientnet_b0": 40,
    "resnext50_32x4d": 53,
    "densenet121": 120,
    "regnety_016": 113,
}


def traced(name, size=None, **settings):
    with torch.device("meta"):
        model = timm.create_model(name, **settings).eval()
    size = size or model.default_cfg["input_size"][-1]
    return trace(model, (torch.empty(2, 3, size, size, device="meta"),))


@pytest.mark.parametrize(
    "name", [*list(COUNTS)[:1], *(pytest.param(n, marks=pytest.mark.slow) for n in list(COUNTS)[1:])]
)
def test_stock_models_have_as_many_groups_as_their_architecture(name):
    groups = traced(name).groups
    assert len(groups.groups) == COUNTS[name]
    assert groups.unknown == ()


SMALL = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 48, "num_classes": 5}


def test_a_vit_has_labelled_groups_with_readable_names_and_layouts():
    groups = traced("vit_tiny_patch16_224", 32, **SMALL).groups
    assert groups.sizes == {
        "embedding": 48,
        "blocks.0.attn.heads": 3,
        "blocks.0.attn.head_dim": 16,
        "blocks.0.mlp.hidden": 192,
        "blocks.1.attn.heads": 3,
        "blocks.1.attn.head_dim": 16,
        "blocks.1.mlp.hidden": 192,
    }
    assert [g.label for g in groups.groups[:4]] == ["embedding", "heads", "head dim", "hidden"]
    assert groups.layouts["blocks.0.attn.qkv.weight"] == (
        "3*blocks.0.attn.heads*blocks.0.attn.head_dim",
        "embedding",
    )
    members = {(m.tensor, m.dim) for m in groups["blocks.0.mlp.hidden"].members}
    assert members == {("blocks.0.mlp.fc1.weight", 0), ("blocks.0.mlp.fc1.bias", 0), ("blocks.0.mlp.fc2.weight", 1)}


def test_groups_of_one_kind_are_isomorphic():
    groups = traced(
        "swin_tiny_patch4_window7_224", 64, img_size=64, window_size=4, depths=(2, 2), num_heads=(2, 4)
    ).groups
    kinds = {label: {g.kind for g in groups.groups if g.label == label} for label in ("heads", "head dim", "hidden")}
    assert {label: len(found) for label, found in kinds.items()} == {"heads": 1, "head dim": 1, "hidden": 1}


def test_every_pin_says_why():
    pinned = {(p.tensor, p.dim): p.reason for p in traced("vit_tiny_patch16_224", 32, **SMALL).groups.pinned}
    assert pinned["head.weight", 0] == "an output of the model"
    assert pinned["patch_embed.proj.weight", 1] == "an input of the model"
    assert pinned["pos_embed", 1]


def test_ignored_modules_are_left_alone():
    with torch.device("meta"):
        model = timm.create_model("vit_tiny_patch16_224", **SMALL).eval()
    x = torch.empty(2, 3, 32, 32, device="meta")
    groups = trace(model, (x,), ignore=["blocks.0.mlp", "norm"]).groups
    assert "blocks.0.mlp.hidden" not in groups.sizes
    assert "embedding" not in groups.sizes
    assert "blocks.1.mlp.hidden" in groups.sizes
    assert any(p.reason == "left alone on request" for p in groups.pinned)


def test_the_model_keeps_its_mode_and_its_weights():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 2))
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trace(model, (torch.randn(2, 3, 8, 8),))
    assert [m.training for m in model] == [True, False, True, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class Unknown(nn.Module):
    """An operator that has no rule."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.b(torch.special.bessel_j0(self.a(x)))


def test_an_unknown_operator_pins_its_operands_and_is_reported():
    groups = trace(Unknown(), (torch.randn(2, 6),)).groups
    assert groups.unknown == ("special_bessel_j0",)
    assert groups.groups == ()
    assert any(p.tensor == "b.weight" and "no rule for `special_bessel_j0`" in p.reason for p in groups.pinned)


class Data(nn.Module):
    """Control flow on values cannot be exported."""

    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


def test_a_model_that_cannot_be_exported_says_so():
    with pytest.raises(ModelError, match="cannot be exported to a graph"):
        trace(Data(), (torch.randn(2, 6),))


def test_a_time_limit_ends_the_export_with_a_sentence():
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(200)))
    with pytest.raises(ModelError, match=r"exporting the model took more than 0.01 seconds"):
        trace(model, (torch.randn(2, 8),), limit=0.01)
