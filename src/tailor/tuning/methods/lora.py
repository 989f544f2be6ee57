"""LoRA (Hu et al. 2021): a low-rank update beside a frozen layer. One file: the settings, then the module.

As a baseline it sits on the fused qkv with one `down` shared by q, k and v (the form of NOAH and the SPT thesis:
`4 d r` per block); on rows of a fused layer each part has its own pair. `up` starts at zero, which the released SPT
code intends but overwrites, so wrapping changes nothing. Convolutions count as matrices:
a convolution to `rank` channels, then a 1x1 convolution. `down` starts at random, or (`eva`, after Paischer et al.
2024) in the directions in which what the layer is given varies most; `tuning.start` puts it there.
"""

import copy
import math
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from timm.layers import DropPath
from torch import Tensor, nn

from tailor.anatomy import Anatomy
from tailor.errors import PlanError
from tailor.settings import STRICT
from tailor.tuning.layers import answers_for_base, matrix_shape, on_segments, plain, rows_of, segments
from tailor.tuning.method import Geometry, Place, RowRanges, Slices, site_places


@dataclass(frozen=True, config=STRICT)
class Lora:
    """y = Wx + (alpha / rank) * up(down(dropout(x))); `alpha` 0 means `rank`, so that the factor is 1.

    `start` says where `down` begins: at random, or in the principal directions of the layer's inputs.
    """

    kind: Literal["lora"] = "lora"
    rank: int = 8
    alpha: float = 0.0
    dropout: float = 0.1
    drop_path: float = 0.0
    start: Literal["random", "inputs"] = "random"

    identity: ClassVar[bool] = True
    merges: ClassVar[bool] = True
    knob: ClassVar[str] = "rank"

    @property
    def name(self) -> str:
        """What tables call it."""
        return "eva" if self.start == "inputs" else self.kind

    def places(self, anatomy: Anatomy) -> tuple[Place, ...]:
        """The fused qkv of every attention; where there is no attention, the MLP's linear layers."""
        attention = site_places(anatomy, ops=("qkv", "q", "k", "v"))
        places = attention or site_places(anatomy, ops=("fc1", "fc2")) or site_places(anatomy)
        if not places:
            raise PlanError("the backbone has no linear or convolution site for `lora`", hint="try `--method bias`")
        return places

    def cost(self, layer: nn.Module, rows: tuple[int, int] | None = None, geometry: Geometry | None = None) -> int:
        """r (in + out): the thesis's `2 d_in d_out r` cannot be meant."""
        outputs, inputs = matrix_shape(layer)
        return self.rank * (inputs + (rows[1] - rows[0] if rows else outputs))

    def wrap(self, layer: nn.Module, rows: RowRanges = (), geometry: Geometry | None = None) -> nn.Module:
        """The layer with its update beside it, on the given rows."""
        scale = self.alpha / self.rank if self.alpha else 1.0
        if not isinstance(plain(layer), nn.Linear):
            return LoraConv(layer, self.rank, scale, self.dropout, self.drop_path)
        return LoraLinear(layer, self.rank, scale, rows, self.dropout, self.drop_path)

    def merge(self, module: nn.Module) -> nn.Module:
        """The base layer with the update added to its weight, in float64 and cast once."""
        assert isinstance(module, LoraLinear | LoraConv)
        base = copy.deepcopy(module.base)
        layer = plain(base)
        with torch.no_grad():
            layer.weight.copy_((layer.weight.double() + module.delta().double()).to(layer.weight.dtype))
        return base


@answers_for_base
class LoraLinear(nn.Module):
    """A linear layer with low-rank updates on ranges of its outputs. Shapes (..., in) -> (..., out)."""

    kind: ClassVar[str] = "lora"
    slices: ClassVar[Slices] = {"down": 0, "up": 1}

    def __init__(
        self,
        base: nn.Module,
        rank: int,
        scale: float,
        rows: RowRanges = (),
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        outputs, inputs = matrix_shape(base)
        self.base = base
        self.scale = scale
        self.lengths, self.chosen = segments(rows, outputs)
        like = plain(base).weight
        self.down = nn.Parameter(like.new_empty(rank * len(self.rows), inputs))
        self.up = nn.Parameter(like.new_zeros(sum(stop - start for start, stop in self.rows), rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path)

    @property
    def rows(self) -> RowRanges:
        """The ranges of the outputs that are updated."""
        whole = ((0, plain(self.base).weight.shape[0]),)
        return whole if len(self.lengths) == 1 else rows_of(self.lengths, self.chosen)

    def forward(self, x: Tensor) -> Tensor:
        """Base output plus the update; other rows are left as they are."""
        hidden = F.linear(self.dropout(x), self.down)
        if self.scale != 1.0:
            hidden = hidden * self.scale  # here, where it is `rank` wide
        y = self.base(x)
        if len(self.lengths) == 1 and not (self.training and self.drop_path.drop_prob):
            return torch.addmm(y.flatten(0, -2), hidden.flatten(0, -2), self.up.t()).view_as(y)
        return on_segments(y, self.lengths, self.chosen, partial(self._updated, hidden))

    def _updated(self, hidden: Tensor, index: int, part: Tensor) -> Tensor:
        """One range of the outputs (..., rows) plus its own update, from `hidden` (..., rank * ranges)."""
        own, up = hidden.chunk(sum(self.chosen), -1)[index], self.up.split(self._spans())[index]
        return part + self.drop_path(F.linear(own, up))

    def _spans(self) -> list[int]:
        return [stop - start for start, stop in self.rows]

    def delta(self) -> Tensor:
        """(out, in): what the update adds to the weight."""
        weight = plain(self.base).weight
        total = torch.zeros(weight.shape, dtype=torch.float64, device=weight.device)
        pairs = zip(self.down.chunk(sum(self.chosen)), self.up.split(self._spans()), strict=True)
        for (start, stop), (down, up) in zip(self.rows, pairs, strict=True):
            total[start:stop] = self.scale * up.double() @ down.double()
        return total


@answers_for_base
class LoraConv(nn.Module):
    """A dense convolution, padded in whatever way, with a low-rank update: the same kernel to `rank` channels, then up.

    Shapes (B, C, H, W), or (B, C, L) in one dimension.
    """

    def __init__(self, base: nn.Module, rank: int, scale: float, dropout: float = 0.0, drop_path: float = 0.0) -> None:
        super().__init__()
        conv: nn.Conv2d = plain(base)  # type: ignore[assignment]  # no linear layer comes here
        if conv.groups > 1:
            raise PlanError(
                f"`lora` stands beside dense convolutions, found one in {conv.groups} groups",
                hint="leave it out, or tune single entries of it",
            )
        self.base, self.scale = base, scale
        self.down = nn.Parameter(conv.weight.new_empty(rank, *conv.weight.shape[1:]))
        self.up = nn.Parameter(conv.weight.new_zeros(len(conv.weight), rank, *[1] * (conv.weight.ndim - 2)))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out, H', W')."""
        hidden = plain(self.base)._conv_forward(self.dropout(x), self.down, None)  # type: ignore[operator, union-attr]
        again = F.conv2d if self.up.ndim == 4 else F.conv1d
        return self.base(x) + self.drop_path(again(hidden, self.up) * self.scale)

    def delta(self) -> Tensor:
        """(out, in, *kernel): what the update adds to the kernel."""
        up = self.up.double().flatten(1)
        return self.scale * (up @ self.down.double().flatten(1)).view(-1, *self.down.shape[1:])
