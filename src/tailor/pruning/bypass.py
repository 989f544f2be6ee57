"""One linear map of the residual stream in place of dropped blocks, which starts as the identity.

TOAST (arXiv 2410.04941) puts the identity, or a map in closed form, where whole blocks were. What the map is solved to
stands in `recover`; here are its plan and its layer: a bare one among blocks, which is no block itself.
"""

from collections.abc import Sequence
from typing import Any

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tailor.anatomy import Block
from tailor.errors import PlanError
from tailor.settings import STRICT


@dataclass(frozen=True, config=STRICT)
class Bypass:
    """One linear map of the residual stream, `width` channels, in place of `blocks` dropped one after the other.

    It stands where the last of them stood; `spatial` says that channels come before the positions (B, C, H, W).
    """

    blocks: tuple[str, ...]
    width: int
    spatial: bool = False

    def __post_init__(self) -> None:
        if not self.blocks or self.width < 1:
            raise PlanError("a linear map stands in place of no block, or of no channel", hint="make the plan again")

    @property
    def path(self) -> str:
        """Where it stands before the list of blocks closes up."""
        return self.blocks[-1]


class LinearBypass(nn.Linear):
    """A linear layer that takes what a block takes: rotary positions or masks beside its input mean nothing to it."""

    def forward(self, input: Tensor, *_: Any, **__: Any) -> Tensor:
        """(..., C) from (..., C)."""
        return super().forward(input)


class ConvolutionBypass(nn.Conv2d):
    """The same for maps (B, C, H, W), with a kernel of one pixel."""

    def forward(self, input: Tensor, *_: Any, **__: Any) -> Tensor:
        """(B, C, H, W) from (B, C, H, W)."""
        return super().forward(input)


def bypass_of(bypass: Bypass, like: Tensor) -> nn.Module:
    """The layer, at the identity, which trains; of the type and on the device of `like`."""
    width = bypass.width
    made = ConvolutionBypass(width, width, 1) if bypass.spatial else LinearBypass(width, width)
    with torch.no_grad():
        made.weight.copy_(torch.eye(width).view_as(made.weight))
        made.bias.zero_()  # type: ignore[union-attr]
    return made.to(like.device, like.dtype)


def bypasses(blocks: Sequence[Block], dropped: Sequence[str]) -> tuple[Bypass, ...]:
    """One map for every run of dropped blocks that follow one another in a list and are equally wide."""
    runs: list[list[Block]] = []
    before: Block | None = None
    for block in blocks:
        if block.path in dropped:
            if before is not None and before.path in dropped and _together(before, block):
                runs[-1].append(block)
            else:
                runs.append([block])
        before = block
    return tuple(
        Bypass(tuple(block.path for block in run), run[0].width, run[0].attention_layout == "nchw") for run in runs
    )


def _together(before: Block, block: Block) -> bool:
    return before.path.rpartition(".")[0] == block.path.rpartition(".")[0] and before.width == block.width
