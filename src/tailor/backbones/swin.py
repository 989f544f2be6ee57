"""Swin v1 and v2 of timm: windows of tokens inside NHWC maps, patch merging at the start of each later stage.

`downsample.reduction` is ranked as a plain matrix; the relative position table is two-dimensional but no matrix, and
the small network that makes version 2's bias is not a site either.
"""

from typing import Any

from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import nn

from tailor.anatomy import Anatomy, Block, Feature
from tailor.backbones import parts


def matches(model: nn.Module) -> bool:
    """Whether this file describes the model."""
    return isinstance(model, SwinTransformer | SwinTransformerV2)


def describe(model: Any) -> Anatomy:
    """Blocks stage by stage; a feature level per stage."""
    blocks, features = [], []
    for s, layer in enumerate(model.layers):
        width = int(model.feature_info[s]["num_chs"])
        after = f"layers.{s + 1}.downsample" if s + 1 < len(model.layers) else None
        for b in range(len(layer.blocks)):
            path = f"layers.{s}.blocks.{b}"
            # Both versions flatten the map before the MLP.
            block = Block(path, s, width, f"{path}.attn", f"{path}.mlp", "windows", merging=after)
            blocks.append(parts.swapped(layer.blocks[b], block))
        features.append(Feature(f"layers.{s}", width, int(model.feature_info[s]["reduction"])))
    heads = parts.heads_of(model)
    inner = tuple(n for n, _ in model.named_modules() if n.endswith("cpb_mlp"))
    tables = tuple(
        n for n, _ in model.named_parameters() if n.endswith(("relative_position_bias_table", "logit_scale"))
    )
    excluded = ("patch_embed", *heads, *inner, *tables)
    merging = tuple(n for n, _ in model.named_modules() if n.endswith("downsample.reduction"))
    return Anatomy(
        family="swin",
        blocks=tuple(blocks),
        sites=parts.sites_of(model, blocks, excluded),
        vectors=parts.vectors_of(model, blocks, excluded),
        operations=parts.operations_of(model, (*heads, *inner, *merging)),  # SSF scales the norm before it only
        features=tuple(features),
        heads=heads,
        width=int(model.num_features),
        input_size=parts.input_size_of(model),
        final_norm="norm",
    )
