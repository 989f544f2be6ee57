"""Mask2Former's pixel decoder (Cheng et al. 2022): three levels through deformable attention, one step to the finest.

Takes four feature maps, coarsest first, and gives the levels that queries read, their position encodings and the pixel
embedding that masks are read from. What reads the finest level as well (high-resolution attention) asks for it with
`fine`; then its position encoding, where it is conditional, needs a projection of its own.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailor.dense.deformable import DeformableLayer
from tailor.dense.positions import POSITIONS, PositionKind

LEVELS = 3
"""Levels that go through deformable attention."""


class PixelFeatures(NamedTuple):
    """`levels` and `positions` coarsest first, (B, D, H, W) each (three, or four with the finest); `masks` is the
    pixel embedding (B, D, H, W) of the finest level."""

    levels: tuple[Tensor, ...]
    positions: tuple[Tensor, ...]
    masks: Tensor


def projection(channels: int, width: int, bias: bool = True) -> nn.Sequential:
    """A 1x1 convolution and a group norm."""
    return nn.Sequential(nn.Conv2d(channels, width, 1, bias=bias), group_norm(width))


def group_norm(width: int) -> nn.GroupNorm:
    """32 groups of 8 channels at width 256; fewer groups of as many in a narrower decoder, since one channel on a map
    of one cell would have no variance."""
    return nn.GroupNorm(math.gcd(32, max(width // 8, 1)), width)


class PixelDecoder(nn.Module):
    """`channels` are those of the four maps, coarsest first."""

    def __init__(
        self,
        channels: Sequence[int],
        width: int,
        *,
        layers: int = 6,
        heads: int = 8,
        points: int = 4,
        hidden: int = 1024,
        positions: PositionKind = "sine",
        fine: bool = False,
    ) -> None:
        super().__init__()
        self.fine = fine
        self.project = nn.ModuleList([projection(c, width) for c in channels[:LEVELS]])
        self.level = nn.Parameter(torch.randn(LEVELS, width))
        self.encoder = nn.ModuleList([DeformableLayer(width, heads, LEVELS, points, hidden) for _ in range(layers)])
        self.lateral = projection(channels[LEVELS], width, bias=False)
        self.smooth = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), group_norm(width), nn.ReLU())
        self.masks = nn.Conv2d(width, width, 1)
        self.positions = POSITIONS[positions](width, LEVELS + fine)
        self.project_fine = projection(channels[LEVELS], width) if fine and positions == "conditional" else None

    def no_weight_decay(self) -> set[str]:
        """The level embedding is a table, which decay would only pull to zero."""
        return {"level"}

    def forward(self, features: Sequence[Tensor]) -> PixelFeatures:
        """From four maps (B, C, H, W), coarsest first."""
        maps = [project(f) for project, f in zip(self.project, features)]
        seen = list(maps)
        if self.fine:  # only a conditional code reads the map itself; the others need its size alone
            seen.append(features[LEVELS] if self.project_fine is None else self.project_fine(features[LEVELS]))
        positions = self.positions(seen)
        levels = self._encoded(maps, positions)
        fine = self.lateral(features[LEVELS])
        coarser = F.interpolate(levels[-1], size=fine.shape[-2:], mode="bilinear", align_corners=False)
        finest = self.smooth(fine + coarser)
        return PixelFeatures((*levels, finest) if self.fine else levels, tuple(positions), self.masks(finest))

    def _encoded(self, maps: Sequence[Tensor], positions: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The three levels after the deformable layers, in float32 also where the rest runs in less."""
        sizes = [(m.shape[-2], m.shape[-1]) for m in maps]
        codes = [p.flatten(2) + e[:, None] for p, e in zip(positions, self.level)]
        tokens, code = torch.cat([m.flatten(2) for m in maps], 2), torch.cat(codes, 2)
        tokens, code = tokens.transpose(1, 2), code.transpose(1, 2)
        kind = tokens.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            with torch.autocast(kind, enabled=False):
                tokens = self._layers(tokens.float(), code.float(), sizes)
        else:
            tokens = self._layers(tokens, code, sizes)
        parts = tokens.transpose(1, 2).split([h * w for h, w in sizes], dim=2)
        return tuple(part.unflatten(2, size) for part, size in zip(parts, sizes))

    def _layers(self, tokens: Tensor, code: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
        for layer in self.encoder:
            tokens = layer(tokens, code, sizes)
        return tokens
