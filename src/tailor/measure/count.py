"""Counts parameters and multiply-accumulates (MACs) of any model, without computing or changing anything.

A MAC is one multiplication and one addition inside a matrix product or convolution, attention included, fused or
not; norms, activations, softmax and bias additions are not counted (half of torch's `FlopCounterMode`; the papers'
torch-pruning counter adds them, fvcore drops fused attention). The tables say 17.5638 G for DeiT-B/16 with its head.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_any, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from tailor.errors import ModelError
from tailor.inputs import Inputs

_FAILURES = (RuntimeError, TypeError, ValueError, AssertionError, IndexError, AttributeError)  # of a foreign forward


def parameters(model: nn.Module, trainable: bool = False) -> int:
    """Number of scalars in the model's parameters, a tied weight once; with `trainable`, those that take a gradient."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)


def macs(model: nn.Module, inputs: Inputs) -> int:
    """MACs of one forward pass in evaluation mode over one sample; extra (unmerged) modules count too.

    The pass runs on a copy without storage (meta device), so it costs milliseconds at any size and leaves the model
    alone. A forward that reads values (`.item()`, boolean masks) runs once more, on a real copy on the CPU. Raises
    `ModelError` where that fails too.
    """
    return _counted(model, inputs, ())[-1]


def macs_along(model: nn.Module, inputs: Inputs, paths: Sequence[str]) -> tuple[int, ...]:
    """MACs of `macs` done by the time the module at the first of `paths` begins, each of them ends, and all is over.

    `paths` name modules that run once, one after the other.
    """
    return _counted(model, inputs, paths)


def _counted(model: nn.Module, inputs: Inputs, paths: Sequence[str]) -> tuple[int, ...]:
    try:
        return _count(_hollow(model), inputs, torch.device("meta"), paths)
    except _FAILURES:
        pass
    try:
        return _count(copy.deepcopy(model).to("cpu"), inputs, torch.device("cpu"), paths)
    except _FAILURES as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"the model does not run on {inputs}, so nothing can be counted: {reason}",
            hint="give the image size that the model was made for",
        ) from None


def _count(model: nn.Module, inputs: Inputs, device: torch.device, paths: Sequence[str]) -> tuple[int, ...]:
    """On a copy that is thrown away: the counts where `macs_along` says, the last for the whole pass."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
    example = inputs.example(1, device=device, dtype=dtype)
    counter = FlopCounterMode(display=False, custom_mapping=_VECTOR_PRODUCTS)
    marks: list[int] = []

    def mark(*_: Any) -> None:
        marks.append(int(counter.get_total_flops()) // 2)

    for number, path in enumerate(paths):
        if not number:
            model.get_submodule(path).register_forward_pre_hook(mark)
        model.get_submodule(path).register_forward_hook(mark)
    with torch.no_grad(), counter, _AllMeta():
        model.eval()(*example)
    mark()
    return tuple(marks)


def _hollow(model: nn.Module) -> nn.Module:
    """A deep copy whose tensors (parameters, buffers, plain attributes) have shape and type but no storage."""
    held: list[Tensor] = [*model.parameters(), *model.buffers()]
    for module in model.modules():
        held += [value for value in vars(module).values() if isinstance(value, Tensor)]
    memo: dict[int, Any] = {id(tensor): _meta(tensor) for tensor in held}
    return copy.deepcopy(model, memo)


def _meta(tensor: Tensor) -> Tensor:
    hollow = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    return nn.Parameter(hollow, requires_grad=False) if isinstance(tensor, nn.Parameter) else hollow


class _AllMeta(TorchDispatchMode):
    """Where an operator meets a meta tensor, its other tensors (constants that a forward made) become meta too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if tree_any(_is_meta, (args, kwargs)):
            args, kwargs = tree_map_only(Tensor, lambda t: t if t.is_meta else t.to("meta"), (args, kwargs))
            if isinstance(kwargs.get("device"), torch.device):
                kwargs = {**kwargs, "device": torch.device("meta")}
        return func(*args, **kwargs)


def _is_meta(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_meta


def _matrix_vector(matrix: Any, vector: Any, **_: Any) -> int:
    return 2 * matrix[0] * matrix[1]


def _plus_matrix_vector(bias: Any, matrix: Any, vector: Any, **_: Any) -> int:
    return 2 * matrix[0] * matrix[1]


def _dot(left: Any, right: Any, **_: Any) -> int:
    return 2 * left[0]


_VECTOR_PRODUCTS = {  # torch counts products of matrices only
    torch.ops.aten.mv: _matrix_vector,
    torch.ops.aten.addmv: _plus_matrix_vector,
    torch.ops.aten.dot: _dot,
}
