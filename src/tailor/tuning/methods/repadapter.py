"""RepAdapter (Luo et al. 2023): a linear bottleneck before qkv and before fc1 that folds into the layer behind it.

f(x) = x + s (W_b dropout(W_a x + b_a) + b_b), W_b block-diagonal in `groups` blocks, no non-linearity. W_a xavier, the
rest zero. Merged: W' = W + s (W W_b) W_a and c' = c + s W (W_b b_a + b_b). Here f stands
at the linear layer itself, not before the window partition, so it also sees Swin's zero padding and the merge is exact
at every image size; the released code adapts the map before it is padded, where it is not. On ConvNeXt it stands before
fc1 only (before the depthwise convolution it could not be merged). Where q, k, v are separate layers, each has its own;
before a layer without a bias (the qkv of Eva and Swin v2) it has none either, so that the merged model is stock.
"""

import copy
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tailor.anatomy import Anatomy
from tailor.errors import PlanError
from tailor.settings import STRICT
from tailor.tuning.layers import answers_for_base, like, matrix_shape, plain
from tailor.tuning.method import Geometry, Place, RowRanges, site_places, undefined


@dataclass(frozen=True, config=STRICT)
class RepAdapter:
    """`width` channels in `groups` blocks, `scale` s (the paper's runs choose it per task from 0.1 to 10).

    2 L (dk + k + dk / groups + d) parameters: 239,808 on ViT-B/16 with width 8.
    """

    kind: Literal["repadapter"] = "repadapter"
    width: int = 8
    groups: int = 2
    scale: float = 1.0
    dropout: float = 0.1

    identity: ClassVar[bool] = True
    merges: ClassVar[bool] = True
    knob: ClassVar[str] = "width"

    def __post_init__(self) -> None:
        if self.groups < 1 or self.width % self.groups:
            raise PlanError(
                f"`repadapter` splits its {self.width} channels into {self.groups} groups of one size",
                hint=f"use a multiple of {max(self.groups, 1)}, as `repadapter-8`",
            )

    def places(self, anatomy: Anatomy) -> tuple[Place, ...]:
        """The layers that read the block's normed input: qkv (or q, k, v) and the MLP's first."""
        if not anatomy.blocks:
            raise undefined(self.kind, anatomy, "its blocks are not known")
        places = site_places(anatomy, ops=("qkv", "q", "k", "v", "fc1", "fc1_g", "fc1_x"))
        if not places:
            raise undefined(self.kind, anatomy, "its blocks have no attention and no MLP")
        return places

    def cost(self, layer: nn.Module, rows: tuple[int, int] | None = None, geometry: Geometry | None = None) -> int:
        """dk + k + dk / G + d, d the layer's inputs; dk + dk / G before a layer without a bias."""
        width = matrix_shape(layer)[1]
        biases = self.width + width if plain(layer).bias is not None else 0
        return width * self.width + width * self.width // self.groups + biases

    def wrap(self, layer: nn.Module, rows: RowRanges = (), geometry: Geometry | None = None) -> nn.Module:
        """The layer with the adapter before it."""
        inner = plain(layer)
        if not isinstance(inner, nn.Linear) and not _pointwise(inner):
            raise PlanError(
                "`repadapter` stands before linear layers and dense 1x1 convolutions without padding only",
                hint="use `lora`",
            )
        return RepAdapted(layer, self.width, self.groups, self.scale, self.dropout)

    def merge(self, module: nn.Module) -> nn.Module:
        """The base layer with the adapter folded into weight and bias, in float64 and cast once."""
        assert isinstance(module, RepAdapted)
        base = copy.deepcopy(module.base)
        layer = plain(base)
        weight = layer.weight.detach().double().flatten(1)
        up = torch.block_diag(*module.up.detach().double().unflatten(0, (module.groups, -1)).unbind(0))
        down = module.down.weight.detach().double()
        merged = weight + module.scale * (weight @ up) @ down
        with torch.no_grad():
            if layer.bias is not None:
                shift = up @ module.down.bias.double() + module.up_bias.double()  # type: ignore[union-attr]
                layer.bias.copy_(layer.bias.double() + module.scale * (weight @ shift))
            layer.weight.copy_(merged.view_as(layer.weight))
        return base


def _pointwise(conv: nn.Module) -> bool:
    """Whether the convolution sees one position at a time; the merged bias would miss what it pads with zeros."""
    plainly = isinstance(conv, nn.Conv2d) and conv.kernel_size == (1, 1) and conv.groups == 1
    return plainly and not any(conv._reversed_padding_repeated_twice)  # type: ignore[arg-type]


@answers_for_base
class RepAdapted(nn.Module):
    """A linear layer (..., in) or 1x1 convolution (B, in, H, W) whose input is adapted first."""

    def __init__(self, base: nn.Module, width: int, groups: int, scale: float, dropout: float = 0.0) -> None:
        super().__init__()
        inputs, tensor = matrix_shape(base)[1], like(base)
        if inputs % groups:
            raise PlanError(
                f"`repadapter` needs inputs that divide into {groups} groups, found {inputs}",
                hint="use `--method lora`",
            )
        self.base = base
        self.scale = scale
        biased = plain(base).bias is not None
        self.down = nn.Linear(inputs, width, biased, device=tensor.device, dtype=tensor.dtype)
        nn.init.xavier_uniform_(self.down.weight)
        self.up = nn.Parameter(tensor.new_zeros(inputs, width // groups))
        self.up_bias = nn.Parameter(tensor.new_zeros(inputs)) if biased else None
        if self.down.bias is not None:
            nn.init.zeros_(self.down.bias)
        self.dropout = nn.Dropout(dropout)

    @property
    def groups(self) -> int:
        """How many blocks W_b has."""
        return self.down.out_features // self.up.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        """base(f(x))."""
        change = self._change_nchw(x) if isinstance(plain(self.base), nn.Conv2d) else self._change(x)
        return self.base(torch.add(x, change, alpha=self.scale))

    def _change(self, x: Tensor) -> Tensor:
        """W_b (W_a x + b_a) + b_b, one block of W_b after the other."""
        hidden = self.dropout(self.down(x)).chunk(self.groups, dim=-1)
        up = self.up.chunk(self.groups)
        bias = [None] * self.groups if self.up_bias is None else self.up_bias.chunk(self.groups)
        return torch.cat([F.linear(h, u, b) for h, u, b in zip(hidden, up, bias, strict=True)], dim=-1)

    def _change_nchw(self, x: Tensor) -> Tensor:
        hidden = self.dropout(F.conv2d(x, self.down.weight[:, :, None, None], self.down.bias))
        return F.conv2d(hidden, self.up[:, :, None, None], self.up_bias, groups=self.groups)
