"""Record what a module computes, with sizes as layouts: the fallback for modules whose code fixes sizes.

The module is exported by itself and aligned call by call with its stretch of the whole graph, whose dimensions are
known. Sizes in reshapes, splits, slices and norms become layouts (evaluated by the plan), lengths of the module's
inputs stay lengths of its inputs, so batch and image size remain free where the code left them free.
"""

from __future__ import annotations

import inspect
import operator
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from tailor.inputs import Example
from tailor.surgery import eval_mode
from tailor.tracing.graph.analyse import Analysis, operator_name
from tailor.tracing.graph.axes import Atom, Dim, expand, leaves, size
from tailor.tracing.graph.export import quiet
from tailor.tracing.graph.groups import spell
from tailor.tracing.graph.parts import SPLITS, inside, prefix
from tailor.tracing.graph.rules.call import Value, axis, named, parameters_of
from tailor.tracing.widths.plan import Recorded, Replay


class Unrecordable(Exception):  # noqa: N818
    """A module that cannot be recorded, and why; never leaves this package."""


Aligned = dict[Node, Node]  # node of the module's own graph -> node of the whole graph
Recording = tuple[ExportedProgram, Aligned]


def record(
    model: nn.Module, example: Example, analysis: Analysis, path: str, known: dict[type, ExportedProgram]
) -> Recording:
    """The module's own graph, aligned with the whole graph. Raises `Unrecordable`.

    `known` holds the graphs of classes recorded before: the same code at another place and width needs no new export.
    """
    module = model.get_submodule(path)
    if type(module) in known:
        try:
            return known[type(module)], _align(known[type(module)], analysis, path)
        except Unrecordable:
            pass  # other settings of the same class
    program = _export(model, example, path)
    aligned = _align(program, analysis, path)
    known[type(module)] = program
    return program, aligned


def _export(model: nn.Module, example: Example, path: str) -> ExportedProgram:
    """The graph of one submodule on the arguments that it gets in a run of the model."""
    module = model.get_submodule(path)
    if _writes_buffers(module):
        raise Unrecordable("the module's code replaces its own buffers, so a fresh model would have others")
    calls: list[tuple[tuple, dict]] = []
    handle = module.register_forward_pre_hook(lambda m, a, k: calls.append((a, k)), with_kwargs=True)
    try:
        with eval_mode(model), torch.no_grad():
            model(*example)
    finally:
        handle.remove()
    if len(calls) != 1:
        raise Unrecordable(f"the module runs {len(calls)} times")
    with eval_mode(module), torch.no_grad(), quiet():
        try:
            return torch.export.export(module, calls[0][0], calls[0][1] or None, strict=False)
        except Exception as error:  # the exporter raises everything
            raise Unrecordable(f"the module cannot be exported alone: {type(error).__name__}") from error


def _writes_buffers(module: nn.Module) -> bool:
    """Whether `forward` assigns to a buffer, as code does that computes a table when it first sees an image size."""
    try:
        source = inspect.getsource(type(module).forward)
    except (OSError, TypeError):
        return False
    return any(re.search(rf"self\.{name}\s*=[^=]", source) for name, _ in module.named_buffers(recurse=False))


def _align(program: ExportedProgram, analysis: Analysis, path: str) -> Aligned:
    whole = [node for node in analysis.program.graph.nodes if node.op == "call_function" and inside(node, path)]
    own = [node for node in program.graph.nodes if node.op == "call_function"]
    if [n.target for n in whole] != [n.target for n in own]:
        raise Unrecordable("the module's own graph differs from its part of the whole")
    aligned: Aligned = {}
    for mine, theirs in zip(own, whole, strict=True):
        aligned[mine] = theirs
        for a, b in zip(mine.all_input_nodes, theirs.all_input_nodes, strict=True):
            if aligned.setdefault(a, b) is not b:
                raise Unrecordable("the module's own graph differs from its part of the whole")
    return aligned


def template(recording: Recording, analysis: Analysis, names: Mapping[Atom, str], path: str) -> Replay:
    """The recorded calls with layouts for sizes, written `{"layout": "3*h"}`, that the plan turns into numbers."""
    return _Recorder(recording, analysis, names).replay(path)


class _Recorder:
    """Numbers the values of one module's stretch of the whole graph and rewrites its calls.

    The module's own graph only says what its inputs, tensors and outputs are; constants are those of the whole graph.
    """

    def __init__(self, recording: Recording, analysis: Analysis, names: Mapping[Atom, str]) -> None:
        self.program, self.aligned = recording
        self.analysis, self.names = analysis, names
        self.numbers: dict[Node, Any] = {}
        self.lengths: dict[Dim, dict[str, Any]] = {}

    def replay(self, path: str) -> Replay:
        count = self._inputs(path)
        steps = []
        for mine in self.program.graph.nodes:
            if mine.op != "call_function" or mine.meta.get("val") is None:
                continue  # an assertion of the exporter's has no result
            node = self.aligned[mine]
            if node.target is operator.getitem:
                reference = self.numbers[node.args[0]]  # type: ignore[index]
                self.numbers[node] = {"part": [reference["value"], node.args[1]]}
                continue
            steps.append(self._step(node))
            self.numbers[node] = {"value": count}
            count += 1
        results = next(iter(reversed(self.program.graph.nodes))).args[0]
        spec = self.program.call_spec.out_spec
        if spec is None or (spec.num_leaves != 1 and spec.type not in (tuple, list)) or len(results) != spec.num_leaves:
            raise Unrecordable("the module returns neither a tensor nor a tuple of tensors")
        return Replay(path, tuple(steps), tuple(self._result(r) for r in results), single=spec.is_leaf())

    def _result(self, mine: Any) -> Any:
        if not isinstance(mine, Node):
            raise Unrecordable("the module returns a constant")
        return self.numbers[self.aligned[mine]]

    def _inputs(self, path: str) -> int:
        """Number the module's tensor inputs, note their lengths, and name its parameters and buffers."""
        signature = self.program.graph_signature
        tensors = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        count = 0
        for mine in self.program.graph.nodes:
            if mine.op != "placeholder" or not isinstance(mine.meta.get("val"), Tensor):
                continue
            if mine.name in signature.inputs_to_lifted_tensor_constants:
                raise Unrecordable("the module makes a tensor from constants")
            node = self.aligned.get(mine)
            if mine.name not in tensors:
                count += 1
            if node is None:
                continue  # never used
            if mine.name in tensors:
                self.numbers[node] = {"tensor": tensors[mine.name]}
            elif node not in self.numbers:
                self.numbers[node] = {"value": count - 1}
                self._note_lengths(node, count - 1)
        return count

    def _note_lengths(self, node: Node, number: int) -> None:
        value = self._value(node)
        for d, dim in enumerate(value.dims if isinstance(value, Value) else ()):
            if size(dim) > 1:
                self.lengths.setdefault(expand(dim), {"length": [number, d]})

    def _value(self, node: Node) -> Any:
        return self.analysis.values.get(node)

    def _step(self, node: Node) -> Recorded:
        if not isinstance(node.target, torch._ops.OpOverload):
            raise Unrecordable(f"the module calls {node.target}")
        schema, given = parameters_of(node.target), named(node)
        name = f"{node.target._schema.name.split('::')[-1]}.{node.target._overloadname}"
        name, sized = self._sized(node, name, given)
        args = {key: self._argument(key, value) for key, value in given.items() if key not in sized} | sized
        if operator_name(node) in SPLITS:
            return Recorded(name, (args["self"], args["split_sizes"], args.get("dim", 0)), {})
        if operator_name(node) in ("dropout", "batch_norm"):
            args["train" if "train" in schema else "training"] = {"training": True}
        positional = [key for key in schema[: len(node.args)] if key in args]
        return Recorded(
            name, tuple(args[k] for k in positional), {k: a for k, a in args.items() if k not in positional}
        )

    def _argument(self, key: str, value: Any) -> Any:
        if isinstance(value, Node):
            return self.numbers[value]
        if isinstance(value, (list, tuple)):
            return [self._argument(key, item) for item in value]
        if isinstance(value, torch.dtype):
            return {"dtype": str(value)}
        if isinstance(value, torch.device):
            return {"device": True}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, (torch.layout, torch.memory_format)):
            return None
        raise Unrecordable(f"an argument of type {type(value).__name__}")

    def _sized(self, node: Node, name: str, named: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """The operator, and those of its arguments that are sizes."""
        base, value = operator_name(node), self._value(node)
        if base in SPLITS:
            d = axis(int(named.get("dim", 0)), len(value[0].dims))
            return "split_with_sizes.default", {
                "split_sizes": self._sizes([part.dims[d] for part in value], fill=False)
            }
        if base == "expand":
            old = self._value(node.args[0]).dims  # type: ignore[arg-type]
            old = [None] * (len(value.dims) - len(old)) + [expand(dim) for dim in old]
            return name, {
                "size": [-1 if o == expand(d) else self._sizes([d], fill=False)[0] for o, d in zip(old, value.dims)]
            }
        if base in ("view", "reshape", "_unsafe_view", "zeros", "ones", "full", "new_zeros", "new_ones"):
            key = next(k for k in ("size", "shape") if k in named)
            return name, {key: self._sizes(list(value.dims), fill=base in ("view", "reshape", "_unsafe_view"))}
        if base == "unflatten":
            d = axis(int(named["dim"]), len(value.dims))
            return name, {"sizes": self._sizes(list(value.dims[d : d + len(named["sizes"])]), fill=True)}
        if base in ("layer_norm", "rms_norm"):
            return name, {
                "normalized_shape": self._sizes(list(value.dims[-len(named["normalized_shape"]) :]), fill=False)
            }
        if base == "slice":
            return name, self._bounds(node, named)
        if base.startswith("conv") and named.get("groups", 1) != 1:
            transposed = "transpose" in base
            channel = (value if transposed else self._value(node.args[0])).dims[1]  # type: ignore[arg-type]
            weight = self._value(named["weight"])
            return name, {"groups": {"ratio": [spell(channel, self.names), spell(weight.dims[1], self.names)]}}
        return name, {}

    def _bounds(self, node: Node, named: Mapping[str, Any]) -> dict[str, Any]:
        value = self._value(node.args[0])  # type: ignore[arg-type]
        dim = value.dims[axis(int(named.get("dim", 0)), len(value.dims))]
        n, sized = size(dim), {}
        for key in ("start", "end"):
            bound = named.get(key)
            if isinstance(bound, int) and 0 < abs(bound) < n:
                before = prefix(dim, bound if bound > 0 else n + bound)
                if before is None and any(not leaf.pins for leaf in leaves(dim)):
                    raise Unrecordable("a slice that ends inside a part")
                if before is not None:
                    sized[key] = self._size(before)
        return sized

    def _sizes(self, dims: list[Dim], fill: bool) -> list[Any]:
        """Each length as number, layout or length of an input; at most one, with the batch in it, is left to `view`."""
        sizes = [self._size(dim) for dim in dims]
        unknown = [i for i, s in enumerate(sizes) if s is None]
        if len(unknown) > (1 if fill else 0):
            raise Unrecordable("a size that depends on the batch")
        return [-1 if s is None else s for s in sizes]

    def _size(self, dim: Dim) -> Any:
        if expand(dim) in self.lengths:
            return self.lengths[expand(dim)]
        if any("batch" in leaf.tags for leaf in leaves(dim)):
            return None
        text = spell(dim, self.names)
        return int(text) if text.isdigit() else {"layout": text}
