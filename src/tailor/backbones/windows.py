"""Attention in timm's Swin windows with keys and values that come from outside the window.

timm's modules take no extra keys, so this file computes the same attention from their own layers and tables. It is the
only place that reads the inside of a Swin attention; what the extra tokens are is the caller's business (`vpt-deep`).
"""

import math

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
