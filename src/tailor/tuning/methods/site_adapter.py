"""SPT's structured adapter (He et al. 2023): a bottleneck after one weight matrix.

z = Wx + b, y = z + DropPath(U gelu(D dropout(z) + d0) + u0), on the matrix's *output*; after `fc1` that is before the
block's own non-linearity. Deviations: sequential everywhere (the released code feeds the adapter of `proj` with proj's
input, against its own paper), and U starts at zero (the released code overwrites that start). On rows of a fused qkv
each part has its own bottleneck; where the model adds the qkv bias after the layer (Eva, Swin v2), z is Wx alone.
On a convolution the bottleneck works on each position's channels. GELU: it cannot be merged.
"""

import math
from functools import partial
from typing import ClassVar, Literal

import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from timm.layers import DropPath
from torch import Tensor, nn

from tailor.anatomy import Anatomy
from tailor.errors import PlanError
from tailor.settings import STRICT
from tailor.tuning.layers import answers_for_base, like, matrix_shape, on_segments, plain, rows_of, segments
from tailor.tuning.method import Geometry, Place, RowRanges, site_places
from tailor.tuning.methods import bottleneck
from tailor.tuning.methods.bottleneck import Bottleneck


@dataclass(frozen=True, config=STRICT)
class SiteAdapter:
    """A bottleneck of `rank` channels on the output of every matrix: 1,410,624 parameters on ViT-B/16 with rank 8."""

    kind: Literal["site-adapter"] = "site-adapter"
    rank: int = 8
    dropout: float = 0.1
    drop_path: float = 0.1

    identity: ClassVar[bool] = True
    merges: ClassVar[bool] = False
    knob: ClassVar[str] = "rank"

    def places(self, anatomy: Anatomy) -> tuple[Place, ...]:
        """Every linear layer and dense convolution, a fused qkv in three parts."""
        places = site_places(anatomy, fused=False)
        if not places:
            raise PlanError("the backbone has no linear or convolution site for `site-adapter`", hint="try `bias`")
        return places

    def cost(self, layer: nn.Module, rows: tuple[int, int] | None = None, geometry: Geometry | None = None) -> int:
        """2 r out + r + out."""
        outputs = rows[1] - rows[0] if rows else matrix_shape(layer)[0]
        return bottleneck.cost(outputs, self.rank)

    def wrap(self, layer: nn.Module, rows: RowRanges = (), geometry: Geometry | None = None) -> nn.Module:
        """The layer, its output corrected on the given rows."""
        return SiteAdapted(layer, self.rank, rows, self.dropout, self.drop_path)


@answers_for_base
class SiteAdapted(nn.Module):
    """A layer with bottlenecks on ranges of its outputs. Shapes are the layer's own."""

    def __init__(
        self, base: nn.Module, rank: int, rows: RowRanges = (), dropout: float = 0.0, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.base = base
        self.lengths, self.chosen = segments(rows, matrix_shape(base)[0])
        spread = partial(nn.init.kaiming_uniform_, a=math.sqrt(5))
        space = plain(base).weight.ndim - 2
        self.adapters = nn.ModuleList(
            Bottleneck(stop - start, rank, F.gelu, like(base), space=space, start=spread)
            for start, stop in rows_of(self.lengths, self.chosen)
        )
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """The base output plus each range's correction."""
        if not isinstance(plain(self.base), nn.Linear):
            return self._corrected(0, self.base(x))
        return on_segments(self.base(x), self.lengths, self.chosen, self._corrected)

    def _corrected(self, index: int, z: Tensor) -> Tensor:
        return z + self.drop_path(self.adapters[index](self.dropout(z)))
