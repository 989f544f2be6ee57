"""Names of a Mask2Former of transformers as ours, so that its published weights start a decoder of the same sizes.

Only the decoder's tensors: the backbone has its own. A fused attention projection becomes three layers. FASeg starts
from the same tensors and keeps its own start for what Mask2Former has not.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_PIXELS = "model.pixel_level_module.decoder."
_QUERIES = "model.transformer_module."
_RULES = (
    (rf"{_PIXELS}input_projections\.", "pixels.project."),
    (rf"{_PIXELS}level_embed$", "pixels.level"),
    (rf"{_PIXELS}encoder\.layers\.(\d+)\.self_attn\.sampling_offsets\.", r"pixels.encoder.\1.attention.offsets."),
    (rf"{_PIXELS}encoder\.layers\.(\d+)\.self_attn\.attention_weights\.", r"pixels.encoder.\1.attention.shares."),
    (rf"{_PIXELS}encoder\.layers\.(\d+)\.self_attn\.value_proj\.", r"pixels.encoder.\1.attention.value."),
    (rf"{_PIXELS}encoder\.layers\.(\d+)\.self_attn\.output_proj\.", r"pixels.encoder.\1.attention.out."),
    (rf"{_PIXELS}encoder\.layers\.(\d+)\.self_attn_layer_norm\.", r"pixels.encoder.\1.norm1."),
    (rf"{_PIXELS}encoder\.layers\.(\d+)\.final_layer_norm\.", r"pixels.encoder.\1.norm2."),
    (rf"{_PIXELS}encoder\.layers\.(\d+)\.(fc\d)\.", r"pixels.encoder.\1.\2."),
    (rf"{_PIXELS}adapter_1\.", "pixels.lateral."),
    (rf"{_PIXELS}layer_1\.", "pixels.smooth."),
    (rf"{_PIXELS}mask_projection\.", "pixels.masks."),
    (rf"{_QUERIES}queries_embedder\.weight$", "decoder.place"),
    (rf"{_QUERIES}queries_features\.weight$", "decoder.content"),
    (rf"{_QUERIES}level_embed\.weight$", "decoder.level"),
    (rf"{_QUERIES}decoder\.layernorm\.", "decoder.norm."),
    (rf"{_QUERIES}decoder\.mask_predictor\.mask_embedder\.(\d)\.0\.", r"decoder.masks.layers.\1."),
    (rf"{_QUERIES}decoder\.layers\.(\d+)\.cross_attn_layer_norm\.", r"decoder.blocks.\1.norm1."),
    (rf"{_QUERIES}decoder\.layers\.(\d+)\.self_attn_layer_norm\.", r"decoder.blocks.\1.norm2."),
    (rf"{_QUERIES}decoder\.layers\.(\d+)\.final_layer_norm\.", r"decoder.blocks.\1.norm3."),
    (rf"{_QUERIES}decoder\.layers\.(\d+)\.self_attn\.(q|k|v|out)_proj\.", r"decoder.blocks.\1.own.\2."),
    (rf"{_QUERIES}decoder\.layers\.(\d+)\.cross_attn\.out_proj\.", r"decoder.blocks.\1.cross.out."),
    (rf"{_QUERIES}decoder\.layers\.(\d+)\.cross_attn\.in_proj_", r"decoder.blocks.\1.cross.qkv."),
    (rf"{_QUERIES}decoder\.layers\.(\d+)\.(fc\d)\.", r"decoder.blocks.\1.\2."),
    (r"class_predictor\.", "decoder.classes."),
)


def from_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The decoder's tensors of `Mask2FormerForUniversalSegmentation`, named as in `MaskHead`; others are left out."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for pattern, ours in _RULES:
            renamed, times = re.subn(f"^{pattern}", ours, name)
            if times:
                found.update(_split(renamed, tensor))
                break
    return found


def _split(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """A fused projection as its three layers."""
    if ".qkv." not in name:
        return {name: tensor}
    parts = torch.chunk(tensor, 3)
    return {name.replace(".qkv.", f".{part}."): value.clone() for part, value in zip("qkv", parts)}
