"""ResNets of timm (basic and bottleneck blocks, ResNeXt, SE variants): convolution sites, batch-norm vectors."""

from typing import Any

from timm.models.resnet import ResNet
from torch import nn

from tailor.anatomy import Anatomy, Block, Feature
from tailor.backbones import parts


def matches(model: nn.Module) -> bool:
    """Whether this file describes the model."""
    return isinstance(model, ResNet)


def describe(model: Any) -> Anatomy:
    """Residual blocks stage by stage; a feature level per stage; the stem is left out of the ranking."""
    blocks, features = [], []
    for info in model.feature_info:
        path = info["module"]
        if not path.startswith("layer"):
            continue
        stage = int(path.removeprefix("layer")) - 1
        width = int(info["num_chs"])
        count = len(model.get_submodule(path))
        blocks += [Block(f"{path}.{b}", stage, width, None, None, "nchw", "nchw") for b in range(count)]
        features.append(Feature(path, width, int(info["reduction"])))
    heads = parts.heads_of(model)
    excluded = ("conv1", "bn1", *heads)
    return Anatomy(
        family="resnet",
        blocks=tuple(blocks),
        sites=parts.sites_of(model, blocks, excluded),
        vectors=parts.vectors_of(model, blocks, excluded),
        operations=parts.operations_of(model, heads),
        features=tuple(features),
        heads=heads,
        width=int(model.num_features),
        input_size=parts.input_size_of(model),
    )
