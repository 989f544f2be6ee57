"""Four maps, each twice as coarse as the one before, from whatever levels a backbone offers.

A backbone with stages gives them itself. A plain vision transformer has one map: finer ones are made by transposed
convolutions and coarser ones by max pooling (simple feature pyramid, Li et al. 2022; its last convolutions are left
out, since the decoders project each map themselves).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from timm.layers import LayerNorm2d
from torch import Tensor, nn

from tailor.anatomy import Feature
from tailor.errors import ModelError

COUNT = 4
FINEST = 4
"""The stride aimed at for the finest map; plain transformers come as near as powers of two allow."""


@dataclass(frozen=True)
class Rung:
    """One map of the pyramid: which of the chosen features it comes from, and how many times finer (or coarser)."""

    source: int
    finer: int


def chosen(features: Sequence[Feature]) -> tuple[Feature, ...]:
    """The last feature of each stride from about `FINEST` up, finest first; ModelError where there is none."""
    last: dict[int, Feature] = {}
    for feature in features:
        last[feature.reduction] = feature
    usable = [f for f in last.values() if f.reduction > FINEST // 2]
    if not usable:
        raise ModelError("the backbone has no level that a decoder can use", hint="try `--model tailor_mini_s`")
    return tuple(sorted(usable, key=lambda f: f.reduction)[:COUNT])


def rungs(features: Sequence[Feature]) -> tuple[Rung, ...]:
    """How the four maps come from the chosen features, finest first; `finer` is a power of two, negative to pool."""
    strides = [f.reduction for f in features]
    finest = strides[0] / 2 ** max(round(math.log2(strides[0] / FINEST)), 0)
    found = []
    for index in range(COUNT):
        wanted = finest * 2**index
        source = min(range(len(strides)), key=lambda i: (abs(math.log2(strides[i] / wanted)), i))
        found.append(Rung(source, round(math.log2(strides[source] / wanted))))
    return tuple(found)


class Pyramid(nn.Module):
    """Maps (B, C, H, W) of the chosen features to four, finest first. `channels` and `stride` (of the coarsest).

    With `norm` each map is normalised over its channels first, as Mask2Former does with Swin's: a transformer's stages
    give their raw residual sum. A ResNet's need none. The `skip` finest are not made.
    """

    def __init__(self, features: Sequence[Feature], norm: bool, skip: int = 0) -> None:
        super().__init__()
        self.norms = nn.ModuleList([LayerNorm2d(f.width) if norm else nn.Identity() for f in features])
        plan = rungs(features)[skip:]
        self.sources = tuple(step.source for step in plan)
        made = [_resampled(features[step.source].width, step.finer) for step in plan]
        self.maps = nn.ModuleList([module for module, _ in made])
        self.channels = tuple(width for _, width in made)
        coarsest = plan[-1]
        self.stride = round(features[coarsest.source].reduction / 2.0**coarsest.finer)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Four maps, finest first."""
        normal = [norm(one) for norm, one in zip(self.norms, maps, strict=True)]
        return [module(normal[source]) for module, source in zip(self.maps, self.sources)]


def _resampled(width: int, finer: int) -> tuple[nn.Module, int]:
    if finer < 0:
        return nn.MaxPool2d(2**-finer), width
    layers: list[nn.Module] = []
    for step in range(finer):
        layers += [*([LayerNorm2d(width), nn.GELU()] if step else []), nn.ConvTranspose2d(width, width // 2, 2, 2)]
        width //= 2
    return nn.Sequential(*layers), width
