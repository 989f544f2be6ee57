"""ConvNeXt v1 and v2 of timm: a depthwise convolution and an MLP of linear layers or 1x1 convolutions in each block.

The stem is left out like a patch embedding; the 2x2 downsampling convolution counts as a matrix (out, 4 * in); layer
scale `gamma` and norms are vectors.
"""

from collections.abc import Sequence
from typing import Any

from timm.models.convnext import ConvNeXt
from torch import Tensor, nn

from tailor.anatomy import Anatomy, Block, Feature
from tailor.backbones import composition, walk
from tailor.backbones.composition import BlockStep, Parts, Size


def matches(model: nn.Module) -> bool:
    """Whether this file describes the model."""
    return isinstance(model, ConvNeXt)


def describe(model: Any) -> Anatomy:
    """Blocks stage by stage; a feature level per stage."""
    blocks, features = [], []
    for s, stage in enumerate(model.stages):
        width = int(model.feature_info[s]["num_chs"])
        for b, block, wide in walk.blocks_in(stage.blocks, width):
            path = f"stages.{s}.blocks.{b}"
            layout = "nchw" if getattr(block, "use_conv_mlp", False) else "nhwc"
            blocks.append(Block(path, s, wide, None, f"{path}.mlp", "nchw", layout))  # type: ignore[arg-type]
        features.append(Feature(f"stages.{s}", width, int(model.feature_info[s]["reduction"])))
    heads = walk.heads_of(model)
    excluded = ("stem", *heads)
    responses = tuple(
        n for n, _ in model.named_modules() if n.endswith(".grn")
    )  # version 2: a residual, no plain scale
    return Anatomy(
        family="convnext",
        blocks=tuple(blocks),
        sites=walk.sites_of(model, blocks, excluded),
        vectors=walk.vectors_of(model, blocks, excluded),
        operations=walk.operations_of(model, (*heads, *responses)),
        features=tuple(features),
        heads=heads,
        width=int(model.num_features),
        inputs=walk.inputs_of(model),
        final_norm="head.norm",
    )


def parts(model: Any, size: Size) -> Parts:
    """Stem, downsampling and blocks stage by stage, norm and classifier; states are maps (B, C, H, W)."""
    blocks: list[BlockStep] = []
    for s, stage in enumerate(model.stages):
        blocks.append(BlockStep(f"stages.{s}.downsample", stage.downsample, residual=False))
        blocks += [BlockStep(f"stages.{s}.blocks.{b}", block) for b, block in enumerate(stage.blocks)]
    return Parts(
        stem=model.stem,
        blocks=tuple(blocks),
        tail=lambda x: model.forward_head(model.norm_pre(x)),
        to_map=lambda x: x,
    )


def maps(model: nn.Module, images: Tensor, levels: Sequence[Feature]) -> tuple[Tensor, ...]:
    """What each stage gives."""
    return composition.maps(parts(model, (images.shape[-2], images.shape[-1])), images, levels)
