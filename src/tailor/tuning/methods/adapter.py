"""Adapter (Houlsby et al. 2019, at Pfeiffer et al.'s single place, as in NOAH): a bottleneck after each MLP.

z = MLP(LN u), y = u + z + U q(D z + d0) + u0 with q the quick GELU and dropout after it. U starts at zero; the released
code overwrites that start with a truncated normal, VPT's own variant puts D at zero too, from where nothing but the
output bias ever learns. Deviation: the bottleneck stands directly behind the
MLP, so where a block has layer scale or drop path, these apply to its output too. It cannot be merged.
"""

from typing import ClassVar, Literal

from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tailor.anatomy import Anatomy
from tailor.settings import STRICT
from tailor.tuning.layers import answers_for_base, like
from tailor.tuning.method import Geometry, Place, RowRanges, Slices, block_places
from tailor.tuning.methods import bottleneck
from tailor.tuning.methods.bottleneck import Bottleneck, quick_gelu


@dataclass(frozen=True, config=STRICT)
class Adapter:
    """A bottleneck of `width` channels behind every MLP: L (2dk + k + d), 156,768 on ViT-B/16 with width 8."""

    kind: Literal["adapter"] = "adapter"
    width: int = 8
    dropout: float = 0.1

    identity: ClassVar[bool] = True
    merges: ClassVar[bool] = False
    knob: ClassVar[str] = "width"

    def places(self, anatomy: Anatomy) -> tuple[Place, ...]:
        """The MLP of every block."""
        return block_places(anatomy, self.kind, "mlp")

    def cost(self, layer: nn.Module, rows: tuple[int, int] | None = None, geometry: Geometry | None = None) -> int:
        """2dk + k + d."""
        assert geometry is not None
        return bottleneck.cost(geometry.width, self.width)

    def wrap(self, layer: nn.Module, rows: RowRanges = (), geometry: Geometry | None = None) -> nn.Module:
        """The MLP, its output corrected."""
        assert geometry is not None
        space = 2 if geometry.layout == "nchw" else 0
        branch = Bottleneck(geometry.width, self.width, quick_gelu, like(layer), self.dropout, space)
        return AdaptedOutput(layer, branch)


@answers_for_base
class AdaptedOutput(nn.Module):
    """base(x) plus a branch fed with base(x)."""

    kind: ClassVar[str] = "adapter"
    slices: ClassVar[Slices] = {
        "adapter.down.weight": 0,
        "adapter.down.bias": 0,
        "adapter.up.weight": 1,
        "adapter.up.bias": None,
    }

    def __init__(self, base: nn.Module, adapter: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.adapter = adapter

    def forward(self, x: Tensor) -> Tensor:
        """The MLP's own shapes."""
        z = self.base(x)
        return z + self.adapter(z)
