"""Several maps through a linear layer each, brought to one size, joined and classified (SegFormer's head, Xie 2021).

On a plain vision transformer the maps are those of four blocks, evenly spread; on one with stages, the last of each.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from tailor.anatomy import Feature
from tailor.dense.pixel_decoder import group_norm
from tailor.dense.predictions import PixelPredictions
from tailor.dense.pyramid import COUNT, chosen
from tailor.dense.recipes import LIGHT
from tailor.dense.sizes import check_width
from tailor.settings import STRICT


def spread(features: Sequence[Feature], shares: Sequence[float]) -> tuple[Feature, ...]:
    """The features at these shares of the depth, the last of them the last."""
    return tuple(features[min(max(round(len(features) * share) - 1, 0), len(features) - 1)] for share in shares)


def several(features: Sequence[Feature]) -> tuple[Feature, ...]:
    """Four blocks evenly spread where all maps have one size, else the last map of each size."""
    if len({f.reduction for f in features}) == 1:
        return tuple(dict.fromkeys(spread(features, [(i + 1) / COUNT for i in range(COUNT)])))
    return chosen(features)


class Fused(nn.Module):
    """Maps (B, C, H, W) to one (B, width, H, W) of the size of the first, the finest."""

    def __init__(self, features: Sequence[Feature], width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([LayerNorm2d(f.width) for f in features])
        self.project = nn.ModuleList([nn.Conv2d(f.width, width, 1) for f in features])
        self.join = nn.Conv2d(width * len(features), width, 1, bias=False)
        self.norm = group_norm(width)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(B, width, H, W)."""
        size = maps[0].shape[-2:]
        same = []
        for norm, project, one in zip(self.norms, self.project, maps, strict=True):
            found = project(norm(one))
            if found.shape[-2:] != size:
                found = F.interpolate(found, size=size, mode="bilinear", align_corners=False)
            same.append(found)
        return F.gelu(self.norm(self.join(torch.cat(same, 1))))


class MlpSegmenter(nn.Module):
    """Logits at the size of the finest map."""

    def __init__(self, features: Sequence[Feature], width: int, classes: int) -> None:
        super().__init__()
        self.stride = features[-1].reduction
        self.fused = Fused(features, width)
        self.classes = nn.Conv2d(width, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> PixelPredictions:
        """From the maps of the selected features, finest first."""
        return PixelPredictions(self.classes(self.fused(maps)))


@dataclass(frozen=True, config=STRICT)
class MlpDecoder:
    """Four maps joined by linear layers."""

    kind: Literal["mlp"] = "mlp"
    width: int = 256

    recipe: ClassVar[Mapping[str, Any]] = LIGHT

    def __post_init__(self) -> None:
        check_width(self.width)

    def select(self, features: Sequence[Feature]) -> tuple[Feature, ...]:
        """Four blocks, or the last of each stage."""
        return several(features)

    def build(self, features: Sequence[Feature], classes: int) -> MlpSegmenter:
        """The module for the selected features."""
        return MlpSegmenter(features, self.width, classes)
