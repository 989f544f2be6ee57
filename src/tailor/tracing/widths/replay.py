"""A module that runs a list of ATen calls instead of its class's code: for code that fixes sizes.

The calls are plain data (operator names, numbers, references), so a plan stays readable and no code is loaded from it;
only operators that the tracing has a rule for may run. Parameters, buffers and children keep their names. Dropout and
batch norm follow `training`; stochastic depth inside the module does not (it left no trace in the graph).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from tailor.errors import PlanError
from tailor.tracing.graph.rules import RULES
from tailor.tracing.widths.plan import Replay

_KNOWN = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool)
DTYPES = {str(dtype): dtype for dtype in _KNOWN}


class Replayed(nn.Module):
    """A stock module's tensors under a recorded computation. Built by `replay_`."""

    def __init__(self, original: nn.Module, replay: Replay) -> None:
        super().__init__()
        for name, value in vars(original).items():
            if name != "forward":
                self.__dict__[name] = value  # parameters, buffers, children and settings, under their names
        self.stock = f"{type(original).__module__}.{type(original).__qualname__}"
        self.steps = [(operator_of(step.operator), step.args, step.kwargs) for step in replay.steps]
        self.replay = replay

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The recorded calls on the tensors among the arguments, in order."""
        inputs = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        values: list[Any] = [*inputs]
        for operator, step_args, step_kwargs in self.steps:
            positional = [self._resolve(argument, values) for argument in step_args]
            values.append(operator(*positional, **{k: self._resolve(a, values) for k, a in step_kwargs.items()}))
        outputs = [self._resolve(reference, values) for reference in self.replay.outputs]
        return outputs[0] if self.replay.single else tuple(outputs)

    def _resolve(self, argument: Any, values: list[Any]) -> Any:
        if isinstance(argument, (list, tuple)):
            return [self._resolve(item, values) for item in argument]
        if not isinstance(argument, dict):
            return argument
        (kind, content), *_ = argument.items()
        match kind:
            case "value":
                return _made(values, content)
            case "part":
                return _made(values, content[0])[content[1]]
            case "tensor":
                return _tensor(self, content)
            case "length":
                return _made(values, content[0]).shape[content[1]]
            case "training":
                return self.training
            case "dtype":
                return DTYPES[content]
            case "device":
                return values[0].device
        raise PlanError(f"a recorded call has an argument of unknown kind: `{kind}`")


def _made(values: list[Any], number: int) -> Any:
    if number >= len(values):
        raise PlanError(f"a recorded call refers to value {number} of {len(values)}", hint="make the plan again")
    return values[number]


def _tensor(module: nn.Module, name: str) -> Tensor:
    *path, last = name.split(".")
    for part in path:
        module = getattr(module, part)
    return getattr(module, last)


def operator_of(name: str) -> torch._ops.OpOverload:
    """The ATen operator of this name, if it is one that the tracing has a rule for."""
    base, _, overload = name.partition(".")
    known = base in RULES or base.rstrip("_") in RULES
    packet = getattr(torch.ops.aten, base, None) if known else None
    if packet is None or overload not in packet.overloads():
        raise PlanError(
            f"a recorded call names no operator known here: `{name[:80]}`",
            hint="make the plan again with `tailor prune`",
        )
    return getattr(packet, overload)  # type: ignore[no-any-return]


def replay_(model: nn.Module, replay: Replay) -> None:
    """Replace one submodule by the recorded computation."""
    parent, _, name = replay.module.rpartition(".")
    holder = model.get_submodule(parent)
    holder._modules[name] = Replayed(model.get_submodule(replay.module), replay)
