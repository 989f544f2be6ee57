"""Plain vision transformers of timm: `VisionTransformer` (DeiT with its distillation token, registers), `Eva`, `Beit`.

Token layout (B, prefix + patches, C). Position embedding, class and register tokens and the patch projection are left
out of the ranking, as in SPT's own candidates.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.layers.format import Format
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tailor.anatomy import Anatomy, Block, Feature
from tailor.backbones import composition, walk
from tailor.backbones.composition import BlockStep, Parts, Size
from tailor.errors import ModelError

_EXCLUDED = ("patch_embed", "pos_embed", "cls_token", "reg_token", "dist_token", "rel_pos_bias", "rope", "norm_pre")


def matches(model: nn.Module) -> bool:
    """Whether this file describes the model."""
    return isinstance(model, VisionTransformer | Eva | Beit)


def describe(model: Any) -> Anatomy:
    """Blocks, sites, vectors and features of a plain vision transformer."""
    blocks = tuple(
        walk.swapped(
            block,
            Block(f"blocks.{i}", 0, width, f"blocks.{i}.attn", _path(block, f"blocks.{i}", "mlp")),
        )
        for i, block, width in walk.blocks_in(model.blocks, model.embed_dim)
    )
    heads = walk.heads_of(model)
    excluded = (*_EXCLUDED, *heads, *_tables(model))
    norm = next(
        (
            n
            for n in ("norm", "fc_norm")
            if isinstance(getattr(model, n, None), nn.Module) and walk.is_norm(getattr(model, n))
        ),
        None,
    )
    grid = getattr(model.patch_embed, "grid_size", None)
    stride = int(model.patch_embed.feat_ratio())  # of a hybrid that is more than the patch
    return Anatomy(
        family="vit",
        blocks=blocks,
        sites=walk.sites_of(model, blocks, excluded),
        vectors=walk.vectors_of(model, blocks, excluded),
        operations=walk.operations_of(
            model, (*heads, *(b.path + ".attn.q_norm" for b in blocks), *(b.path + ".attn.k_norm" for b in blocks))
        ),
        features=tuple(Feature(block.path, block.width, stride) for block in blocks),
        heads=heads,
        width=model.embed_dim,
        inputs=walk.inputs_of(model),
        final_norm=norm,
        prefix=int(model.num_prefix_tokens),
        grid=tuple(grid) if grid else None,
        tokens=tuple(n for n in ("cls_token", "dist_token", "reg_token") if getattr(model, n, None) is not None),
        rotary=getattr(model, "rope", None) is not None,
    )


def parts(model: Any, size: Size) -> Parts:
    """Embedding with prefix tokens and positions, the blocks, norm and classifier; states are tokens (B, N, C)."""
    grid = model.patch_embed.dynamic_feat_size(size)

    def to_map(x: Tensor) -> Tensor:  # prompts may stand between the prefix and the patches
        return x[:, -grid[0] * grid[1] :].transpose(1, 2).unflatten(2, grid)

    blocks = tuple(BlockStep(f"blocks.{i}", _runner(model, block, i, grid)) for i, block in enumerate(model.blocks))
    return Parts(
        stem=lambda images: _stem(model, images),
        blocks=blocks,
        tail=lambda x: model.forward_head(model.norm(x)),
        to_map=to_map,
    )


def maps(model: nn.Module, images: Tensor, levels: Sequence[Feature]) -> tuple[Tensor, ...]:
    """The patches after each level's block, not normalised; positions are interpolated for images of another size."""
    return composition.maps(parts(model, (images.shape[-2], images.shape[-1])), images, levels)


def _stem(model: Any, images: Tensor) -> Tensor:
    """Tokens as they enter the first block."""
    own = model.patch_embed.img_size
    if isinstance(model, Beit):
        if own is not None and tuple(images.shape[-2:]) != tuple(own):
            raise ModelError(
                f"`{type(model).__name__}` takes images of {own[0]} x {own[1]} only, the size of its position biases",
                hint="make it with `--image-size`",
            )
        x = model.patch_embed(images)
        x = torch.cat((model.cls_token.expand(len(x), -1, -1), x), dim=1)
        return model.pos_drop(x if model.pos_embed is None else x + model.pos_embed)  # type: ignore[no-any-return]
    if own is None or tuple(images.shape[-2:]) == tuple(own) or model.dynamic_img_size:
        x = model._pos_embed(model.patch_embed(images))
    else:
        with composition.temporarily([model.patch_embed], flatten=False, output_fmt=Format.NHWC):
            x = composition.embed_patches(model.patch_embed, images)
        with composition.temporarily([model], dynamic_img_size=True):
            x = model._pos_embed(x)
    if isinstance(model, Eva):
        return model.norm_pre(x[0])  # type: ignore[no-any-return]
    return model.norm_pre(model.patch_drop(x))  # type: ignore[no-any-return]


def _runner(model: Any, block: Any, index: int, grid: Size) -> Callable[[Tensor], Tensor]:
    """What computes one block: it is given what all blocks share, rotary positions or a table of biases."""
    if isinstance(model, Beit):
        shared = model.rel_pos_bias
        return lambda x: block(x, shared_rel_pos_bias=None if shared is None else shared())
    rotary: Any = getattr(model, "rope", None)
    if not isinstance(model, Eva) or rotary is None:
        return block  # type: ignore[no-any-return]

    def run(x: Tensor) -> Tensor:
        own = grid == tuple(model.patch_embed.grid_size) and not model.dynamic_img_size
        if own and hasattr(rotary, "feat_shape"):
            rope = rotary.get_embed()
        else:  # what was computed once is for the model's own grid
            with composition.temporarily([rotary], _use_cached_embed=False):
                rope = rotary.get_embed(shape=grid)
        return block(x, rope=rope[index] if getattr(model, "rope_mixed", False) else rope)  # type: ignore[no-any-return]

    return run


def _path(block: nn.Module, path: str, name: str) -> str | None:
    return f"{path}.{name}" if isinstance(getattr(block, name, None), nn.Module) else None


def _tables(model: nn.Module) -> tuple[str, ...]:
    return tuple(n for n, _ in model.named_parameters() if n.endswith("relative_position_bias_table"))
