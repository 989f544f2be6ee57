"""The smallest decoder: a norm and one linear layer on each cell of the last map (D C + C + 2 D parameters)."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic.dataclasses import dataclass
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from tailor.anatomy import Feature
from tailor.dense.predictions import PixelPredictions
from tailor.dense.recipes import LIGHT
from tailor.settings import STRICT


class LinearHead(nn.Module):
    """Logits of the last map's cells; `stride` is the map's."""

    def __init__(self, width: int, classes: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.norm = LayerNorm2d(width)
        self.classes = nn.Conv2d(width, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> PixelPredictions:
        """From one map (B, C, H, W)."""
        return PixelPredictions(self.classes(self.norm(maps[-1])))


@dataclass(frozen=True, config=STRICT)
class LinearDecoder:
    """One linear layer: what the backbone's features hold as they are."""

    kind: Literal["linear"] = "linear"

    recipe: ClassVar[Mapping[str, Any]] = LIGHT

    def select(self, features: Sequence[Feature]) -> tuple[Feature, ...]:
        """The last map."""
        return (features[-1],)

    def build(self, features: Sequence[Feature], classes: int) -> LinearHead:
        """The module for the selected features."""
        return LinearHead(features[-1].width, classes, features[-1].reduction)
