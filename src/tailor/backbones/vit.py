"""Plain vision transformers of timm: `VisionTransformer` (DeiT with its distillation token, registers), `Eva`, `Beit`.

Token layout (B, prefix + patches, C). Position embedding, class and register tokens and the patch projection are left
out of the ranking, as in SPT's own candidates.
"""

from typing import Any

from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from tailor.anatomy import Anatomy, Block, Feature
from tailor.backbones import parts

_EXCLUDED = ("patch_embed", "pos_embed", "cls_token", "reg_token", "dist_token", "rel_pos_bias", "rope", "norm_pre")


def matches(model: nn.Module) -> bool:
    """Whether this file describes the model."""
    return isinstance(model, VisionTransformer | Eva | Beit)


def describe(model: Any) -> Anatomy:
    """Blocks, sites, vectors and features of a plain vision transformer."""
    blocks = tuple(
        parts.swapped(
            block,
            Block(f"blocks.{i}", 0, model.embed_dim, f"blocks.{i}.attn", _path(block, f"blocks.{i}", "mlp")),
        )
        for i, block in enumerate(model.blocks)
    )
    heads = parts.heads_of(model)
    excluded = (*_EXCLUDED, *heads, *_tables(model))
    norm = next(
        (
            n
            for n in ("norm", "fc_norm")
            if isinstance(getattr(model, n, None), nn.Module) and parts.is_norm(getattr(model, n))
        ),
        None,
    )
    grid = getattr(model.patch_embed, "grid_size", None)
    stride = int(model.patch_embed.patch_size[0])
    return Anatomy(
        family="vit",
        blocks=blocks,
        sites=parts.sites_of(model, blocks, excluded),
        vectors=parts.vectors_of(model, blocks, excluded),
        operations=parts.operations_of(
            model, (*heads, *(b.path + ".attn.q_norm" for b in blocks), *(b.path + ".attn.k_norm" for b in blocks))
        ),
        features=tuple(Feature(block.path, block.width, stride) for block in blocks),
        heads=heads,
        width=model.embed_dim,
        input_size=parts.input_size_of(model),
        final_norm=norm,
        prefix=int(model.num_prefix_tokens),
        grid=tuple(grid) if grid else None,
        tokens=tuple(n for n in ("cls_token", "dist_token", "reg_token") if getattr(model, n, None) is not None),
        rotary=getattr(model, "rope", None) is not None,
    )


def _path(block: nn.Module, path: str, name: str) -> str | None:
    return f"{path}.{name}" if isinstance(getattr(block, name, None), nn.Module) else None


def _tables(model: nn.Module) -> tuple[str, ...]:
    return tuple(n for n, _ in model.named_parameters() if n.endswith("relative_position_bias_table"))
