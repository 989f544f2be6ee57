"""What a rule sees of an operator call: its arguments with their dimensions, the shape of its result, where it is.

Also the one place that gives arguments the names of the operator's schema.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from tailor.tracing.graph.axes import ONE, Dim, fresh, pin, size, unify


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor: one `Dim` an axis. `source` names the parameter or buffer; `fixed`: made from buffers alone."""

    dims: tuple[Dim, ...]
    source: str = ""
    integral: bool = False
    fixed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return tuple(size(dim) for dim in self.dims)


@dataclass(frozen=True, eq=False)
class Use:
    """A parameter or buffer as an operator sees it: `linear`, `weight`."""

    source: str
    operator: str
    role: str


@dataclass(frozen=True, eq=False)
class Call:
    """One operator call. `args` holds the arguments by schema name: `Value`, lists of them, or constants."""

    name: str
    where: str
    args: dict[str, Any]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the (first) result."""
        return self.shapes[0]

    def value(self, name: str) -> Value:
        """The tensor argument of this name."""
        argument = self.args[name]
        assert isinstance(argument, Value), f"{self.name} has no tensor `{name}`"
        return argument

    def maybe(self, name: str) -> Value | None:
        """The tensor argument of this name, if it was given."""
        argument = self.args.get(name)
        return argument if isinstance(argument, Value) else None

    @property
    def x(self) -> Value:
        """The data operand: the first tensor."""
        return self.tensors()[0]

    def tensors(self) -> list[Value]:
        """Every tensor argument, in order, lists flattened."""
        found: list[Value] = []
        for argument in self.args.values():
            if isinstance(argument, Value):
                found.append(argument)
            elif isinstance(argument, Sequence) and not isinstance(argument, str):
                found.extend(item for item in argument if isinstance(item, Value))
        return found

    def get(self, name: str, default: Any = None) -> Any:
        """A constant argument."""
        argument = self.args.get(name)
        return default if argument is None else argument

    def same(self, a: Dim, b: Dim) -> None:
        """Both dimensions are the same axis; a size-1 axis that is broadcast is none."""
        if size(a) == size(b):
            unify(a, b, self.where)
        else:
            assert 1 in (size(a), size(b)), f"{size(a)} and {size(b)} at {self.where}"

    def pin(self, dims: Iterable[Dim], why: str) -> None:
        """Nothing goes from these dimensions."""
        for dim in dims:
            pin(dim, f"{why} at {self.where}")

    def fixed(self, n: int, why: str) -> Dim:
        """A new dimension from which nothing goes."""
        return fresh(n, f"{why} at {self.where}")


Dims = list[Dim]
RuleResult = Dims | list[Dims]
Rule = Callable[[Call], RuleResult]


def axis(dim: int, ndim: int) -> int:
    """A dimension index, counted from the front."""
    return dim + ndim if dim < 0 else dim


def axes(dims: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """Dimension indices, counted from the front; none or an empty list means all."""
    if dims is None or (isinstance(dims, Sequence) and not dims):
        return tuple(range(ndim))
    return tuple(axis(d, ndim) for d in ([dims] if isinstance(dims, int) else dims))


def broadcast(call: Call, values: Iterable[Value], ndim: int) -> Dims:
    """The dimensions of an element-wise result: aligned from the right, equal sizes are the same axis."""
    result: Dims = [ONE] * ndim
    for value in values:
        offset = ndim - len(value.dims)
        for position, dim in enumerate(value.dims, start=offset):
            if position < 0 or size(dim) == 1:
                continue
            if size(result[position]) == 1:
                result[position] = dim
            else:
                call.same(result[position], dim)
    return result


def parameters_of(target: Any) -> list[str]:
    """The names of an operator's parameters, in order; none where it has no schema."""
    return [a.name for a in target._schema.arguments] if isinstance(target, torch._ops.OpOverload) else []


def named(node: Node, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The arguments of a call by the operator's own names: those of the node, or values in their place."""
    args, kwargs = (node.args, node.kwargs) if args is None else (args, kwargs or {})
    names = parameters_of(node.target) or [f"arg{i}" for i in range(len(args))]
    return dict(zip(names, args)) | dict(kwargs)
