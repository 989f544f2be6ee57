"""Which weights carry the implicit `1/sqrt(head dim)` of a fused attention, so that it survives a smaller head dim.

The attention divides by the root of the head dim it sees. Multiplying the rows that make q (or k) by
sqrt(kept / dense) gives back the dense scale exactly. The rows are found by sending their numbers through the
layout operators between the weight and q.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor
from torch.fx import Node

from tailor.tracing.graph.analyse import Analysis, module_path, operator_name
from tailor.tracing.graph.axes import Atom, leaves, pin
from tailor.tracing.graph.groups import Carrier, spell
from tailor.tracing.graph.rules.call import Value, named

Ranges = tuple[tuple[int, int], ...]
Origin = tuple[Node, tuple[Node, ...]]  # the operator that makes the values, and the path from it to q

LAYOUT = {
    "view",
    "reshape",
    "permute",
    "transpose",
    "contiguous",
    "clone",
    "unbind",
    "select",
    "split",
    "chunk",
    "split_with_sizes",
    "slice",
    "flatten",
    "unflatten",
    "squeeze",
    "unsqueeze",
    "expand",
    "alias",
    "movedim",
    "getitem",
    "swapaxes",
    "tensor_split",
    "roll",
}
APART = {"unbind", "getitem", "select", "split", "chunk", "split_with_sizes", "slice", "tensor_split"}
PASS = LAYOUT | {
    "dropout",
    "to",
    "type_as",
    "_to_copy",
    "neg",
    "avg_pool2d",
    "pad",
    "upsample_bilinear2d",
    "max_pool2d",
    "mean",
}
JOIN = {"cat", "stack", "add", "sub"}
MAKERS = {
    "linear": "weight",
    "conv2d": "weight",
    "conv1d": "weight",
    "layer_norm": "weight",
    "rms_norm": "weight",
    "batch_norm": "weight",
}


def implicit(analysis: Analysis) -> list[Node]:
    """Fused attentions without an explicit scale whose head dim can shrink."""
    nodes = [n for n in analysis.program.graph.nodes if n.op == "call_function"]
    return [
        node
        for node in nodes
        if operator_name(node) == "scaled_dot_product_attention"
        and node.kwargs.get("scale") is None
        and any(not leaf.pins for leaf in leaves(_value(analysis, node.args[0]).dims[-1]))
    ]


def find_carriers(analysis: Analysis) -> dict[Node, list[tuple[str, Ranges]]]:
    """For each such attention, the rows to rescale; where neither q nor k has any, the head dim is pinned."""
    found: dict[Node, list[tuple[str, Ranges]]] = {}
    for node in implicit(analysis):
        for operand in node.args[:2]:
            rows = _rows(analysis, operand, node)  # type: ignore[arg-type]
            if rows is not None:
                found[node] = rows
                break
        else:
            why = f"the scale of the attention at `{module_path(node)}` cannot be kept"
            pin(_value(analysis, node.args[0]).dims[-1], why)
    return found


def spell_carriers(
    analysis: Analysis, found: Mapping[Node, list[tuple[str, Ranges]]], names: Mapping[Atom, str]
) -> tuple[Carrier, ...]:
    """The carriers with the layout of their head dim, once each."""
    result: dict[tuple[str, Ranges], Carrier] = {}
    for node, rows in found.items():
        head_dim = spell(_value(analysis, node.args[0]).dims[-1], names)
        if not head_dim.isdigit():
            for tensor, ranges in rows:
                result.setdefault((tensor, ranges), Carrier(tensor, ranges, head_dim))
    return tuple(result.values())


def _value(analysis: Analysis, node: object) -> Value:
    value = analysis.values[node]  # type: ignore[index]
    assert isinstance(value, Value)
    return value


def _rows(analysis: Analysis, operand: Node, attention: Node) -> list[tuple[str, Ranges]] | None:
    """Rows of the parameters that make `operand`, or None where it is not linear in such rows."""
    origins = _origins(operand, (), 0)
    if origins is None or not _exclusive(origins, attention):
        return None
    merged: dict[str, set[int]] = {}
    for node, path in origins:
        rows = _origin_rows(analysis, node, path)
        if rows is None:
            return None
        for tensor, ranges in rows:  # several paths (a rotation) may start at one row, which is rescaled once
            merged.setdefault(tensor, set()).update(row for start, stop in ranges for row in range(start, stop))
    return [(tensor, _as_ranges(torch.tensor(sorted(rows)))) for tensor, rows in merged.items()]


def _exclusive(origins: list[Origin], attention: Node) -> bool:
    """Whether the values go nowhere but into the attention (a bias made from q, say, would be rescaled with it)."""
    inside = {node for origin, path in origins for node in (origin, *path)} | {attention}
    for origin, path in origins:
        for node, following in pairwise((origin, *path, attention)):
            taken_apart = operator_name(following) in APART
            if not taken_apart and any(user not in inside for user in node.users):
                return False
    return True


def _origins(node: Node, path: tuple[Node, ...], depth: int) -> list[Origin] | None:
    if depth > 64:
        return None
    if node.op == "placeholder":
        return [(node, path)]
    name = operator_name(node)
    if name in MAKERS:
        return [(node, path)]
    if name in PASS:
        return _origins(node.args[0], (node, *path), depth + 1)  # type: ignore[arg-type]
    if name in ("mul", "div"):
        operand, factor = node.args[:2]
        if not isinstance(operand, Node) or (isinstance(factor, Node) and _from_input(factor)):
            return None  # a factor made from the input may depend on what is rescaled
        return _origins(operand, (node, *path), depth + 1)
    if name in JOIN:
        operands = node.args[0] if name in ("cat", "stack") else node.args[:2]
        found: list[Origin] = []
        for operand in operands:  # type: ignore[union-attr]
            more = _origins(operand, (node, *path), depth + 1) if isinstance(operand, Node) else None
            if more is None:
                return None
            found.extend(more)
        return found
    return None


def _from_input(node: Node) -> bool:
    """Whether the value depends on anything but parameters, buffers and constants."""
    seen, stack = {node}, [node]
    while stack:
        current = stack.pop()
        if current.op == "placeholder" and current.name[:2] not in ("p_", "b_", "c_"):
            return True
        stack += [n for n in current.all_input_nodes if n not in seen]
        seen.update(current.all_input_nodes)
    return False


def _origin_rows(analysis: Analysis, node: Node, path: tuple[Node, ...]) -> list[tuple[str, Ranges]] | None:
    rows = _marked(node, path)
    if rows is None:
        return None
    if node.op == "placeholder":
        source = _value(analysis, node).source
        if not source:
            return None
        return [(source, _as_ranges(rows))] if len(rows) else []
    arguments = named(node)
    weight = arguments.get("weight")
    if not isinstance(weight, Node) or not _value(analysis, weight).source:
        return None
    if not len(rows):
        return []  # an empty part, such as no prefix tokens before a rotation
    result = [(_value(analysis, weight).source, _as_ranges(rows))]
    bias = arguments.get("bias")
    if isinstance(bias, Node):
        more = _bias_rows(analysis, bias, rows)
        if more is None:
            return None
        result.extend(more)
    return result


def _marked(node: Node, path: tuple[Node, ...]) -> Tensor | None:
    """Which rows of the weight reach the end of the path: their numbers, sent along it. None where that is unclear."""
    shape = node.meta["val"].shape
    name = operator_name(node)
    channel = 1 if name in ("conv2d", "conv1d", "batch_norm") else len(shape) - 1
    channel = 0 if node.op == "placeholder" else channel
    view = [-1 if d == channel else 1 for d in range(len(shape))]
    marks: object = torch.arange(shape[channel]).view(view).expand(shape)
    current = node
    for position, step in enumerate(path):
        following = _followed(marks, current, step)
        if following is None:
            if any(operator_name(later) in APART for later in path[position:]):
                return None
            break
        marks, current = following, step
    parts = marks if isinstance(marks, (list, tuple)) else [marks]
    seen = torch.zeros(shape[channel] + 1, dtype=torch.bool)  # faster than sorting all marks; -1 is the last place
    for part in parts:
        seen[part.reshape(-1)] = True  # type: ignore[union-attr]
    return seen[:-1].nonzero().flatten()


def _followed(marks: object, current: Node, step: Node) -> object | None:
    """The marks after one operator: layouts move them, sums keep them, a `cat` puts others (-1) beside them."""
    name = operator_name(step)
    assert callable(step.target)  # an operator or `getitem`; never a name
    if name in LAYOUT:
        return step.target(*[marks if a is current else a for a in step.args], **step.kwargs)  # type: ignore[no-any-return]
    if name in ("cat", "stack"):
        operands: list[Node] = step.args[0]  # type: ignore[assignment]
        filled = [marks if a is current else torch.full(a.meta["val"].shape, -1) for a in operands]
        return step.target(filled, *step.args[1:], **step.kwargs)  # type: ignore[no-any-return]
    if name in ("add", "sub", "mul", "div", "neg", "dropout", "to", "type_as", "_to_copy") and isinstance(
        marks, Tensor
    ):
        return marks.expand(step.meta["val"].shape)
    return None


def _as_ranges(rows: Tensor) -> Ranges:
    """Consecutive runs of ascending numbers."""
    breaks = (rows.diff() != 1).nonzero().flatten().tolist()
    starts = [0, *(b + 1 for b in breaks)]
    stops = [*(b + 1 for b in breaks), len(rows)]
    return tuple((int(rows[a]), int(rows[b - 1]) + 1) for a, b in zip(starts, stops, strict=True))


def _bias_rows(analysis: Analysis, bias: Node, rows: Tensor) -> list[tuple[str, Ranges]] | None:
    """The same rows in a bias: one parameter, or several side by side."""
    if bias.op == "placeholder":
        source = _value(analysis, bias).source
        return [(source, _as_ranges(rows))] if source else None
    if operator_name(bias) != "cat":
        return None
    result: list[tuple[str, Ranges]] = []
    offset = 0
    for part in bias.args[0]:  # type: ignore[union-attr]
        n = int(part.meta["val"].shape[0])  # type: ignore[union-attr]
        inside = rows[(rows >= offset) & (rows < offset + n)] - offset
        offset += n
        if not len(inside):
            continue
        source = _value(analysis, part).source
        if not source:
            return None
        result.append((source, _as_ranges(inside)))
    return result
