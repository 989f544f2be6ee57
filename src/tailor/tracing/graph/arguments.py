"""A call's arguments by the names that the operator's schema gives them: the one place that maps them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.fx import Node


def parameters_of(target: Any) -> list[str]:
    """The names of an operator's parameters, in order; none where it has no schema."""
    return [a.name for a in target._schema.arguments] if isinstance(target, torch._ops.OpOverload) else []


def named(node: Node, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The arguments of a call by the operator's own names: those of the node, or values in their place."""
    args, kwargs = (node.args, node.kwargs) if args is None else (args, kwargs or {})
    names = parameters_of(node.target) or [f"arg{i}" for i in range(len(args))]
    return dict(zip(names, args)) | dict(kwargs)
