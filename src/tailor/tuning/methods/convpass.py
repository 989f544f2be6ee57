"""Convpass (Jie and Deng 2022): a small convolution beside each attention and each MLP.

c = q(D x + d0), patches back on their grid, 3x3 convolution k -> k, prefix tokens through its centre tap alone, then
y += s (U dropout(q(c')) + u0), fed with what the attention or MLP gets (LN u). q is the quick GELU. Nothing is fixed
to 14x14 or 768: grid and prefix come from the backbone. Deviation on Swin: beside the attention the grid is the
window, zero-padded at its border, as that attention itself sees no further; beside the MLP it is the whole map. The
squeeze gate of SLS's Swin code is left out: it is not part of Convpass. It cannot be merged.
"""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tailor.anatomy import Anatomy
from tailor.errors import PlanError
from tailor.settings import STRICT
from tailor.tuning.layers import answers_for_base, innermost, like
from tailor.tuning.method import Geometry, Place, RowRanges, block_places, undefined
from tailor.tuning.methods.bottleneck import quick_gelu


@dataclass(frozen=True, config=STRICT)
class Convpass:
    """`width` channels, `scale` s (the papers' runs choose it per task from 0.01 to 100), `start` of the convolution.

    2 L (2dk + 9k^2 + 2k + d) parameters: 327,552 on ViT-B/16 with width 8.
    """

    kind: Literal["convpass"] = "convpass"
    width: int = 8
    scale: float = 1.0
    start: Literal["xavier", "identity"] = "xavier"
    dropout: float = 0.1

    identity: ClassVar[bool] = True
    merges: ClassVar[bool] = False
    knob: ClassVar[str] = "width"

    def places(self, anatomy: Anatomy) -> tuple[Place, ...]:
        """The attention and the MLP of every block."""
        places = (*block_places(anatomy, self.kind, "attention"), *block_places(anatomy, self.kind, "mlp"))
        for place in places:
            assert place.geometry is not None
            if place.geometry.layout != "windows" and not place.geometry.grid:
                raise undefined(self.kind, anatomy, "its patches stand on no fixed grid")
        return places

    def cost(self, layer: nn.Module, rows: tuple[int, int] | None = None, geometry: Geometry | None = None) -> int:
        """2dk + 9k^2 + 2k + d."""
        assert geometry is not None
        return 2 * geometry.width * self.width + 9 * self.width**2 + 2 * self.width + geometry.width

    def wrap(self, layer: nn.Module, rows: RowRanges = (), geometry: Geometry | None = None) -> nn.Module:
        """The attention or MLP with the branch beside it."""
        assert geometry is not None
        if geometry.layout == "windows":
            window = innermost(layer).window_size
            grid, prefix = (int(window[0]), int(window[1])), 0  # type: ignore[index, arg-type]
        else:
            assert geometry.grid is not None
            grid, prefix = geometry.grid, geometry.prefix
        branch = ConvBranch(geometry.width, self.width, grid, prefix, self.start, self.dropout, like(layer))
        return Convpassed(layer, branch, self.scale)


class ConvBranch(nn.Module):
    """up(dropout(q(conv(q(down(x)))))) for tokens (B, prefix + H W, C) on a grid (H, W)."""

    def __init__(
        self, width: int, hidden: int, grid: tuple[int, int], prefix: int, start: str, dropout: float, like: Tensor
    ) -> None:
        super().__init__()
        kind = {"device": like.device, "dtype": like.dtype}
        self.grid_size, self.num_prefix_tokens = grid, prefix
        self.down = nn.Linear(width, hidden, **kind)  # type: ignore[arg-type]
        self.conv = nn.Conv2d(hidden, hidden, 3, padding=1, **kind)  # type: ignore[arg-type]
        self.up = nn.Linear(hidden, width, **kind)  # type: ignore[arg-type]
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.down.weight)
        if start == "identity":
            nn.init.dirac_(self.conv.weight)
        else:
            nn.init.xavier_uniform_(self.conv.weight)
        for zero in (self.down.bias, self.conv.bias, self.up.weight, self.up.bias):
            assert zero is not None
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape as `x`."""
        prefix, (height, width) = self.num_prefix_tokens, self.grid_size
        if x.ndim != 3 or x.shape[1] != prefix + height * width:
            raise PlanError(
                f"`convpass` was planned for {prefix} + {height}x{width} tokens, found shape {tuple(x.shape)}",
                hint="give images of the size that the plan was made for",
            )
        hidden = quick_gelu(self.down(x))
        patches = hidden[:, prefix:].transpose(1, 2).unflatten(2, self.grid_size)
        mixed = self.conv(patches).flatten(2).transpose(1, 2)
        if prefix:
            centre = self.conv.weight[:, :, 1, 1]
            mixed = torch.cat([F.linear(hidden[:, :prefix], centre, self.conv.bias), mixed], dim=1)
        return self.up(self.dropout(quick_gelu(mixed)))


@answers_for_base
class Convpassed(nn.Module):
    """base(x) plus `scale` times the branch of x. Further arguments (masks, position) go to the base."""

    def __init__(self, base: nn.Module, branch: ConvBranch, scale: float) -> None:
        super().__init__()
        self.base = base
        self.branch = branch
        self.scale = scale

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        return torch.add(self.base(x, *args, **kwargs), self.branch(x), alpha=self.scale)
