"""AdaptFormer (Chen et al. 2022): a scaled bottleneck beside each MLP.

y = u + MLP(LN u) + s (U relu(D x + d0) + u0), dropout after the ReLU, D kaiming-uniform, everything else zero. Its
input x is LN u, what the MLP itself gets: so the paper writes it, and so it can stand beside the MLP of any family. The
released image code feeds u instead, without the norm. Where a block has layer scale or drop path, these apply to the
branch too. ReLU: it cannot be merged.
"""

import math
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tailor.anatomy import Anatomy
from tailor.settings import STRICT
from tailor.tuning.layers import answers_for_base, like
from tailor.tuning.method import Geometry, Place, RowRanges, block_places
from tailor.tuning.methods import bottleneck
from tailor.tuning.methods.bottleneck import Bottleneck


@dataclass(frozen=True, config=STRICT)
class AdaptFormer:
    """A bottleneck of `width` channels beside every MLP: L (2dk + k + d), 1,189,632 on ViT-B/16 with width 64."""

    kind: Literal["adaptformer"] = "adaptformer"
    width: int = 64
    scale: float = 0.1
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
        """The MLP with the branch beside it."""
        assert geometry is not None
        start = partial(nn.init.kaiming_uniform_, a=math.sqrt(5))
        space = 2 if geometry.layout == "nchw" else 0
        branch = Bottleneck(geometry.width, self.width, F.relu, like(layer), self.dropout, space, start)
        return ParallelBranch(layer, branch, self.scale)


@answers_for_base
class ParallelBranch(nn.Module):
    """base(x) plus `scale` times a branch fed with x."""

    def __init__(self, base: nn.Module, branch: nn.Module, scale: float) -> None:
        super().__init__()
        self.base = base
        self.branch = branch
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """The MLP's own shapes."""
        return torch.add(self.base(x), self.branch(x), alpha=self.scale)
