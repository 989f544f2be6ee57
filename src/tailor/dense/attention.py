"""Multi-head attention as the mask decoders need it: plain, with a second thing read by the same weights, and scored.

Never `nn.MultiheadAttention`, whose default keeps the averaged weights of every call. A boolean mask says what may be
seen (True), and a query that may see nothing must have been given everything by the caller.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CrossAttention(nn.Module):
    """Queries (B, N, width) read keys and values (B, S, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        for layer in (self.q, self.k, self.v, self.out):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def split(self, x: Tensor) -> Tensor:
        """(B, T, width) as (B, heads, T, width / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def joined(self, x: Tensor) -> Tensor:
        """The heads (B, heads, T, d) together again, through the last layer."""
        return self.out(x.transpose(1, 2).flatten(2))

    def forward(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:
        """(B, N, width); `allowed` is (B, N, S)."""
        q, k, v = self.split(self.q(query)), self.split(self.k(key)), self.split(self.v(value))
        mask = None if allowed is None else allowed[:, None]
        return self.joined(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))

    def looking(
        self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor, also: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The output, and what the weights, averaged over the heads, read from `also` (B, S, E): (B, N, E).

        One call with `also` beside each head's values: the weights (B, heads, N, S) need not be kept.
        """
        q, k, v = self.split(self.q(query)), self.split(self.k(key)), self.split(self.v(value))
        beside = also[:, None].expand(-1, self.heads, -1, -1).to(v.dtype)
        both = F.scaled_dot_product_attention(q, k, torch.cat([v, beside], -1), attn_mask=allowed[:, None])
        own, other = both.split([v.shape[-1], also.shape[-1]], dim=-1)
        return self.joined(own), other.mean(1)

    def scored(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The output, and the weights averaged over the heads (B, N, S): each row sums to one."""
        q, k, v = self.split(self.q(query)), self.split(self.k(key)), self.split(self.v(value))
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        if allowed is not None:
            scores = scores.masked_fill(~allowed[:, None], float("-inf"))
        weights = scores.softmax(-1).to(v.dtype)
        return self.joined(weights @ v), weights.mean(1)


class Perceptron(nn.Module):
    """Three linear layers with ReLU between: from a query to what is multiplied with the pixel embedding."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, outputs)])

    def forward(self, x: Tensor) -> Tensor:
        """(..., outputs)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class DecoderBlock(nn.Module):
    """What a decoder block does after its cross-attention, and that cross-attention: post-norm, no dropout."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.cross = CrossAttention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.own = CrossAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.norm3 = nn.LayerNorm(width)
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, x: Tensor, found: Tensor, place: Tensor) -> Tensor:
        """The queries (B, N, width) after they `found` something in the image; `place` is their position."""
        x = self.norm1(x + found)
        here = x + place
        x = self.norm2(x + self.own(here, here, x))
        return self.norm3(x + self.fc2(F.relu(self.fc1(x))))
