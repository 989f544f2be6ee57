"""Run the rules over an exported graph: every tensor in it gets its dimensions, in hundredths of a second."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from tailor.errors import ModelError
from tailor.tracing.graph.axes import fresh, pin, size, tag
from tailor.tracing.graph.rules import RULES
from tailor.tracing.graph.rules.call import Call, Use, Value, named


@dataclass(frozen=True, eq=False)
class Analysis:
    """The graph with the dimensions of every tensor. `values` maps a node to its `Value`, or a list of them."""

    program: ExportedProgram
    values: dict[Node, Any]
    sources: dict[str, Value]
    uses: dict[str, list[Use]]
    shared: dict[int, Value] = field(default_factory=dict)
    unknown: Counter[str] = field(default_factory=Counter)


def analyse(program: ExportedProgram, ignore: Collection[str] = ()) -> Analysis:
    """Unify the axes of the whole graph. `ignore` names modules or tensors of which nothing is to be removed."""
    analysis = Analysis(program, {}, {}, {})
    for node in program.graph.nodes:
        if node.op == "placeholder":
            analysis.values[node] = _placeholder(node, analysis, ignore)
        elif node.op == "call_function":
            analysis.values[node] = _call(node, analysis)
        elif node.op == "output":
            for value in _flatten(node.args, analysis.values):
                _pin_all(value, "an output of the model")
    return analysis


def module_path(node: Node) -> str:
    """The path of the module whose code made this node."""
    stack = node.meta.get("nn_module_stack")
    return str(list(stack.values())[-1][0]) if stack else ""


def operator_name(node: Node) -> str:
    """`add` for `aten.add_.Tensor`."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        name = target._schema.name.split("::")[-1]
        return name if name.startswith("__") else name.rstrip("_")
    return getattr(target, "__name__", str(target))


def _placeholder(node: Node, analysis: Analysis, ignore: Collection[str]) -> Value | None:
    signature = analysis.program.graph_signature
    tensor = node.meta.get("val")
    if not isinstance(tensor, Tensor):
        return None
    name = signature.inputs_to_parameters.get(node.name) or signature.inputs_to_buffers.get(node.name)
    integral = not tensor.dtype.is_floating_point
    stored = analysis.program.state_dict.get(name) if name else None
    if stored is not None and id(stored) in analysis.shared:  # a tied weight: one tensor, two names
        analysis.sources[str(name)] = analysis.shared[id(stored)]
        return analysis.shared[id(stored)]
    fixed = name in signature.inputs_to_buffers.values() or node.name in signature.inputs_to_lifted_tensor_constants
    value = Value(tuple(fresh(n) for n in tensor.shape), name or "", integral, fixed)
    if name is None:
        constant = node.name in signature.inputs_to_lifted_tensor_constants
        _pin_all(value, "a constant of the code" if constant else "an input of the model")
        if not constant and value.dims:
            tag(value.dims[0], "batch")
        return value
    if integral:
        _pin_all(value, f"`{name}` holds indices")
    if any(name == prefix or name.startswith(f"{prefix}.") for prefix in ignore):
        _pin_all(value, "left alone on request")
    analysis.sources[name] = value
    analysis.shared[id(stored)] = value
    return value


def _call(node: Node, analysis: Analysis) -> Any:
    if node.target is operator.getitem:
        source = analysis.values.get(node.args[0])  # type: ignore[arg-type]
        return source[node.args[1]] if isinstance(source, list) else None  # type: ignore[index]
    shapes, integral = _result_shapes(node)
    if shapes is None:
        return None
    call = Call(operator_name(node), _where(node), _arguments(node, analysis.values), shapes)
    _note_uses(call, analysis)
    rule = RULES.get(call.name)
    if rule is None:
        return _unknown(call, node, analysis)
    try:
        result = rule(call)
    except (AssertionError, KeyError, IndexError, ValueError, TypeError, AttributeError, StopIteration) as error:
        raise ModelError(
            f"operator `{call.name}` at {call.where} does not fit its rule: {type(error).__name__} {error}",
            hint="report the model's name; pruning by layers needs no graph",
        ) from error
    return _values(result, node, shapes, integral, all(value.fixed for value in call.tensors()))


def _values(result: Any, node: Node, shapes: tuple[tuple[int, ...], ...], integral: bool, fixed: bool) -> Any:
    many = isinstance(node.meta["val"], (tuple, list))
    lists = result if result and many and isinstance(result[0], list) else [result]
    for dims, shape in zip(lists, shapes, strict=True):
        found = tuple(size(dim) for dim in dims)
        if found != shape:
            raise ModelError(
                f"rule of `{operator_name(node)}` gave shape {found}, the graph says {shape} at {_where(node)}"
            )
    values = [Value(tuple(dims), integral=integral, fixed=fixed) for dims in lists]
    return values if many else values[0]


def _unknown(call: Call, node: Node, analysis: Analysis) -> Any:
    """No rule: every operand and result stays whole, and the operator is reported."""
    analysis.unknown[call.name] += 1
    for value in call.tensors():
        call.pin(value.dims, f"no rule for `{call.name}`")
    values = [Value(tuple(call.fixed(n, f"no rule for `{call.name}`") for n in shape)) for shape in call.shapes]
    return values if isinstance(node.meta["val"], (tuple, list)) else values[0]


def _arguments(node: Node, values: Mapping[Node, Any]) -> dict[str, Any]:
    """Arguments by their schema names, nodes replaced by what is known of them."""
    return {name: torch.fx.map_arg(argument, lambda n: values.get(n)) for name, argument in named(node).items()}


def _note_uses(call: Call, analysis: Analysis) -> None:
    for role, argument in call.args.items():
        for item in argument if isinstance(argument, (list, tuple)) else [argument]:
            if isinstance(item, Value) and item.source:
                analysis.uses.setdefault(item.source, []).append(Use(item.source, call.name, role))


def _result_shapes(node: Node) -> tuple[tuple[tuple[int, ...], ...] | None, bool]:
    result = node.meta.get("val")
    tensors = [result] if isinstance(result, Tensor) else result
    if not isinstance(tensors, (tuple, list)) or not tensors or not all(isinstance(t, Tensor) for t in tensors):
        return None, False
    return tuple(tuple(int(n) for n in t.shape) for t in tensors), not tensors[0].dtype.is_floating_point


def _where(node: Node) -> str:
    return f"`{module_path(node) or 'the model'}` ({node.name})"


def _flatten(args: Any, values: Mapping[Node, Any]) -> list[Value]:
    found: list[Value] = []

    def visit(node: Node) -> Node:
        value = values.get(node)
        found.extend(v for v in (value if isinstance(value, list) else [value]) if isinstance(v, Value))
        return node

    torch.fx.map_arg(args, visit)
    return found


def _pin_all(value: Value, why: str) -> None:
    for dim in value.dims:
        pin(dim, why)
