"""Attention in timm's Swin windows with keys and values that come from outside the window.

timm's modules take no extra keys, so this file computes the same attention from their own layers and tables. It is the
only place that reads the inside of a Swin attention; what the extra tokens are is the caller's business (`vpt-deep`).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def is_window_attention(attention: nn.Module) -> bool:
    """Whether `attend` knows the inside of the module: Swin v1 (a table of position biases) or v2 (a small network)."""
    return hasattr(attention, "relative_position_bias_table") or hasattr(attention, "cpb_mlp")


def attend(attention: nn.Module, x: Tensor, extra: Tensor, mask: Tensor | None = None) -> Tensor:
    """Output (windows, N, C) of `attention` on `x` when each window also sees the tokens `extra` (p, C).

    The extra tokens give keys and values, without position bias and never masked; they get no output of their own.
    """
    windows, tokens, _ = x.shape
    q, k, v = _qkv(attention, x)
    _, extra_k, extra_v = _qkv(attention, extra[None])
    k = torch.cat([extra_k.expand(windows, -1, -1, -1), k], dim=2)
    v = torch.cat([extra_v.expand(windows, -1, -1, -1), v], dim=2)
    bias = _position_bias(attention)
    if mask is not None:
        bias = bias + mask[:, None]
        bias = bias.repeat(windows // mask.shape[0], 1, 1, 1)
    bias = F.pad(bias.to(q.dtype), (len(extra), 0))
    if hasattr(attention, "cpb_mlp"):  # version 2: cosine attention with a learned scale per head
        scale = attention.logit_scale.clamp(max=math.log(100.0)).exp()  # type: ignore[union-attr, operator]
        q, k, factor = F.normalize(q, dim=-1) * scale.to(q.dtype), F.normalize(k, dim=-1), 1.0
    else:
        factor = float(attention.scale)  # type: ignore[arg-type]
    dropout = float(attention.attn_drop.p) if attention.training else 0.0  # type: ignore[union-attr, arg-type]
    y = F.scaled_dot_product_attention(q, k.to(q.dtype), v, attn_mask=bias, dropout_p=dropout, scale=factor)
    y = attention.proj(y.transpose(1, 2).reshape(windows, tokens, -1))  # type: ignore[operator]
    return attention.proj_drop(y)  # type: ignore[operator]


def _qkv(attention: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (B, heads, N, channels), through the layer as it stands (it may be wrapped)."""
    qkv = attention.qkv(x)  # type: ignore[operator]
    if getattr(attention, "q_bias", None) is not None:
        qkv = qkv + torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])  # type: ignore[list-item]
    heads = int(attention.num_heads)  # type: ignore[arg-type]
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def _position_bias(attention: nn.Module) -> Tensor:
    """(1, heads, N, N): what is added to the scores for the distance of two tokens."""
    index = attention.relative_position_index
    if hasattr(attention, "cpb_mlp"):
        heads = int(attention.num_heads)  # type: ignore[arg-type]
        table = attention.cpb_mlp(attention.relative_coords_table).view(-1, heads)  # type: ignore[operator]
        return 16 * torch.sigmoid(table[index].permute(2, 0, 1)[None])
    return attention.relative_position_bias_table[index].permute(2, 0, 1)[None]  # type: ignore[index]


def bias_macs(attention: Any) -> int:
    """MACs that version 2's network spends on position biases, once a forward pass; 0 where they are a table."""
    if not hasattr(attention, "cpb_mlp"):
        return 0
    distances = attention.relative_coords_table.numel() // 2
    layers = [m for m in attention.cpb_mlp.modules() if isinstance(m, nn.Linear)]
    return int(distances * sum(layer.weight.numel() for layer in layers))


@dataclass(frozen=True)
class Windows:
    """How a block cuts its map (height, width) into windows of `size`, after rolling it by `-shift`.

    Where the size does not divide the map, zeros are added below and on the right.
    """

    map: tuple[int, int]
    size: tuple[int, int]
    shift: tuple[int, int]

    @property
    def padded(self) -> tuple[int, int]:
        """The map with the zeros."""
        return tuple(math.ceil(a / b) * b for a, b in zip(self.map, self.size, strict=True))  # type: ignore[return-value]


def windows_of(block: Any) -> Windows:
    """The windows of one of timm's Swin blocks."""
    return Windows(tuple(block.input_resolution), tuple(block.window_size), tuple(block.shift_size))


def divide(x: Tensor, windows: Windows) -> Tensor:
    """A map (B, H, W, C) as its windows (B * windows, N, C), as the block itself cuts it."""
    (height, width), (tall, wide) = windows.padded, windows.size
    x = x.roll(tuple(-s for s in windows.shift), (1, 2))
    x = F.pad(x, (0, 0, 0, width - x.shape[2], 0, height - x.shape[1]))
    x = x.reshape(-1, height // tall, tall, width // wide, wide, x.shape[-1])
    return x.transpose(2, 3).flatten(0, 2).flatten(1, 2)


def join(x: Tensor, windows: Windows) -> Tensor:
    """Undo `divide`: (B * windows, N, C) as (B, H, W, C)."""
    (height, width), (tall, wide) = windows.padded, windows.size
    x = x.reshape(-1, height // tall, width // wide, tall, wide, x.shape[-1]).transpose(2, 3)
    x = x.flatten(3, 4).flatten(1, 2)[:, : windows.map[0], : windows.map[1]]
    return x.roll(windows.shift, (1, 2))


def undivided_(block: Any) -> nn.Module:
    """Let the block hand its attention the whole map, (B, H * W, C), unshifted and without a mask."""
    block.window_size, block.shift_size = tuple(block.input_resolution), (0, 0)
    block.window_area = math.prod(block.window_size)
    block.attn_mask = None
    return block  # type: ignore[no-any-return]
