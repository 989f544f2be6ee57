"""A light query decoder on the features of a backbone that other tasks share: the default.

After EoMT (Kerssies et al. 2025) and what followed with a frozen encoder: no pixel decoder; a few maps joined by linear
layers, queries that read them in masked blocks, and transposed convolutions up to a quarter of the image's size, where
masks are read off. Losses, matching and inference are Mask2Former's.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic.dataclasses import dataclass
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from tailor.anatomy import Feature
from tailor.dense.mask_decoder import MaskDecoder
from tailor.dense.mlp import Fused, several
from tailor.dense.pixel_decoder import PixelFeatures
from tailor.dense.positions import Sine
from tailor.dense.predictions import MaskPredictions
from tailor.dense.pyramid import FINEST
from tailor.dense.recipes import LIGHT
from tailor.dense.sizes import check_sizes
from tailor.settings import STRICT


class Finer(nn.Module):
    """Twice the size: a transposed convolution, a depthwise convolution and a norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.act = nn.GELU()
        self.mix = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm = LayerNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, 2 H, 2 W)."""
        return self.norm(self.mix(self.act(self.up(x))))


class MasksHead(nn.Module):
    """Queries read the joined maps; masks are read from them, enlarged."""

    def __init__(self, features: Sequence[Feature], decoder: MaskDecoder, width: int) -> None:
        super().__init__()
        self.stride = features[-1].reduction
        self.fused = Fused(features, width)
        steps = max(round(math.log2(features[0].reduction / FINEST)), 0)
        self.finer = nn.Sequential(*[Finer(width) for _ in range(steps)])
        self.masks = nn.Conv2d(width, width, 1)
        self.position = Sine(width, 1)
        self.decoder = decoder

    def forward(self, maps: Sequence[Tensor]) -> MaskPredictions:
        """From the maps of the selected features, finest first."""
        tokens = self.fused(maps)
        pixels = self.masks(self.finer(tokens))
        return self.decoder(PixelFeatures((tokens,), tuple(self.position([tokens])), pixels))


@dataclass(frozen=True, config=STRICT)
class Masks:
    """A few megabytes a task: `blocks` of masked attention over the joined maps."""

    kind: Literal["masks"] = "masks"
    width: int = 128
    queries: int = 100
    blocks: int = 3
    heads: int = 4
    hidden: int = 512
    threshold: float = 0.5

    recipe: ClassVar[Mapping[str, Any]] = LIGHT

    def __post_init__(self) -> None:
        check_sizes(self.width, self.heads, self.queries, self.blocks, self.threshold)

    def select(self, features: Sequence[Feature]) -> tuple[Feature, ...]:
        """Four blocks, or the last of each stage."""
        return several(features)

    def build(self, features: Sequence[Feature], classes: int) -> MasksHead:
        """The module for the selected features, started from torch's default generator."""
        decoder = MaskDecoder(
            self.width,
            classes,
            queries=self.queries,
            blocks=self.blocks,
            heads=self.heads,
            hidden=self.hidden,
            threshold=self.threshold,
            levels=1,
        )
        return MasksHead(features, decoder, self.width)
