"""One rule per operator: how each sample's gradient of weight and bias follows from input and output gradient.

The keys are the functions that `torch.nn.functional` ends in, so every module that calls them is covered, whatever its
class. Source: the chain rule.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tailor.criteria.factors import Convolution, Factor, Given, LookedUp, Outer, wide

Make = Callable[[Tensor], Factor]
Bound = Mapping[str, Any]


@dataclass(frozen=True)
class GradientRule:
    """An operator: its argument names (the input first), which of them are parameters, and how to make their factors.

    `make(bound arguments, samples)` gives, for each parameter it covers, a function from the output gradient to the
    factor; a parameter is left out where the settings are not covered.
    """

    arguments: tuple[str, ...]
    parameters: tuple[str, ...]
    make: Callable[[Bound, int], dict[str, Make]]


def _tokens(t: Tensor, samples: int) -> Tensor:
    """(B * m, ..., C) as (B, T, C)."""
    return t.reshape(samples, -1, t.shape[-1])


def _channels(t: Tensor, samples: int) -> Tensor:
    """Sum (B * m, C, ...) to (B, C)."""
    return t.reshape(samples, t.shape[0] // samples, t.shape[1], -1).sum((1, 3))


def _linear(bound: Bound, samples: int) -> dict[str, Make]:
    x = bound["input"]
    return {
        "weight": lambda g: Outer(_tokens(g, samples), _tokens(x, samples)),
        "bias": lambda g: Given(_tokens(g, samples).sum(1)),
    }


def _matmul(bound: Bound, samples: int) -> dict[str, Make]:
    x, other = bound["input"], bound["other"]
    if other.dim() != 2 or x.dim() < 2:
        return {}
    return {"other": lambda g: Outer(_tokens(x, samples), _tokens(g, samples))}


def _convolution(bound: Bound, samples: int) -> dict[str, Make]:
    x, weight = bound["input"], bound["weight"]
    space = weight.dim() - 2
    if x.dim() != weight.dim():  # a single image without a batch axis
        return {}
    kernel = tuple(weight.shape[2:])
    stride, dilation = _each(bound.get("stride", 1), space), _each(bound.get("dilation", 1), space)
    padding, groups = bound.get("padding", 0), bound.get("groups", 1)
    if isinstance(padding, str):
        total = [d * (k - 1) if padding == "same" else 0 for k, d in zip(kernel, dilation, strict=True)]
        x = F.pad(x, [side for n in reversed(total) for side in (n // 2, n - n // 2)]) if any(total) else x
        padding = 0
    padding = _each(padding, space)

    def of_weight(g: Tensor) -> Factor:
        apart = max(kernel) == 1 or (kernel == stride and max(dilation) == 1)
        if groups == 1 and not any(padding) and apart:
            return Outer(_sites(g, samples), _patches(x, kernel, stride, tuple(g.shape[2:]), samples))
        if groups == 1 and space == 2 and g[0, 0].numel() <= g.shape[1]:
            # few sites: the patches hold fewer numbers than the weight, and one product per sample beats a convolution
            patches = F.unfold(wide(x), kernel, dilation=dilation, padding=padding, stride=stride)
            return Outer(_sites(g, samples), _tokens(patches.mT, samples))
        return Convolution(x, g, samples, kernel, stride, padding, dilation, groups)

    return {"weight": of_weight, "bias": lambda g: Given(_channels(g, samples))}


def _each(value: Any, n: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, tuple | list) else (value,)
    return values * n if len(values) == 1 else values


def _sites(t: Tensor, samples: int) -> Tensor:
    """(B * m, C, *space) as (B, T, C)."""
    return _tokens(t.flatten(2).mT, samples)


def _patches(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], out: tuple[int, ...], samples: int) -> Tensor:
    """The patches, which do not overlap, that a convolution without padding reads, (B, T, Cin * kernel)."""
    for axis, (size, step, count) in enumerate(zip(kernel, stride, out, strict=True), 2):
        x = x.narrow(axis, 0, (count - 1) * step + size).unfold(axis, size, step)
    space = len(kernel)
    order = (0, *range(2, 2 + space), 1, *range(2 + space, 2 + 2 * space))
    return x.permute(order).reshape(samples, -1, x.shape[1] * torch.Size(kernel).numel())


def _layer_norm(bound: Bound, samples: int) -> dict[str, Make]:
    x, shape, eps = bound["input"], tuple(bound["normalized_shape"]), bound.get("eps", 1e-5)
    sums = lambda t: Given(t.reshape(samples, -1, *shape).sum(1))  # noqa: E731
    return {"weight": lambda g: sums(g * F.layer_norm(wide(x), shape, None, None, eps)), "bias": sums}


def _rms_norm(bound: Bound, samples: int) -> dict[str, Make]:
    x, shape, eps = bound["input"], tuple(bound["normalized_shape"]), bound.get("eps")
    return {"weight": lambda g: Given((g * F.rms_norm(wide(x), shape, None, eps)).reshape(samples, -1, *shape).sum(1))}


def _group_norm(bound: Bound, samples: int) -> dict[str, Make]:
    x, groups, eps = bound["input"], bound["num_groups"], bound.get("eps", 1e-5)
    return {
        "weight": lambda g: Given(_channels(g * F.group_norm(wide(x), groups, None, None, eps), samples)),
        "bias": lambda g: Given(_channels(g, samples)),
    }


def _batch_norm(bound: Bound, samples: int) -> dict[str, Make]:
    x, mean, var, eps = bound["input"], bound["running_mean"], bound["running_var"], bound.get("eps", 1e-5)
    if bound.get("training") or mean is None:  # statistics of the batch mix the samples
        return {}
    return {
        "weight": lambda g: Given(_channels(g * F.batch_norm(wide(x), mean, var, eps=eps), samples)),
        "bias": lambda g: Given(_channels(g, samples)),
    }


def _embedding(bound: Bound, samples: int) -> dict[str, Make]:
    index, weight = bound["input"], bound["weight"]
    if bound.get("max_norm") is not None or bound.get("scale_grad_by_freq"):
        return {}
    padding = bound.get("padding_idx")

    def of_weight(g: Tensor) -> Factor:
        if padding is not None:
            g = g.masked_fill((index == padding % len(weight)).unsqueeze(-1), 0)
        return LookedUp(index.reshape(samples, -1), _tokens(g, samples), len(weight))

    return {"weight": of_weight}


_CONV = GradientRule(
    ("input", "weight", "bias", "stride", "padding", "dilation", "groups"), ("weight", "bias"), _convolution
)
_MATMUL = GradientRule(("input", "other"), ("other",), _matmul)

RULES: dict[Any, GradientRule] = {
    F.linear: GradientRule(("input", "weight", "bias"), ("weight", "bias"), _linear),
    torch.matmul: _MATMUL,
    Tensor.matmul: _MATMUL,
    Tensor.__matmul__: _MATMUL,
    F.conv1d: _CONV,
    F.conv2d: _CONV,
    F.conv3d: _CONV,
    F.layer_norm: GradientRule(("input", "normalized_shape", "weight", "bias", "eps"), ("weight", "bias"), _layer_norm),
    F.rms_norm: GradientRule(("input", "normalized_shape", "weight", "eps"), ("weight",), _rms_norm),
    F.group_norm: GradientRule(("input", "num_groups", "weight", "bias", "eps"), ("weight", "bias"), _group_norm),
    F.batch_norm: GradientRule(
        ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
        ("weight", "bias"),
        _batch_norm,
    ),
    F.embedding: GradientRule(
        ("input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq", "sparse"),
        ("weight",),
        _embedding,
    ),
}

_ELEMENTWISE = ("add", "sub", "mul", "div", "true_divide", "addcmul", "addcdiv", "maximum", "minimum", "pow", "lerp")
_OPERATORS = ("add", "sub", "mul", "truediv")

# Operators that broadcast: one copy of a shared tensor per sample gives each sample its own gradient.
BROADCAST: frozenset[Any] = frozenset(
    [getattr(torch, n) for n in _ELEMENTWISE if hasattr(torch, n)]
    + [getattr(Tensor, n + end) for n in _ELEMENTWISE for end in ("", "_") if hasattr(Tensor, n + end)]
    + [
        getattr(Tensor, f"__{side}{n}__")
        for n in _OPERATORS
        for side in ("", "r", "i")
        if hasattr(Tensor, f"__{side}{n}__")
    ]
    + [torch.where, Tensor.where]
)
CONCATENATE: frozenset[Any] = frozenset([torch.cat, torch.concat, torch.concatenate])


def mask_shape(func: Any, args: Any, kwargs: Any) -> tuple[int, ...] | None:
    """The shape that an attention mask is broadcast to, where `func` is attention; else None."""
    if func is not F.scaled_dot_product_attention:
        return None
    query, key = (args[i] if len(args) > i else kwargs[n] for i, n in enumerate(("query", "key")))
    return (*query.shape[:-1], key.shape[-2])
