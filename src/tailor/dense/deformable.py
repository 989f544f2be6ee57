"""Multi-scale deformable attention (Zhu et al. 2021) in plain PyTorch: no extension to compile, and it exports.

Each query and head sums a few values read bilinearly around a reference point in every level. On a CPU all corners of
all points of a query are summed by one `embedding_bag`, which stores no sampled values; elsewhere, and where the graph
is exported, each level is one `grid_sample`. Both give the same numbers.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Sizes = Sequence[tuple[int, int]]
"""Height and width of each level, in the order in which their tokens follow each other."""


def sample(value: Tensor, sizes: Sizes, places: Tensor, weights: Tensor) -> Tensor:
    """(B, Q, heads * d): weighted sums of `value` (B, S, heads, d), read bilinearly at `places`, zero outside.

    `places` (B, Q, heads, levels, points, 2) are x and y as shares of a level's width and height; `weights` are
    (B, Q, heads, levels, points).
    """
    if value.device.type == "cpu" and not torch.compiler.is_compiling():
        return _by_corners(value, sizes, places, weights)
    return _by_level(value, sizes, places, weights)


def _by_corners(value: Tensor, sizes: Sizes, places: Tensor, weights: Tensor) -> Tensor:
    """The four corners of every point as rows of a table, with the product of both weights, in one sum."""
    batch, tokens, heads, width = value.shape
    queries = places.shape[1]
    rows, shares = [], []
    start = 0
    owner = torch.arange(batch)[:, None] * (tokens * heads) + torch.arange(heads)
    for level, (height, breadth) in enumerate(sizes):
        x, y = places[:, :, :, level].mul(places.new_tensor([breadth, height])).sub(0.5).unbind(-1)
        left, top = x.detach().floor(), y.detach().floor()
        right_share, low_share = x - left, y - top
        left, top = left.long(), top.long()
        for row, row_share in ((top, 1 - low_share), (top + 1, low_share)):
            inside = (row >= 0) & (row < height)
            row_weight = weights[:, :, :, level] * row_share * inside
            for column, column_share in ((left, 1 - right_share), (left + 1, right_share)):
                there = (column >= 0) & (column < breadth)
                token = start + row.clamp(0, height - 1) * breadth + column.clamp(0, breadth - 1)
                rows.append(token * heads + owner[:, None, :, None])
                shares.append(row_weight * column_share * there)
        start += height * breadth
    summed = F.embedding_bag(
        torch.stack(rows, -1).view(batch * queries * heads, -1),
        value.reshape(batch * tokens * heads, width),
        per_sample_weights=torch.stack(shares, -1).view(batch * queries * heads, -1),
        mode="sum",
    )
    return summed.view(batch, queries, heads * width)


def _by_level(value: Tensor, sizes: Sizes, places: Tensor, weights: Tensor) -> Tensor:
    batch, _, heads, width = value.shape
    queries = places.shape[1]
    total: Tensor | None = None
    for level, tokens in enumerate(value.split([h * w for h, w in sizes], dim=1)):
        maps = tokens.permute(0, 2, 3, 1).reshape(batch * heads, width, *sizes[level])
        grid = (2 * places[:, :, :, level] - 1).transpose(1, 2).reshape(batch * heads, queries, -1, 2)
        read = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        share = weights[:, :, :, level].transpose(1, 2).reshape(batch * heads, 1, queries, -1)
        part = (read * share).sum(-1)
        total = part if total is None else total + part
    assert total is not None, "deformable attention needs a level"
    return total.view(batch, heads * width, queries).transpose(1, 2)


def references(sizes: Sizes, like: Tensor) -> Tensor:
    """(S, 2): x and y of every token's own centre, as shares of its level's width and height."""
    found = []
    for height, width in sizes:
        y = (torch.arange(height, device=like.device, dtype=like.dtype) + 0.5) / height
        x = (torch.arange(width, device=like.device, dtype=like.dtype) + 0.5) / width
        found.append(torch.stack([x[None].expand(height, -1), y[:, None].expand(-1, width)], -1).reshape(-1, 2))
    return torch.cat(found)


class DeformableAttention(nn.Module):
    """Queries (B, S, width), one per token of the levels, look at `points` places in each level. Runs in float32."""

    def __init__(self, width: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.offsets = nn.Linear(width, heads * levels * points * 2)
        self.shares = nn.Linear(width, heads * levels * points)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self._start_()

    def _start_(self) -> None:
        """Head h looks in its own direction, its points one, two, ... cells away; all count the same."""
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        ways = torch.stack([angles.cos(), angles.sin()], -1)
        ways = ways / ways.abs().max(-1, keepdim=True).values
        steps = torch.arange(1, self.points + 1)
        bias = ways[:, None, None] * steps[None, None, :, None]
        with torch.no_grad():
            self.offsets.weight.zero_()
            self.offsets.bias.copy_(bias.expand(-1, self.levels, -1, -1).reshape(-1))
        for layer in (self.shares.weight, self.shares.bias, self.value.bias, self.out.bias):
            nn.init.zeros_(layer)
        nn.init.xavier_uniform_(self.value.weight)
        nn.init.xavier_uniform_(self.out.weight)

    def forward(self, x: Tensor, position: Tensor, sizes: Sizes) -> Tensor:
        """(B, S, width) for tokens `x` (B, S, width) of all levels and their position encodings."""
        query = x + position
        batch, tokens, _ = x.shape
        offsets = self.offsets(query).view(batch, tokens, self.heads, self.levels, self.points, 2)
        shares = self.shares(query).view(batch, tokens, self.heads, -1).softmax(-1)
        scale = x.new_tensor([[width, height] for height, width in sizes])
        places = references(sizes, x)[:, None, None, None] + offsets / scale[:, None]
        value = self.value(x).view(batch, tokens, self.heads, -1)
        return self.out(sample(value, sizes, places, shares.view(offsets.shape[:-1])))


class DeformableLayer(nn.Module):
    """Deformable self-attention over all levels, then an MLP; norms after each residual sum."""

    def __init__(self, width: int, heads: int, levels: int, points: int, hidden: int) -> None:
        super().__init__()
        self.attention = DeformableAttention(width, heads, levels, points)
        self.norm1 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, position: Tensor, sizes: Sizes) -> Tensor:
        """(B, S, width)."""
        x = self.norm1(x + self.attention(x, position, sizes))
        return self.norm2(x + self.fc2(F.relu(self.fc1(x))))
