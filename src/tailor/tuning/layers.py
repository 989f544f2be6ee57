"""Looking at a layer through whatever methods were put around it, answering for it, and changing its outputs."""

from collections.abc import Callable
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tailor.errors import PlanError
from tailor.surgery import computes_plainly

Wrapper = TypeVar("Wrapper", bound=type[nn.Module])


def answers_for_base(wrapper: Wrapper) -> Wrapper:
    """Class decorator: what the wrapper has not itself (`kernel_size`, `weight`, ...) it takes from the layer it wraps.

    A backbone's code asks its layers for sizes, strides and devices. Submodules are not answered for, so that each
    keeps one path; nor are other wrappers in between, whose settings are their own. `state_dict` is not touched.
    """

    def answer(self: nn.Module, name: str) -> Any:
        try:
            return nn.Module.__getattr__(self, name)
        except AttributeError:
            base = self.__dict__.get("_modules", {}).get("base")  # there is none while a copy is being made
            if base is None or name.startswith("__") or not hasattr(innermost(base), name):
                raise
            value = getattr(innermost(base), name)
            if isinstance(value, nn.Module):
                raise
            return value

    wrapper.__getattr__ = answer  # type: ignore[method-assign]
    return wrapper


def innermost(module: nn.Module) -> nn.Module:
    """The module under any wrappers: every wrapper keeps what it wraps as `base`."""
    while isinstance(getattr(module, "base", None), nn.Module):
        module = module.base  # type: ignore[assignment]
    return module


def plain(layer: nn.Module) -> nn.Linear | nn.Conv2d:
    """The linear or convolution layer under any wrappers; PlanError where it does not compute as its weight says."""
    while not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
        layer = layer.base  # type: ignore[assignment]
    if not computes_plainly(layer):
        raise PlanError(
            f"a `{type(layer).__name__}` computes in a way of its own and takes no module", hint="use `--method bias`"
        )
    return layer  # type: ignore[return-value]


def matrix_shape(layer: nn.Module) -> tuple[int, int]:
    """(outputs, inputs) of a linear layer or of a convolution seen as a matrix."""
    weight = plain(layer).weight
    return weight.shape[0], weight[0].numel()


def like(module: nn.Module) -> Tensor:
    """A parameter whose device and floating-point type new parameters beside the module take."""
    return next(p for p in module.parameters() if p.is_floating_point())


def segments(rows: tuple[tuple[int, int], ...], outputs: int) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """The outputs taken apart where `rows` (disjoint; none means all) begin and end: lengths, and which are `rows`."""
    lengths: list[int] = []
    chosen: list[bool] = []
    at = 0
    for start, stop in sorted(rows) or [(0, outputs)]:
        if start > at:
            lengths.append(start - at)
            chosen.append(False)
        lengths.append(stop - start)
        chosen.append(True)
        at = stop
    if at < outputs:
        lengths.append(outputs - at)
        chosen.append(False)
    return tuple(lengths), tuple(chosen)


def rows_of(lengths: tuple[int, ...], chosen: tuple[bool, ...]) -> tuple[tuple[int, int], ...]:
    """The ranges that `segments` took apart."""
    ends = list(accumulate(lengths))
    return tuple((end - length, end) for end, length, mine in zip(ends, lengths, chosen, strict=True) if mine)


def on_segments(
    y: Tensor, lengths: tuple[int, ...], chosen: tuple[bool, ...], change: Callable[[int, Tensor], Tensor]
) -> Tensor:
    """`y` (..., out) with `change(i, part)` in place of the i-th segment that is chosen, and the rest as it is.

    One split and one concatenation: slicing each range would make backward add up full-size gradients of zeros.
    """
    if len(lengths) == 1:
        return change(0, y)
    parts = list(y.split(lengths, dim=-1))
    mine = [at for at, wanted in enumerate(chosen) if wanted]
    for index, at in enumerate(mine):
        parts[at] = change(index, parts[at])
    return torch.cat(parts, dim=-1)
