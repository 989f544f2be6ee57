"""The masked reference, which a cut must equal: the dense graph, with removed units zeroed after every operator.

Statistics (norms, means, variances) are taken over the kept units; the attention's scale is the dense one. It is slow
and obviously right, and shares nothing with the surgery but the layouts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from tailor.inputs import Example
from tailor.tracing.graph.analyse import Analysis, operator_name
from tailor.tracing.graph.axes import Atom, Dim, leaves
from tailor.tracing.graph.groups import spell
from tailor.tracing.graph.rules.call import Value, axes, named
from tailor.tracing.widths.layout import keep_mask

AxisMasks = list[Tensor | None]  # one an axis, None where everything stays


@dataclass(frozen=True, eq=False)
class Masking:
    """The kept units of an analysis: masks for every tensor in the graph."""

    analysis: Analysis
    names: Mapping[Atom, str]
    kept: Mapping[str, Tensor]
    cache: dict[Dim, Tensor | None] = field(default_factory=dict)

    def of(self, value: Any) -> AxisMasks:
        """The kept positions of each axis."""
        if not isinstance(value, Value):
            return []
        for dim in value.dims:
            if dim not in self.cache:
                self.cache[dim] = self._mask(dim)
        return [self.cache[dim] for dim in value.dims]

    def _mask(self, dim: Dim) -> Tensor | None:
        if not any(self.names.get(leaf) in self.kept for leaf in leaves(dim)):
            return None
        whole = {
            name: torch.ones(atom.size, dtype=torch.bool) for atom, name in self.names.items() if name not in self.kept
        }
        return keep_mask(spell(dim, self.names), {**whole, **self.kept})


def run_masked(
    model: nn.Module, masking: Masking, example: Example, watch: Callable[[Node, Any], None] | None = None
) -> Any:
    """The output of the dense graph with removed units zeroed after every operator; `watch` sees every result."""
    program = masking.analysis.program
    environment: dict[Node, Any] = {}
    inputs = _inputs(model, masking, example)
    uses = {node: len(node.users) for node in program.graph.nodes}
    with torch.no_grad():
        for node in program.graph.nodes:
            if node.op == "placeholder":
                environment[node] = _zeroed(inputs[node.name], masking.of(masking.analysis.values.get(node)))
            elif node.op == "get_attr":
                environment[node] = getattr(program.graph_module, str(node.target))
            elif node.op == "call_function":
                environment[node] = _run(node, environment, masking)
            else:
                return torch.fx.map_arg(node.args[0], lambda n: environment[n])
            if watch is not None:
                watch(node, environment[node])
            for operand in node.all_input_nodes:
                uses[operand] -= 1
                if not uses[operand]:
                    environment[operand] = None
    return None


def _inputs(model: nn.Module, masking: Masking, example: Example) -> dict[str, Any]:
    signature, program = masking.analysis.program.graph_signature, masking.analysis.program
    tensors = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    found: dict[str, Any] = {}
    for name, source in {**signature.inputs_to_parameters, **signature.inputs_to_buffers}.items():
        found[name] = tensors[source].detach().clone()  # zeroed in place, as everything in the graph
    for name, source in signature.inputs_to_lifted_tensor_constants.items():
        found[name] = program.constants[source]
    found.update(zip(map(str, signature.user_inputs), example, strict=True))
    return found


def _run(node: Node, environment: Mapping[Node, Any], masking: Masking) -> Any:
    args = torch.fx.map_arg(node.args, lambda n: environment[n])
    kwargs = torch.fx.map_arg(node.kwargs, lambda n: environment[n])
    statistics = STATISTICS.get(operator_name(node))
    operand = node.args[0] if node.args else None
    if statistics is not None and isinstance(operand, Node):
        masks = masking.of(masking.analysis.values.get(operand))
        if any(mask is not None for mask in masks):
            result = statistics(named(node, args, kwargs), masks)
            return _zeroed(result, masking.of(masking.analysis.values.get(node)))
    result = node.target(*args, **kwargs)  # type: ignore[operator]
    value = masking.analysis.values.get(node)
    if isinstance(value, list):
        return [_zeroed(r, masking.of(v)) for r, v in zip(result, value, strict=True)]
    return _zeroed(result, masking.of(value))


def _zeroed(tensor: Any, masks: AxisMasks) -> Any:
    """Zero the removed positions, in place: a view of a masked tensor is masked already, and aliases must stay."""
    if not isinstance(tensor, Tensor) or not tensor.dtype.is_floating_point:
        return tensor
    for axis, mask in enumerate(masks):
        if mask is None:
            continue
        if any(stride == 0 and n > 1 for stride, n in zip(tensor.stride(), tensor.shape, strict=True)):
            tensor = tensor.clone()  # an expanded tensor has no room of its own
        keep = mask.view([-1 if d == axis else 1 for d in range(tensor.ndim)])
        tensor.mul_(keep)  # several times faster than filling, which is needed only where 0 * inf is not 0
        if not math.isfinite(float(tensor.sum())):
            tensor.masked_fill_(~keep, 0)
    return tensor


def _weights(x: Tensor, masks: AxisMasks, dims: tuple[int, ...]) -> tuple[Tensor, float]:
    """One for kept positions of the reduced axes and zero for removed ones, and how many are kept."""
    weight, count = torch.ones((), dtype=x.dtype), 1.0
    for d in dims:
        mask = masks[d]
        shape = [-1 if p == d else 1 for p in range(x.ndim)]
        kept = torch.ones(x.shape[d], dtype=x.dtype) if mask is None else mask.to(x.dtype)
        weight, count = weight * kept.view(shape), count * float(kept.sum())
    return weight, count


def _moments(x: Tensor, masks: AxisMasks, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    weight, count = _weights(x, masks, dims)
    mean = (x * weight).sum(dims, keepdim=True) / count
    return mean, ((x - mean).square() * weight).sum(dims, keepdim=True) / count


def _layer_norm(a: dict[str, Any], masks: AxisMasks) -> Tensor:
    x = a["input"]
    mean, variance = _moments(x, masks, tuple(range(x.ndim - len(a["normalized_shape"]), x.ndim)))
    return _affine((x - mean) / (variance + a.get("eps", 1e-5)).sqrt(), a.get("weight"), a.get("bias"))


def _rms_norm(a: dict[str, Any], masks: AxisMasks) -> Tensor:
    x = a["input"]
    dims = tuple(range(x.ndim - len(a["normalized_shape"]), x.ndim))
    weight, count = _weights(x, masks, dims)
    eps = a.get("eps")
    square = (x.square() * weight).sum(dims, keepdim=True) / count
    return _affine(x * (square + (torch.finfo(x.dtype).eps if eps is None else eps)).rsqrt(), a.get("weight"), None)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _group_norm(a: dict[str, Any], masks: AxisMasks) -> Tensor:
    x, groups = a["input"], a["num_groups"]
    shape = [x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]]
    mask = masks[1] if masks[1] is not None else torch.ones(x.shape[1], dtype=torch.bool)
    kept = mask.view(1, groups, -1, *[1] * (x.ndim - 2)).to(x.dtype)
    y, dims = x.reshape(shape), tuple(range(2, x.ndim + 1))
    count = kept.sum(dims, keepdim=True) * (x[0, 0].numel())
    count = count.clamp(min=1)
    mean = (y * kept).sum(dims, keepdim=True) / count
    variance = ((y - mean).square() * kept).sum(dims, keepdim=True) / count
    normal = ((y - mean) / (variance + a.get("eps", 1e-5)).sqrt()).reshape(x.shape)
    view = [1, -1, *[1] * (x.ndim - 2)]
    return _affine(normal, *(t if (t := a.get(name)) is None else t.view(view) for name in ("weight", "bias")))


def _batch_norm(a: dict[str, Any], masks: AxisMasks) -> Tensor:
    x = a["input"]
    view = [1, -1, *[1] * (x.ndim - 2)]
    if a.get("training"):
        mean, variance = _moments(x, masks, tuple(d for d in range(x.ndim) if d != 1))
    else:
        mean, variance = a["running_mean"].view(view), a["running_var"].view(view)
    normal = (x - mean) / (variance + a["eps"]).sqrt()
    return _affine(normal, *(t if (t := a.get(name)) is None else t.view(view) for name in ("weight", "bias")))


def _mean(a: dict[str, Any], masks: AxisMasks) -> Tensor:
    x = a["self"]
    dims = axes(a.get("dim"), x.ndim)
    weight, count = _weights(x, masks, dims)
    return (x * weight).sum(dims, keepdim=bool(a.get("keepdim", False))) / count


def _variance(a: dict[str, Any], masks: AxisMasks) -> Tensor:
    x = a["self"]
    dims = axes(a.get("dim"), x.ndim)
    _, variance = _moments(x, masks, dims)
    _, count = _weights(x, masks, dims)
    correction = a.get("correction", 1 if a.get("unbiased", True) else 0)
    variance = variance * (count / (count - float(1 if correction is None else correction)))
    return variance if a.get("keepdim", False) else variance.squeeze(dims)


def _deviation(a: dict[str, Any], masks: AxisMasks) -> Tensor:
    return _variance(a, masks).sqrt()


STATISTICS: dict[str, Callable[[dict[str, Any], AxisMasks], Tensor]] = {
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "batch_norm": _batch_norm,
    "mean": _mean,
    "var": _variance,
    "std": _deviation,
}
