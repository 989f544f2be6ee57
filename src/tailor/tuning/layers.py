"""Looking at a layer through whatever methods were put around it, and changing ranges of its outputs."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def innermost(module: nn.Module) -> nn.Module:
    """The module under any wrappers: every wrapper keeps what it wraps as `base`."""
    while isinstance(getattr(module, "base", None), nn.Module):
        module = module.base  # type: ignore[assignment]
    return module


def plain(layer: nn.Module) -> nn.Linear | nn.Conv2d:
    """The linear or convolution layer under any wrappers."""
    while not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
        layer = layer.base  # type: ignore[assignment]
    return layer  # type: ignore[return-value]


def matrix_shape(layer: nn.Module) -> tuple[int, int]:
    """(outputs, inputs) of a linear layer or of a convolution seen as a matrix."""
    weight = plain(layer).weight
    return weight.shape[0], weight[0].numel()


def like(module: nn.Module) -> Tensor:
    """A parameter whose device and floating-point type new parameters beside the module take."""
    return next(p for p in module.parameters() if p.is_floating_point())


def on_rows(y: Tensor, rows: tuple[tuple[int, int], ...], change: Callable[[int, Tensor], Tensor]) -> Tensor:
    """`y` (..., out) with `change(i, part)` in place of each range `rows[i]` (sorted, disjoint) and the rest as it is.

    One split and one concatenation: slicing each range would make backward add up full-size gradients of zeros.
    """
    outputs = y.shape[-1]
    if rows == ((0, outputs),):
        return change(0, y)
    sizes: list[int] = []
    changed: dict[int, int] = {}
    at = 0
    for index, (start, stop) in enumerate(rows):
        if start > at:
            sizes.append(start - at)
        changed[len(sizes)] = index
        sizes.append(stop - start)
        at = stop
    if at < outputs:
        sizes.append(outputs - at)
    parts = y.split(sizes, dim=-1)
    return torch.cat([change(changed[i], part) if i in changed else part for i, part in enumerate(parts)], dim=-1)
