"""The supernet: beside every attention the convolutions that share its weights, every hidden unit behind a gate.

A convolution's kernel is, at each offset, a mean of the heads' value weights, softmax(z / temperature) over the heads;
so its output is a sum of nine shifted means of values that the attention has computed anyway (eq. 4.6 to 4.12). The
1x1 convolution reads the centre of z; each size has a batch norm of its own.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailor.backbones.windows import Windows, divide, join, undivided_
from tailor.errors import PlanError
from tailor.pruning.convolve.gates import Gates, Weighed, chosen, needed
from tailor.pruning.convolve.modules import TokenConvolution
from tailor.pruning.convolve.places import AttentionPlace, HiddenPlace, Slot, value_bias
from tailor.pruning.convolve.plan import CONVOLUTIONS
from tailor.pruning.convolve.settings import Wrapping
from tailor.surgery import get_module, set_module_

KERNELS = (1, 3)
"""The convolutions in order of cost; the attention comes after them."""


class Kept(nn.Module):
    """A layer that keeps its last output for whoever shares it, until it is taken."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self._last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output; a copy where a bias may yet be added to it in place."""
        self._last = self.layer(x)
        return self._last if self.layer.bias is not None else self._last.clone()

    def take(self) -> Tensor:
        """The last output, once."""
        last, self._last = self._last, None
        assert last is not None, "the attention has not called its layer"
        return last


class UnifiedAttention(nn.Module):
    """An attention, the 1x1 and 3x3 bottleneck convolutions made of its weights, and the gates that choose (UMSA)."""

    def __init__(self, attention: Any, place: AttentionPlace, wrapping: Wrapping, mask: Tensor | None = None) -> None:
        super().__init__()
        self.place, self.wrapping = place, wrapping
        attention.qkv = Kept(attention.qkv)
        self.attention = attention
        self.register_buffer("mask", mask, persistent=False)
        like = attention.proj.weight
        self.gates = Gates(len(KERNELS) + 1, wrapping.start).to(like.device)
        self.own, self.norms = nn.ModuleList(), nn.ModuleList()
        if wrapping.paths == "multi":
            swaps = (place.swap(operation, wrapping.scope) for operation in CONVOLUTIONS)
            self.own.extend(TokenConvolution(swap, wrapping.order, False, like.dtype).to(like.device) for swap in swaps)
        else:
            self.mix = nn.Parameter(like.new_ones(place.heads, 3, 3))
            norms = (nn.BatchNorm2d(place.channels, dtype=like.dtype, device=like.device) for _ in KERNELS)
            self.norms.extend(norms)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(B, N, C) as (B, N, C): the operation that the gates choose, or what a skip adds."""
        gates = self.gates()
        weights = chosen(gates, self.wrapping.closing).to(x.dtype)
        *shares, attends = weights.tolist()
        opened = tuple(gates.detach().bool().tolist())
        *wanted, _ = needed(opened, self.wrapping.closing) if self.training else (*map(bool, shares), True)
        with _graph(attends):
            branches = [self.attend(x, *args, **kwargs)]
        kept = self.attention.qkv.take()
        for index, used in enumerate(wanted):
            if used:
                with _graph(shares[index]):
                    branches.append(
                        self.own[index](x) if self.own else self.convolution(index, x, kept if attends else None)
                    )
        numbers = [len(shares), *(index for index, used in enumerate(wanted) if used)]
        y = Weighed.apply(weights[numbers], *branches)  # type: ignore[no-untyped-call]
        return y + (1 - weights.sum()) * x if self.wrapping.skip == "norm" else y  # type: ignore[no-any-return]

    def attend(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What the attention gives, (B, N, C); where x is a whole map, windows are cut here as the block would have."""
        windows = self.windows
        if windows is None:
            return self.attention(x, *args, **kwargs)  # type: ignore[no-any-return]
        inside = divide(x.unflatten(1, windows.map), windows)
        return join(self.attention(inside, mask=self.mask), windows).flatten(1, 2)

    def values(self, x: Tensor, kept: Tensor | None) -> Tensor:
        """The attention's values as a convolution sees them, (B, height, width, heads * channels).

        From what its layer has `kept`, or computed alone. Without their bias, which comes once and at the end, so that
        zeros beyond the border are zeros.
        """
        place, layer = self.place, self.attention.qkv.layer
        start = 2 * place.heads * place.channels
        if kept is None:
            values = F.linear(x, layer.weight[start:])
        else:
            values = kept[..., start:] if layer.bias is None else kept[..., start:] - layer.bias[start:]
            if self.windows is not None:
                return join(values, self.windows)
        height, width = place.convolved(self.wrapping.scope)
        return values[:, x.shape[1] - height * width :].unflatten(1, (height, width))

    @property
    def windows(self) -> Windows | None:
        """Those to cut here: where the convolutions see the whole map."""
        return self.place.windows if self.wrapping.scope == "map" else None

    def convolution(self, index: int, x: Tensor, kept: Tensor | None) -> Tensor:
        """What a convolution of `KERNELS` gives, (B, N, C), of the values in what the attention's layer has `kept`."""
        place, size = self.place, KERNELS[index]
        maps = self.values(x, kept).permute(0, 3, 1, 2).contiguous().unflatten(1, (place.heads, place.channels))
        shares = (self.mix / self.wrapping.temperature).softmax(0)
        used = shares if size == 3 else shares[:, 1:2, 1:2]
        y, norm = shifted_means(maps, used), self.norms[index]
        bias = value_bias(self.attention, self.attention.qkv.layer)
        if bias is not None:
            y = y + torch.einsum("hd,hrs->d", bias.unflatten(0, (place.heads, -1)), used)[:, None, None]
        y = norm(y).relu() if self.wrapping.order == "bn-relu" else norm(y.relu())
        out = self.attention.proj.weight.unflatten(1, (place.heads, place.channels))
        weight = torch.einsum("chd,hrs->cd", out, used)
        y = F.linear(y.flatten(2).transpose(1, 2), weight, self.attention.proj.bias)
        before = x.shape[1] - y.shape[1]
        return torch.cat([x[:, :before], y], 1) if before else y


def _graph(share: float) -> AbstractContextManager[object]:
    """A branch of no weight gets no gradient: its graph would be for nothing."""
    return torch.set_grad_enabled(torch.is_grad_enabled() and share != 0)


def shifted_means(maps: Tensor, shares: Tensor) -> Tensor:
    """Maps (B, heads, D, H, W) as (B, D, H, W): for each offset in the square of `shares` (heads, k, k) the mean of the
    heads by their shares there, read that far on; summed over the offsets.

    One depthwise convolution computes the shifted slices of each channel at once.
    """
    heads, channels = maps.shape[1:3]
    size = shares.shape[1]
    if size == 1:
        return torch.einsum("bhdyx,h->bdyx", maps, shares[:, 0, 0])
    kernel = shares[:, None].expand(heads, channels, size, size).reshape(heads * channels, 1, size, size)
    shifted = F.conv2d(maps.flatten(1, 2), kernel, padding=size // 2, groups=heads * channels)
    return shifted.unflatten(1, (heads, channels)).sum(1)


class GatedUnits(nn.Module):
    """A layer behind a gate for each unit of its inputs: a hidden unit (UFFN), or the channels of a head."""

    def __init__(self, layer: nn.Linear, gates: nn.Module, per: int = 1) -> None:
        super().__init__()
        self.layer, self.per = layer, per
        self.gates: Any = gates.to(layer.weight.device)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output from the units (..., units * per) whose gates are open.

        A gate closes its columns of the weight, which are fewer numbers than the units of all tokens.
        """
        gates = self.gates().to(self.layer.weight.dtype).repeat_interleave(self.per)
        return F.linear(x, self.layer.weight * gates, self.layer.bias)


@dataclass(frozen=True)
class Gated:
    """What one block of a supernet has gates for."""

    place: Slot
    attention: UnifiedAttention | None
    hidden: GatedUnits | None


def wrap_(model: nn.Module, places: tuple[Slot, ...], wrapping: Wrapping) -> tuple[Gated, ...]:
    """Put the gates into the model; what every block got. Nothing changes while all of them are open."""
    found = []
    for place in places:
        unified = _wrap_attention_(model, place, place.attention, wrapping) if wrapping.attention else None
        units = _wrap_hidden_(model, place.hidden, wrapping) if wrapping.hidden else None
        found.append(Gated(place, unified, units))
    if not any(gated.attention or gated.hidden for gated in found):
        raise PlanError(
            "there is nothing left to search: no attention and no hidden units in the parts asked for",
            hint="ask for both parts, or take a model that was not converted already",
        )
    return tuple(found)


def _wrap_attention_(
    model: nn.Module, place: Slot, attention: AttentionPlace | None, wrapping: Wrapping
) -> UnifiedAttention | None:
    if attention is None:
        return None
    block: Any = get_module(model, place.block)
    mask = None
    if attention.windows and wrapping.scope == "map":
        mask = block.get_attn_mask(device=block.norm1.weight.device, dtype=block.norm1.weight.dtype)
        undivided_(block)
    unified = UnifiedAttention(get_module(model, attention.path), attention, wrapping, mask)
    set_module_(model, attention.path, unified)
    return unified


def _wrap_hidden_(model: nn.Module, hidden: HiddenPlace | None, wrapping: Wrapping) -> GatedUnits | None:
    if hidden is None:
        return None
    layer = get_module(model, hidden.last)
    assert isinstance(layer, nn.Linear)
    gates = Gates(hidden.units, wrapping.start, never_empty=True)
    units = GatedUnits(layer, gates, layer.in_features // hidden.units)
    set_module_(model, hidden.last, units)
    return units
