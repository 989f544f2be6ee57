"""ResNets of timm (basic and bottleneck blocks, ResNeXt, SE variants): convolution sites, batch-norm vectors."""

from collections.abc import Sequence
from typing import Any

from timm.models.resnet import ResNet
from torch import Tensor, nn

from tailor.anatomy import Anatomy, Block, Feature
from tailor.backbones import composition, walk
from tailor.backbones.composition import BlockStep, Parts, Size


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
        for b, _, wide in walk.blocks_in(model.get_submodule(path).children(), width):
            blocks.append(Block(f"{path}.{b}", stage, wide, None, None, "nchw", "nchw"))
        features.append(Feature(path, width, int(info["reduction"])))
    heads = walk.heads_of(model)
    excluded = ("conv1", "bn1", *heads)
    return Anatomy(
        family="resnet",
        blocks=tuple(blocks),
        sites=walk.sites_of(model, blocks, excluded),
        vectors=walk.vectors_of(model, blocks, excluded),
        operations=walk.operations_of(model, heads),
        features=tuple(features),
        heads=heads,
        width=int(model.num_features),
        inputs=walk.inputs_of(model),
    )


def parts(model: Any, size: Size) -> Parts:
    """Stem up to its pooling, the blocks of the four layers, pooling and classifier; states are maps (B, C, H, W)."""
    stages = [name for name in ("layer1", "layer2", "layer3", "layer4") if hasattr(model, name)]
    blocks = tuple(BlockStep(f"{s}.{b}", block) for s in stages for b, block in enumerate(model.get_submodule(s)))
    return Parts(
        stem=lambda images: model.maxpool(model.act1(model.bn1(model.conv1(images)))),
        blocks=blocks,
        tail=model.forward_head,
        to_map=lambda x: x,
    )


def maps(model: nn.Module, images: Tensor, levels: Sequence[Feature]) -> tuple[Tensor, ...]:
    """What each stage gives."""
    return composition.maps(parts(model, (images.shape[-2], images.shape[-1])), images, levels)
