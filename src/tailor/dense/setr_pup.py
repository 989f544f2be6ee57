"""SETR-PUP (Zheng et al. 2021): the last map enlarged step by step between convolutions, and three auxiliary heads.

Maps of the blocks at 10, 15, 20 and 24 of 24, as in mmsegmentation; at the same shares of another depth.
The auxiliary heads are read by the loss alone, yet their parameters are part of the task, as in the published budgets.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from tailor.anatomy import Feature
from tailor.dense.mlp import several, spread
from tailor.dense.predictions import PixelPredictions
from tailor.dense.recipes import LIGHT
from tailor.dense.sizes import check_width
from tailor.settings import STRICT

SHARES = (10 / 24, 15 / 24, 20 / 24, 1.0)


class Enlarged(nn.Module):
    """A norm, then `steps` times a 3x3 convolution, batch norm, ReLU and enlargement by `scale`, then the classes."""

    def __init__(self, inputs: int, width: int, classes: int, steps: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.norm = LayerNorm2d(inputs)
        widths = [inputs, *[width] * steps]
        self.steps = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
                for a, b in pairwise(widths)
            ]
        )
        self.classes = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, classes, H, W), larger by `scale` to the power of the steps."""
        x = self.norm(x)
        for step in self.steps:
            x = F.interpolate(step(x), scale_factor=float(self.scale), mode="bilinear", align_corners=False)
        return self.classes(x)


class SetrPupHead(nn.Module):
    """The main head reads the last map, each auxiliary head another."""

    def __init__(self, features: Sequence[Feature], width: int, classes: int) -> None:
        super().__init__()
        self.stride = features[-1].reduction
        self.main = Enlarged(features[-1].width, width, classes, 4, 2)
        self.auxiliary = nn.ModuleList([Enlarged(f.width, width, classes, 2, 4) for f in features[:-1]])

    def forward(self, maps: Sequence[Tensor]) -> PixelPredictions:
        """From the maps of the selected features, shallowest first."""
        logits = self.main(maps[-1])
        return PixelPredictions(logits, tuple(head(x) for head, x in zip(self.auxiliary, maps)))


@dataclass(frozen=True, config=STRICT)
class SetrPup:
    """13.1 M parameters at ViT-L's width: the decoder that SPT was measured in."""

    kind: Literal["setr-pup"] = "setr-pup"
    width: int = 256

    recipe: ClassVar[Mapping[str, Any]] = LIGHT

    def __post_init__(self) -> None:
        check_width(self.width)

    def select(self, features: Sequence[Feature]) -> tuple[Feature, ...]:
        """Four blocks in the second half, or the last of each stage."""
        if len({f.reduction for f in features}) == 1:
            return tuple(dict.fromkeys(spread(features, SHARES)))
        return several(features)

    def build(self, features: Sequence[Feature], classes: int) -> SetrPupHead:
        """The module for the selected features."""
        return SetrPupHead(features, self.width, classes)
