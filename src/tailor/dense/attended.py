"""Where queries look: what the blocks of a mask decoder give each cell of the map that they read, for pictures.

Training keeps no weights, so they are computed again from the queries, keys and masks of one forward pass. Blocks of
the finest level read no whole map and are left out.
"""

from typing import Any

import torch
from torch import Tensor, nn

from tailor.dense.attention import CrossAttention
from tailor.dense.focus import never_empty
from tailor.dense.mask_decoder import MaskDecoder
from tailor.dense.pixel_decoder import PixelFeatures
from tailor.dense.predictions import MaskPredictions
from tailor.errors import ModelError


@torch.no_grad()
def attended(model: nn.Module, images: Tensor, last: int = 3) -> tuple[MaskPredictions, dict[int, Tensor]]:
    """What a model in eval mode predicts, and the weights of its `last` blocks that read a whole map, by number from 1.

    Weights of cross-attention, after masking: (B, N, h, w), a mean of the heads that sums to one.

    ModelError where the model has no queries.
    """
    decoder = next((m for m in model.modules() if isinstance(m, MaskDecoder)), None)
    if decoder is None:
        raise ModelError("no query looks at anything in this model", hint="take `masks`, `mask2former` or `faseg`")
    seen: dict[str, Any] = {}
    hooks = [decoder.register_forward_hook(lambda _, given, out: seen.update(pixels=given[0], found=out))]
    for t, block in enumerate(decoder.blocks):
        cross = block.cross
        assert isinstance(cross, CrossAttention)
        hooks += [getattr(cross, part).register_forward_hook(_keeping(seen, f"{part} {t}")) for part in ("q", "k")]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    pixels, found = seen["pixels"], seen["found"]
    numbers = [t for t in range(len(decoder.blocks)) if t % len(pixels.levels) < decoder.levels][-last:]
    return found, {t + 1: _weights(decoder, t, pixels, found, seen[f"q {t}"], seen[f"k {t}"]) for t in numbers}


def _keeping(seen: dict[str, Any], name: str) -> Any:
    def keep(_: nn.Module, __: object, out: Tensor) -> None:
        seen[name] = out

    return keep


def _weights(
    decoder: MaskDecoder, t: int, pixels: PixelFeatures, found: MaskPredictions, q: Tensor, k: Tensor
) -> Tensor:
    """Of block `t`, whose queries (B, N, width) and keys (B, S, width) have been through its layers."""
    level, block = t % len(pixels.levels), decoder.blocks[t]
    allowed = never_empty(decoder.inside(found.queries[t], decoder.small(pixels)[level]))
    q, k = block.cross.split(q), block.cross.split(k)  # type: ignore[union-attr, operator]
    scores = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).masked_fill(~allowed[:, None], float("-inf"))
    return scores.softmax(-1).mean(1).unflatten(-1, pixels.levels[level].shape[-2:])
