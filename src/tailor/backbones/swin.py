"""Swin v1 and v2 of timm: windows of tokens inside NHWC maps, patch merging at the start of each later stage.

`downsample.reduction` is ranked as a plain matrix; the relative position table is two-dimensional but no matrix, and
the small network that makes version 2's bias is not a site either.
"""

from collections.abc import Callable, Sequence
from typing import Any

from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import Tensor, nn

from tailor.anatomy import Anatomy, Block, Feature
from tailor.backbones import composition, walk
from tailor.backbones.composition import BlockStep, Parts, Size


def matches(model: nn.Module) -> bool:
    """Whether this file describes the model."""
    return isinstance(model, SwinTransformer | SwinTransformerV2)


def describe(model: Any) -> Anatomy:
    """Blocks stage by stage; a feature level per stage."""
    blocks, features = [], []
    for s, layer in enumerate(model.layers):
        width = int(model.feature_info[s]["num_chs"])
        after = f"layers.{s + 1}.downsample" if s + 1 < len(model.layers) else None
        for b, module, wide in walk.blocks_in(layer.blocks, width):
            path = f"layers.{s}.blocks.{b}"
            # Both versions flatten the map before the MLP.
            block = Block(path, s, wide, f"{path}.attn", f"{path}.mlp", "windows", merging=after)
            blocks.append(walk.swapped(module, block))
        features.append(Feature(f"layers.{s}", width, int(model.feature_info[s]["reduction"])))
    heads = walk.heads_of(model)
    inner = tuple(n for n, _ in model.named_modules() if n.endswith("cpb_mlp"))
    tables = tuple(
        n for n, _ in model.named_parameters() if n.endswith(("relative_position_bias_table", "logit_scale"))
    )
    excluded = ("patch_embed", *heads, *inner, *tables)
    merging = tuple(n for n, _ in model.named_modules() if n.endswith("downsample.reduction"))
    return Anatomy(
        family="swin",
        blocks=tuple(blocks),
        sites=walk.sites_of(model, blocks, excluded),
        vectors=walk.vectors_of(model, blocks, excluded),
        operations=walk.operations_of(model, (*heads, *inner, *merging)),  # SSF scales the norm before it only
        features=tuple(features),
        heads=heads,
        width=int(model.num_features),
        inputs=walk.inputs_of(model),
        final_norm="norm",
    )


def parts(model: Any, size: Size) -> Parts:
    """Patch embedding, mergings and blocks stage by stage, norm and classifier; states are maps (B, H, W, C)."""
    own = tuple(model.patch_embed.img_size)
    blocks: list[BlockStep] = []
    for s, layer in enumerate(model.layers):
        blocks.append(BlockStep(f"layers.{s}.downsample", layer.downsample, residual=False))
        for b, block in enumerate(layer.blocks):
            blocks.append(BlockStep(f"layers.{s}.blocks.{b}", block if size == own else _masked_anew(block)))
    return Parts(
        stem=lambda images: composition.embed_patches(model.patch_embed, images),
        blocks=tuple(blocks),
        tail=lambda x: model.forward_head(model.norm(x)),
        to_map=lambda x: x.permute(0, 3, 1, 2),
    )


def maps(model: nn.Module, images: Tensor, levels: Sequence[Feature]) -> tuple[Tensor, ...]:
    """What each stage gives."""
    return composition.maps(parts(model, (images.shape[-2], images.shape[-1])), images, levels)


def _masked_anew(block: nn.Module) -> Callable[[Tensor], Tensor]:
    """The block on a map of another size than it was made for: masks of shifted windows are computed as it runs."""

    def run(x: Tensor) -> Tensor:
        with composition.temporarily(list(block.modules()), dynamic_mask=True):
            return block(x)  # type: ignore[no-any-return]

    return run
