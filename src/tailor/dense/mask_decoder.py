"""The masked-attention decoder (Mask2Former, Cheng et al. 2022), with what FASeg adds where it is asked for.

Queries read one level a block, only where the mask predicted before finds them (the finest level without a mask), and
predict a class and a mask after each block. Masks are never materialised here: a prediction is an embedding that is
multiplied with the pixels, so that losses read it at points, and blocks read it from pixels resized once a level
(resizing and the product commute).
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailor.dense.attention import DecoderBlock, Perceptron
from tailor.dense.focus import FOCUS, Focus, Start, never_empty, starting
from tailor.dense.high_resolution import Attended, HighResolution, read
from tailor.dense.pixel_decoder import LEVELS, PixelFeatures
from tailor.dense.predictions import MaskPredictions


class MaskDecoder(nn.Module):
    """Queries read `levels` in turn, coarsest first, and with `fine` one more, the finest.

    `threshold` is the probability from which a cell counts as inside a mask.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        *,
        queries: int = 100,
        blocks: int = 9,
        heads: int = 8,
        hidden: int = 2048,
        threshold: float = 0.5,
        focus: Focus = "learned",
        start: Start = "foreground",
        levels: int = LEVELS,
        fine: HighResolution | None = None,
    ) -> None:
        super().__init__()
        self.fine, self.start, self.levels = fine, start, levels
        self.least = math.log(threshold / (1 - threshold))  # of a logit
        self.content = nn.Parameter(torch.randn(queries, width))
        self.place = nn.Parameter(torch.randn(queries, width))
        self.level = nn.Parameter(torch.randn(levels + (fine is not None), width))
        self.focus: Any = FOCUS[focus](width)
        self.blocks = nn.ModuleList([DecoderBlock(width, heads, hidden) for _ in range(blocks)])
        self.norm = nn.LayerNorm(width)
        self.classes = nn.Linear(width, classes + 1)
        self.masks = Perceptron(width, width)

    def no_weight_decay(self) -> set[str]:
        """Queries and level embeddings are tables, which decay would only pull to zero."""
        return {"content", "place", "level"}

    def forward(self, pixels: PixelFeatures) -> MaskPredictions:
        """Predictions before the first block and after each."""
        levels = [level + e[:, None, None] for level, e in zip(pixels.levels, self.level, strict=True)]
        small = self.small(pixels)
        x = self.content.expand(pixels.masks.shape[0], -1, -1)
        found = [self._predict(x)]
        place, scores = self.place, None
        cycle = len(levels)
        for t, block in enumerate(self.blocks):
            assert isinstance(block, DecoderBlock)
            level = t % cycle
            if level == self.levels:
                assert self.fine is not None
                query = x + (self.place if self.fine.position == "learned" else place)
                seen = read(block.cross, query, levels[level], pixels.positions[level], scores, self.fine)
                x = block(x, seen, place)
            else:
                size = (levels[level].shape[-2], levels[level].shape[-1])
                value = levels[level].flatten(2).transpose(1, 2)
                position = pixels.positions[level].flatten(2).transpose(1, 2).expand(value.shape[0], -1, -1)
                inside = self.inside(found[-1][1], small[level])
                allowed = never_empty(inside)
                if t == 0 or self.focus.follows == "masks":
                    pooled = allowed if t else starting(inside, self.start)
                    place = self.focus.pooled(self.place, pooled, position, size)
                following = self._following(t)
                wanted = self._scores_wanted(t, level)
                seen, looked, weights = _look(block, x + place, value, position, allowed, following, wanted)
                x = block(x, seen, place)
                if weights is not None:
                    scores = Attended(weights.sum(1), size)
                if looked is not None:
                    place = self.focus.looked(self.place, looked)
            found.append(self._predict(x))
        classes, queries = zip(*found)
        return MaskPredictions(torch.stack(classes), torch.stack(queries), pixels.masks)

    def _following(self, t: int) -> bool:
        """Whether what block `t` attends to moves the queries: not after the last, which nothing follows."""
        return self.focus.follows == "attention" and t + 1 < len(self.blocks)

    def _scores_wanted(self, t: int, level: int) -> bool:
        """Whether a block of the finest level reads the scores of block `t`."""
        ahead = t + self.levels - level
        return self.fine is not None and level == self.fine.level and ahead < len(self.blocks)

    def _predict(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norm(x)
        return self.classes(x), self.masks(x)

    def small(self, pixels: PixelFeatures) -> Sequence[Tensor]:
        """The pixel embedding (B, E, S) at the size of each level that masks restrict. Masks carry no gradient."""
        with torch.no_grad():
            sizes = [level.shape[-2:] for level in pixels.levels[: self.levels]]
            return [
                F.interpolate(pixels.masks, size=size, mode="bilinear", align_corners=False).flatten(2)
                for size in sizes
            ]

    def inside(self, queries: Tensor, small: Tensor) -> Tensor:
        """(B, N, S): where each query's mask is."""
        with torch.no_grad():
            return queries @ small >= self.least


def _look(
    block: DecoderBlock, query: Tensor, value: Tensor, position: Tensor, allowed: Tensor, following: bool, scored: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """What the queries find in a level and, where asked for, the mean position they looked at and their weights."""
    key = value + position
    if scored:
        found, weights = block.cross.scored(query, key, value, allowed)
        return found, weights @ position if following else None, weights
    if following:
        found, looked = block.cross.looking(query, key, value, allowed, position)
        return found, looked, None
    return block.cross(query, key, value, allowed), None, None
