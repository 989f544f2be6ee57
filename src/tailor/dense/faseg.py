"""FASeg (He et al., CVPR 2023): Mask2Former with focus-aware positional queries and high-resolution attention.

Both parts switch on separately (`focus`, `fine`), as does the position encoding they are made for. Defaults follow the
published counts (13 blocks) and the paper's text elsewhere: the first positional query is averaged over the predicted
foreground and masks are cut at 0.5, where the published code takes the background and 0.15 (`start`, `threshold`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, ClassVar, Literal

from pydantic.dataclasses import dataclass

from tailor.anatomy import Feature
from tailor.dense.focus import Focus, Start
from tailor.dense.high_resolution import HighResolution
from tailor.dense.mask2former import MaskHead
from tailor.dense.mask_decoder import MaskDecoder
from tailor.dense.pixel_decoder import PixelDecoder
from tailor.dense.positions import PositionKind
from tailor.dense.pyramid import Pyramid, chosen
from tailor.dense.recipes import MASK2FORMER
from tailor.dense.sizes import check_sizes
from tailor.settings import STRICT


@dataclass(frozen=True, config=STRICT)
class FaSeg:
    """Mask2Former whose queries follow what they saw, and read the finest level where the coarse ones looked.

    `blocks` run over the levels in rounds of four (of three without `fine`): 13 are three rounds and one coarse block.
    """

    kind: Literal["faseg"] = "faseg"
    width: int = 256
    queries: int = 100
    blocks: int = 13
    heads: int = 8
    hidden: int = 2048
    encoder_layers: int = 6
    encoder_hidden: int = 1024
    points: int = 4
    threshold: float = 0.5
    norm: bool = True
    positions: PositionKind = "conditional"
    focus: Focus = "dfpq"
    start: Start = "foreground"
    fine: HighResolution = field(default_factory=HighResolution)

    recipe: ClassVar[Mapping[str, Any]] = MASK2FORMER

    def __post_init__(self) -> None:
        check_sizes(self.width, self.heads, self.queries, self.blocks, self.threshold)

    def select(self, features: Sequence[Feature]) -> tuple[Feature, ...]:
        """The features that `build`'s module reads, finest first."""
        return chosen(features)

    def build(self, features: Sequence[Feature], classes: int) -> MaskHead:
        """The module for the selected features, started from torch's default generator."""
        pyramid = Pyramid(features, self.norm)
        fine = self.fine if self.fine.kind != "none" else None
        pixels = PixelDecoder(
            pyramid.channels[::-1],
            self.width,
            layers=self.encoder_layers,
            heads=self.heads,
            points=self.points,
            hidden=self.encoder_hidden,
            positions=self.positions,
            fine=fine is not None,
        )
        decoder = MaskDecoder(
            self.width,
            classes,
            queries=self.queries,
            blocks=self.blocks,
            heads=self.heads,
            hidden=self.hidden,
            threshold=self.threshold,
            focus=self.focus,
            start=self.start,
            fine=fine,
        )
        return MaskHead(pyramid, pixels, decoder)
