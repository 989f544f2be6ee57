"""Attention at the finest level: FASeg's HRCA reads the few cells that the coarse blocks found worth a look.

The weights of a coarse block, averaged over heads and summed over queries, rank its cells; the best share, the same for
all queries of an image, is read at the finest level (equation 5.3). `cells` takes whole windows under the best cells,
as the published code; `pixels` resizes the scores and takes the best pixels, as the paper. Tokens are gathered before
keys and values are projected. At least one cell is read, where the code reads nothing on small images. The other
kinds are the competitors of FASeg's Table 5.6.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor

from tailor.dense.attention import CrossAttention
from tailor.errors import PlanError
from tailor.settings import STRICT

Refinement = Literal["none", "hrca", "vanilla", "random", "rcda"]


@dataclass(frozen=True, config=STRICT)
class HighResolution:
    """How the finest level is read. `ratio` is the share of its pixels that `hrca` and `random` read.

    `scores` come from the coarsest block of the round or from the block just before; `position` is the query's: the
    learned one, or that of the last low-resolution block (`focus`).
    """

    kind: Refinement = "hrca"
    ratio: float = 1 / 32
    unit: Literal["cells", "pixels"] = "cells"
    scores: Literal["coarsest", "previous"] = "coarsest"
    position: Literal["learned", "focus"] = "learned"

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise PlanError(f"a share of {self.ratio} of the pixels cannot be read", hint="write for instance 0.03125")

    @property
    def level(self) -> int:
        """The level whose block gives the scores, counted from the coarsest; -1 where none is needed."""
        if self.kind != "hrca":
            return -1
        return 0 if self.scores == "coarsest" else 2


def read(
    attention: CrossAttention,
    query: Tensor,
    level: Tensor,
    position: Tensor,
    scores: "Attended | None",
    how: HighResolution,
) -> Tensor:
    """(B, N, width): what queries with their position find in `level` (B, width, H, W) with its position encodings."""
    height, width = level.shape[-2:]
    if how.kind == "rcda":
        return _rows_then_columns(attention, query, level, position)
    value = level.flatten(2).transpose(1, 2)
    place = position.flatten(2).transpose(1, 2).expand(value.shape[0], -1, -1)
    if how.kind == "vanilla":
        return attention(query, value + place, value)
    if how.kind == "random":
        chosen = _random(value.shape[0], height, width, how.ratio, value)
    else:
        assert scores is not None, "hrca reads where a block with scores has looked"
        chosen = best(scores, (height, width), how)
    where = chosen[:, :, None].expand(-1, -1, value.shape[-1])
    value, place = value.gather(1, where), place.gather(1, where)
    return attention(query, value + place, value)


class Attended(NamedTuple):
    """How much all queries of an image together looked at each cell: (B, S), on a map of `size`."""

    values: Tensor
    size: tuple[int, int]


def best(scores: Attended, size: tuple[int, int], how: HighResolution) -> Tensor:
    """(B, K): the pixels of a map of `size` to read, as positions in its flattened rows."""
    (rows, columns), (height, width) = scores.size, size
    ranked = scores.values.detach()
    if how.unit == "pixels":
        maps = ranked.unflatten(1, scores.size)[:, None]
        finer = F.interpolate(maps, size=size, mode="bilinear", align_corners=False).flatten(1)
        return finer.topk(max(1, int(height * width * how.ratio)), sorted=False).indices
    side = height // rows
    if (rows * side, columns * side) != size:
        raise PlanError(
            f"a map of {height} x {width} is no multiple of one of {rows} x {columns}",
            hint="pad the image to a multiple of the coarsest stride",
        )
    cell = ranked.topk(max(1, int(rows * columns * how.ratio)), sorted=False).indices
    corner = cell.div(columns, rounding_mode="floor") * (side * width) + cell % columns * side
    inside = torch.arange(side, device=cell.device)
    window = (inside[:, None] * width + inside).flatten()
    return (corner[:, :, None] + window).flatten(1)


def _random(batch: int, height: int, width: int, ratio: float, like: Tensor) -> Tensor:
    """As many pixels as `hrca` reads, by chance, each image its own; torch's default generator is the caller's."""
    count = max(1, int(height * width * ratio))
    return torch.rand(batch, height * width, device=like.device).topk(count, sorted=False).indices


def _rows_then_columns(attention: CrossAttention, query: Tensor, level: Tensor, position: Tensor) -> Tensor:
    """Row-column decoupled attention (Wang et al. 2022): weights over columns and over rows, multiplied."""
    place = (level + position).flatten(2).transpose(1, 2)
    key = place.unflatten(1, level.shape[-2:])
    q = attention.split(attention.q(query)) * (query.shape[-1] // attention.heads) ** -0.5
    along_x = attention.split(attention.k(key.mean(1)))
    along_y = attention.split(attention.k(key.mean(2)))
    value = attention.v(level.flatten(2).transpose(1, 2)).unflatten(1, level.shape[-2:])
    value = value.unflatten(-1, (attention.heads, -1))
    x = (q @ along_x.transpose(-2, -1)).softmax(-1)
    y = (q @ along_y.transpose(-2, -1)).softmax(-1)
    rows = torch.einsum("bnqw,bhwnd->bnqhd", x, value)
    return attention.joined(torch.einsum("bnqh,bnqhd->bnqd", y, rows))
