"""Odd models, data and targets for `prune`: the right behaviour, or one line that says why not and leaves no bundle."""

import shutil

import pytest
import timm
import torch
from timm.models import register_model

import tailor
from tailor import bundle
from tailor.errors import DataError, ModelError, PlanError, TailorError

SHORT = {"epochs": 1, "batch_size": 12}
X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
pytestmark = pytest.mark.usefixtures("hurried")


def thin_vit(**settings):
    small = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8, "img_size": 32}
    return timm.create_model("vit_tiny_patch16_224", **{**small, **settings})


@register_model
def tailor_test_tied(pretrained=False, **settings):
    """A ViT whose two blocks share their MLP."""
    model = thin_vit(**settings)
    model.blocks[1].mlp = model.blocks[0].mlp
    return model


class Branching(torch.nn.Linear):
    """Its way through the code depends on the values it sees."""

    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else -super().forward(x)


@register_model
def tailor_test_branching(pretrained=False, **settings):
    """A ViT that no graph describes."""
    model = thin_vit(**settings)
    model.blocks[0].mlp.fc1 = Branching(32, 128)
    return model


@register_model
def tailor_test_thin_resnet(pretrained=False, **settings):
    """A ResNet with batch norms."""
    return timm.create_model("resnet26", layers=(1, 1, 1, 1), channels=(16, 16, 32, 32), stem_width=16, **settings)


def narrow(name, photos, out, **settings):
    chosen = {"data": photos, "weights": "random", "image_size": 32, "method": "uniform", "criterion": "l1"}
    return tailor.prune(name, out=out, **{**chosen, **settings})


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"macs": "100%"}, PlanError, "is not below what the model has"),
        ({"params": "900G"}, PlanError, "is not below what the model has"),
        ({"macs": "0.1%"}, PlanError, r"out of reach: with 95% of the units gone"),
        ({"macs": "0%"}, TailorError, "above zero"),
        ({"mlp": "100%"}, TailorError, "below 100 %"),
        ({"mlp": "0%"}, TailorError, "nothing says how much is to go"),
        ({"mlp": "0.01%", "criterion": "random", "widths": {"round_to": 16}}, TailorError, "nothing is left to go"),
    ],
)
def test_targets_that_cannot_be_are_said(photos, tmp_path, settings, error, says):
    with pytest.raises(error, match=says) as told:
        narrow("tailor_test_tied", photos, tmp_path / "b", **settings)
    assert told.value.hint and "\n" not in told.value.message
    assert not (tmp_path / "b" / "bundle.json").exists()


def test_a_model_that_does_not_trace_is_said_and_its_blocks_can_go(photos, tmp_path):
    with pytest.raises(ModelError, match="cannot be exported to a graph") as told:
        narrow("tailor_test_branching", photos, tmp_path / "b", mlp="50%")
    assert "sls" in told.value.hint and not (tmp_path / "b" / "bundle.json").exists()
    made = narrow("tailor_test_branching", photos, tmp_path / "s", method="sls", alpha=-1, criterion=None)
    assert made.kept_blocks == 1 and tailor.evaluate(made.bundle, photos).n == 12


def test_tied_weights_stay_tied(photos, tmp_path):
    made = narrow("tailor_test_tied", photos, tmp_path / "b", mlp="50%", retrain="1clr", **SHORT)
    model = tailor.load(made.bundle)
    assert model.blocks[1].mlp is model.blocks[0].mlp and model.blocks[0].mlp.fc1.out_features == 64
    assert tailor.evaluate(made.bundle, photos).accuracy == made.accuracy_after


def test_another_image_size_is_kept(photos, tmp_path):
    made = narrow("tailor_mini_ti", photos, tmp_path / "b", image_size=96, macs="60%")
    assert bundle.read(made.bundle).spec.preprocessing.size == (96, 96)
    again = tailor.prune(made.bundle, data=photos, method="uniform", criterion="l1", macs="80%", out=tmp_path / "c")
    assert again.macs_before == made.macs_after > again.macs_after / 0.8 - 1
    assert tailor.evaluate(again.bundle, photos).accuracy == again.accuracy_after


def statistics(path):
    return {n: t for n, t in tailor.load(path).state_dict().items() if "running" in n}


@pytest.mark.parametrize("train", ["tunes", "full"])
def test_batch_statistics_are_frozen_where_their_norms_are(photos, tmp_path, train):
    settings = {"mlp": "50%", "adapters": "keep"}
    cut = narrow("tailor_test_thin_resnet", photos, tmp_path / "c", **settings)
    made = narrow("tailor_test_thin_resnet", photos, tmp_path / "b", retrain="1clr", train=train, **settings, **SHORT)
    before, after = statistics(cut.bundle), statistics(made.bundle)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(before) > 10 and (not moved if train == "tunes" else moved == set(before))
    assert tailor.evaluate(made.bundle, photos).accuracy == made.accuracy_after


def few(photos, folder, classes, images):
    """A folder of `classes` with `images` each."""
    for name in ("red", "green", "blue")[:classes]:
        (folder / name).mkdir(parents=True)
        for i in range(images):
            shutil.copy(f"{photos}/train/{name}/{i}.png", folder / name)
    return str(folder)


def test_one_class_is_said(photos, tmp_path):
    with pytest.raises((DataError, PlanError), match="class"):
        narrow("tailor_test_tied", few(photos, tmp_path / "one", 1, 8), tmp_path / "b", mlp="50%")
    assert not (tmp_path / "b" / "bundle.json").exists()


def test_ten_images_are_enough_for_widths_and_too_few_for_sls(photos, tmp_path):
    ten = few(photos, tmp_path / "ten", 2, 5)
    made = narrow("tailor_test_tied", ten, tmp_path / "b", mlp="50%", criterion="taylor", retrain="1clr", **SHORT)
    assert tailor.load(made.bundle).blocks[0].mlp.fc1.out_features == 64
    with pytest.raises(PlanError, match="too few"):
        narrow("tailor_test_tied", ten, tmp_path / "s", method="sls", criterion=None)
