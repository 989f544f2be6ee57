"""Where each query stands: its positional query, learned or following what it sees (FASeg's DFPQ, He et al. 2023).

DFPQ gives block t the query position h(A K + B): A are the weights of the block before, averaged over the heads, K the
position encodings that it read, B the learned positions, h one MLP for all blocks. Before the first block K is averaged
over the foreground that the first prediction finds. Deviation: the published code averages over the *background* there;
`start="background"` does the same for its weights. The other rows are the competitors of FASeg's Table 5.5.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from tailor.dense.positions import cells, sine

Focus = Literal["learned", "grid-anchors", "dynamic-anchors", "dynamic-foreground", "dfpq"]
Start = Literal["foreground", "background"]


def averaged(position: Tensor, mask: Tensor) -> Tensor:
    """(B, N, E): the mean of `position` (B, S, E) over the cells of each mask (B, N, S), none of which is empty."""
    weights = mask.to(position.dtype)
    return weights @ position / weights.sum(-1, keepdim=True)


class LearnedFocus(nn.Module):
    """B itself, in every block."""

    follows: Literal["nothing"] = "nothing"

    def __init__(self, width: int) -> None:
        super().__init__()

    def pooled(self, base: Tensor, mask: Tensor, position: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, width) from the learned positions (N, width)."""
        return base.expand(mask.shape[0], -1, -1)


class _Mapped(nn.Module):
    """The MLP h that all but the learned positions go through."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu())


class GridAnchors(nn.Module):
    """Fixed points on a grid, by their sinusoidal code."""

    follows: Literal["nothing"] = "nothing"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.h = _Mapped(width)

    def pooled(self, base: Tensor, mask: Tensor, position: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, width): as many points as queries, row by row of the smallest square grid that holds them."""
        side = math.ceil(len(base) ** 0.5)
        places = cells(side, side, position, 0.5).flatten(0, 1)[: len(base)]
        return self.h(sine(places, base.shape[-1])).expand(mask.shape[0], -1, -1)


class DynamicAnchors(nn.Module):
    """The centre of the mask predicted before, by its sinusoidal code."""

    follows: Literal["masks"] = "masks"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.h = _Mapped(width)

    def pooled(self, base: Tensor, mask: Tensor, position: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, width) from masks (B, N, S) on a map of `size`."""
        places = cells(*size, position, 0.5).flatten(0, 1)
        return self.h(sine(averaged(places.expand(mask.shape[0], -1, -1), mask), base.shape[-1]))


class DynamicForeground(nn.Module):
    """The mean position encoding over the mask predicted before."""

    follows: Literal["masks"] = "masks"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.h = _Mapped(width)

    def pooled(self, base: Tensor, mask: Tensor, position: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, width) from masks (B, N, S) and position encodings (B, S, width)."""
        return self.h(averaged(position, mask))


class Dfpq(nn.Module):
    """What the block before attended to, and the learned positions: h(A K + B)."""

    follows: Literal["attention"] = "attention"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.h = _Mapped(width)

    def pooled(self, base: Tensor, mask: Tensor, position: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, width) before the first block, when nothing has been attended to."""
        return self.h(averaged(position, mask) + base)

    def looked(self, base: Tensor, found: Tensor) -> Tensor:
        """(B, N, width) from `found` = A K, (B, N, width)."""
        return self.h(found + base)


FOCUS: dict[str, type[nn.Module]] = {
    "learned": LearnedFocus,
    "grid-anchors": GridAnchors,
    "dynamic-anchors": DynamicAnchors,
    "dynamic-foreground": DynamicForeground,
    "dfpq": Dfpq,
}
"""Kind of positional query to its module, made from the width."""


def never_empty(mask: Tensor) -> Tensor:
    """The mask (..., S); a row that holds nothing holds everything instead."""
    return mask | ~mask.any(-1, keepdim=True)


def starting(inside: Tensor, start: Start) -> Tensor:
    """The cells (B, N, S) that the first positional query is averaged over."""
    return never_empty(inside if start == "foreground" else torch.logical_not(inside))
