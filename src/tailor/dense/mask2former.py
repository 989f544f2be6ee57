"""Mask2Former's head (Cheng et al. 2022): the pyramid, the pixel decoder and the masked-attention decoder."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tailor.anatomy import Feature
from tailor.dense.mask_decoder import MaskDecoder
from tailor.dense.pixel_decoder import PixelDecoder
from tailor.dense.predictions import MaskPredictions
from tailor.dense.pyramid import Pyramid, chosen
from tailor.dense.recipes import MASK2FORMER
from tailor.dense.sizes import check_sizes
from tailor.settings import STRICT


class MaskHead(nn.Module):
    """Maps of a backbone, finest first, to predictions; also FASeg's. The image is a multiple of `stride` pixels."""

    def __init__(self, pyramid: Pyramid, pixels: PixelDecoder, decoder: MaskDecoder) -> None:
        super().__init__()
        self.pyramid, self.pixels, self.decoder = pyramid, pixels, decoder

    @property
    def stride(self) -> int:
        """Of the coarsest map, in pixels."""
        return self.pyramid.stride

    def forward(self, maps: Sequence[Tensor]) -> MaskPredictions:
        """From the maps (B, C, H, W) of the chosen features."""
        return self.decoder(self.pixels(self.pyramid(maps)[::-1]))


@dataclass(frozen=True, config=STRICT)
class Mask2Former:
    """The strong baseline: 20 M parameters at width 256, 9 blocks over three levels.

    `threshold` is the probability from which a cell belongs to a predicted mask and may be looked at; `norm` puts a
    layer norm on each of the backbone's maps.
    """

    kind: Literal["mask2former"] = "mask2former"
    width: int = 256
    queries: int = 100
    blocks: int = 9
    heads: int = 8
    hidden: int = 2048
    encoder_layers: int = 6
    encoder_hidden: int = 1024
    points: int = 4
    threshold: float = 0.5
    norm: bool = True

    recipe: ClassVar[Mapping[str, Any]] = MASK2FORMER

    def __post_init__(self) -> None:
        check_sizes(self.width, self.heads, self.queries, self.blocks, self.threshold)

    def select(self, features: Sequence[Feature]) -> tuple[Feature, ...]:
        """The features that `build`'s module reads, finest first."""
        return chosen(features)

    def build(self, features: Sequence[Feature], classes: int) -> MaskHead:
        """The module for the selected features, started from torch's default generator."""
        pyramid = Pyramid(features, self.norm)
        pixels = PixelDecoder(
            pyramid.channels[::-1],
            self.width,
            layers=self.encoder_layers,
            heads=self.heads,
            points=self.points,
            hidden=self.encoder_hidden,
        )
        decoder = MaskDecoder(
            self.width,
            classes,
            queries=self.queries,
            blocks=self.blocks,
            heads=self.heads,
            hidden=self.hidden,
            threshold=self.threshold,
        )
        return MaskHead(pyramid, pixels, decoder)
