"""Biases that belong to one route at layers that many share: ESTA's stitch-specific biases.

They are kept by route, one vector each, so that what a route was not drawn for has no gradient (and no momentum, no
decay) and a route is read from disk with its own numbers only. In a vision transformer those of keys and values do
nothing that those of queries and of the projection could not; the paper has all of them, `q,proj` is the cheap way.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tailor.surgery import get_module, set_module_, split_range
from tailor.tuning.layers import answers_for_base, matrix_shape, plain


@dataclass
class Current:
    """What the layers of a routed model look up while it runs: for each site with a bias, that bias.

    A bias is (C), or (B, C) where every sample takes a route of its own.
    """

    biases: dict[str, Tensor] = field(default_factory=dict)

    def __deepcopy__(self, memo: dict[int, object]) -> "Current":
        """A copy of a routed model runs for itself: what this one looks up now belongs to a graph."""
        return Current()


@answers_for_base
class RouteBias(nn.Module):
    """A layer plus the bias, on `rows` of its outputs, that the current route has at `site`; if it has one."""

    def __init__(self, base: nn.Module, site: str, rows: tuple[int, int] | None, current: Current) -> None:
        super().__init__()
        self.base, self.site, self.rows, self.current = base, site, rows, current

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), or (B, in, H, W) -> (B, out, H', W') for a convolution."""
        y: Tensor = self.base(x)
        bias = self.current.biases.get(self.site)
        if bias is None:
            return y
        bias = self._whole(bias)
        if isinstance(plain(self.base), nn.Conv2d):
            return y + bias[..., None, None]
        if bias.ndim == 1:
            return y + bias
        each = bias.repeat_interleave(len(y) // len(bias), 0)  # windows: several rows of a batch belong to a sample
        return y + each.view(len(y), *[1] * (y.ndim - 2), -1)

    def _whole(self, bias: Tensor) -> Tensor:
        """The bias over all outputs, zero outside `rows`."""
        if self.rows is None:
            return bias
        start, stop = self.rows
        outputs = matrix_shape(self.base)[0]
        return nn.functional.pad(bias, (start, outputs - stop))

    def fold(self, bias: Tensor | None) -> nn.Module:
        """The layer under it, with `bias` (C) added to its own, which it gets where it has none."""
        layer = plain(self.base)
        if bias is not None:
            whole = self._whole(bias.detach())
            if layer.bias is None:
                layer.bias = nn.Parameter(torch.zeros_like(whole), requires_grad=False)
            with torch.no_grad():
                layer.bias.copy_((layer.bias.double() + whole.double()).to(layer.bias.dtype))
        return self.base


def wrap_(model: nn.Module, sites: Sequence[str], current: Current) -> nn.Module:
    """Put a `RouteBias` around the layer at each site (a path, or a range of its outputs)."""
    for site in sites:
        path, rows = split_range(site)
        layer = get_module(model, path)
        set_module_(model, path, RouteBias(layer, site, rows, current).train(layer.training))
    return model
