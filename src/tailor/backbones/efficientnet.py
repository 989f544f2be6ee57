"""EfficientNet and MobileNet of timm (V1 to V4, lite, MnasNet, MixNet ...): inverted residuals in stages.

Every block is listed; those that change the size or the channels of their map cannot be dropped. A block's stage is
the level that it works towards, so two stages of one stride count as one. Convolutions that pad by the size of the
image (`tf_...`) are no sites. The last 1x1 convolution, behind the levels, is ranked with the other layers.
"""

from collections.abc import Sequence
from typing import Any

from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from torch import Tensor, nn

from tailor.anatomy import Anatomy, Block, Feature
from tailor.backbones import composition, walk
from tailor.backbones.composition import BlockStep, Parts, Size


def matches(model: nn.Module) -> bool:
    """Whether this file describes the model."""
    return isinstance(model, EfficientNet | MobileNetV3)


def describe(model: Any) -> Anatomy:
    """Blocks stage by stage; a feature level for each of timm's, the stem's only where it is one."""
    levels = model.feature_info
    blocks = []
    for s, stage in enumerate(model.blocks):
        level = next(i for i, info in enumerate(levels) if info["stage"] > s)
        for b, block, _ in walk.blocks_in(stage, 0):
            blocks.append(Block(f"blocks.{s}.{b}", level, _width(block), None, None, "nchw", "nchw"))
    heads = walk.heads_of(model)
    excluded = ("conv_stem", "bn1", *heads)
    return Anatomy(
        family="efficientnet",
        blocks=tuple(blocks),
        sites=walk.sites_of(model, blocks, excluded),
        vectors=walk.vectors_of(model, blocks, excluded),
        operations=walk.operations_of(model, heads),
        features=tuple(_level(info, blocks) for info in levels),
        heads=heads,
        width=int(model.num_features),
        inputs=walk.inputs_of(model),
    )


def _width(block: Any) -> int:
    """Channels of a block's map; of an attention block, of which timm does not say it, those of its last projection."""
    if not hasattr(block, "attn"):
        return int(block.feature_info("bottleneck")["num_chs"])
    return int([m for m in block.attn.modules() if isinstance(m, nn.Conv2d)][-1].out_channels)


def _level(info: dict[str, Any], blocks: Sequence[Block]) -> Feature:
    """One of timm's levels, as wide as the last block that is left of it (a cut of widths leaves timm's number)."""
    inside = [block for block in blocks if walk.within(block.path, (info["module"],))]
    return Feature(info["module"], inside[-1].width if inside else int(info["num_chs"]), int(info["reduction"]))


def parts(model: Any, size: Size) -> Parts:
    """Stem, the blocks of all stages, the last convolution with pooling and classifier; states are (B, C, H, W)."""
    blocks = tuple(
        BlockStep(f"blocks.{s}.{b}", block) for s, stage in enumerate(model.blocks) for b, block in enumerate(stage)
    )

    def tail(x: Tensor) -> Tensor:
        if isinstance(model, EfficientNet):  # in MobileNet V3 this convolution comes after the pooling
            x = model.bn2(model.conv_head(x))
        return model.forward_head(x)  # type: ignore[no-any-return]

    return Parts(
        stem=lambda images: model.bn1(model.conv_stem(images)),
        blocks=blocks,
        tail=tail,
        to_map=lambda x: x,
    )


def maps(model: nn.Module, images: Tensor, levels: Sequence[Feature]) -> tuple[Tensor, ...]:
    """What each stage gives."""
    return composition.maps(parts(model, (images.shape[-2], images.shape[-1])), images, levels)
