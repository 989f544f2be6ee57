"""ConvNeXt v1 and v2 of timm: a depthwise convolution and an MLP of linear layers or 1x1 convolutions in each block.

The stem is left out like a patch embedding; the 2x2 downsampling convolution counts as a matrix (out, 4 * in); layer
scale `gamma` and norms are vectors.
"""

from typing import Any

from timm.models.convnext import ConvNeXt
from torch import nn

from tailor.anatomy import Anatomy, Block, Feature
from tailor.backbones import parts


def matches(model: nn.Module) -> bool:
    """Whether this file describes the model."""
    return isinstance(model, ConvNeXt)


def describe(model: Any) -> Anatomy:
    """Blocks stage by stage; a feature level per stage."""
    blocks, features = [], []
    for s, stage in enumerate(model.stages):
        width = int(model.feature_info[s]["num_chs"])
        for b, block in enumerate(stage.blocks):
            path = f"stages.{s}.blocks.{b}"
            layout = "nchw" if getattr(block, "use_conv_mlp", False) else "nhwc"
            blocks.append(Block(path, s, width, None, f"{path}.mlp", "nchw", layout))  # type: ignore[arg-type]
        features.append(Feature(f"stages.{s}", width, int(model.feature_info[s]["reduction"])))
    heads = parts.heads_of(model)
    excluded = ("stem", *heads)
    responses = tuple(
        n for n, _ in model.named_modules() if n.endswith(".grn")
    )  # version 2: a residual, no plain scale
    return Anatomy(
        family="convnext",
        blocks=tuple(blocks),
        sites=parts.sites_of(model, blocks, excluded),
        vectors=parts.vectors_of(model, blocks, excluded),
        operations=parts.operations_of(model, (*heads, *responses)),
        features=tuple(features),
        heads=heads,
        width=int(model.num_features),
        input_size=parts.input_size_of(model),
        final_norm="head.norm",
    )
