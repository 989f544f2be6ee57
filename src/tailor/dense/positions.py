"""Where a cell of a feature map is, as a vector a decoder can add: sinusoidal, learned, or conditional.

All three give one map (B or 1, width, H, W) a level. Conditional encodings (Chu et al. 2021, as FASeg uses them) are a
depthwise 3x3 convolution of the projected features, whose zero padding tells the border; they are not added to the
features. FASeg needs them: a weighted mean of sinusoidal codes is the code of no place.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PositionKind = Literal["sine", "learned", "conditional"]
TABLE = 16
"""Side of a learned table, resized to the map."""
_TEMPERATURE = 10_000.0


def sine(places: Tensor, width: int) -> Tensor:
    """(..., width): the code of `places` (..., 2), x and y as shares of the image; first y, then x, sine and cosine."""
    half = width // 2
    index = torch.arange(half, device=places.device)
    scale = _TEMPERATURE ** (2 * index.div(2, rounding_mode="floor") / half)
    x, y = (2 * math.pi * places).unbind(-1)
    codes = []
    for along in (y, x):
        angle = along[..., None] / scale.to(places.dtype)
        codes.append(torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], -1).flatten(-2))
    return torch.cat(codes, -1)


def cells(height: int, width: int, like: Tensor, start: float) -> Tensor:
    """(height, width, 2): x and y of every cell as shares; `start` 0.5 is its centre, 1.0 its far corner."""
    y = (torch.arange(height, device=like.device, dtype=like.dtype) + start) / height
    x = (torch.arange(width, device=like.device, dtype=like.dtype) + start) / width
    return torch.stack([x[None].expand(height, -1), y[:, None].expand(-1, width)], -1)


class Sine(nn.Module):
    """The same code for every image; nothing to learn."""

    def __init__(self, width: int, levels: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """A code (1, width, H, W) for each map (B, width, H, W). Cells count from one, as DETR's do."""
        return [sine(cells(m.shape[-2], m.shape[-1], m, 1.0), self.width).permute(2, 0, 1)[None] for m in maps]


class LearnedPositions(nn.Module):
    """A table a level, resized to the map."""

    def __init__(self, width: int, levels: int) -> None:
        super().__init__()
        self.tables = nn.ParameterList([nn.Parameter(torch.randn(1, width, TABLE, TABLE)) for _ in range(levels)])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """A code (1, width, H, W) for each map (B, width, H, W)."""
        return [
            F.interpolate(table, size=m.shape[-2:], mode="bilinear", align_corners=False).to(m.dtype)
            for table, m in zip(self.tables, maps, strict=True)
        ]


class Conditional(nn.Module):
    """A depthwise 3x3 convolution a level."""

    def __init__(self, width: int, levels: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1, groups=width) for _ in range(levels)])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """A code (B, width, H, W) for each map (B, width, H, W)."""
        return [convolution(m) for convolution, m in zip(self.convolutions, maps, strict=True)]


POSITIONS: dict[str, type[nn.Module]] = {"sine": Sine, "learned": LearnedPositions, "conditional": Conditional}
"""Kind of position encoding to its module, made from the width and the number of levels."""
