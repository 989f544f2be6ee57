"""Which axes are heads and head dims where the attention is written out: `softmax(q @ k) @ v`."""

from __future__ import annotations

from torch.fx import Node

from tailor.tracing.graph.analyse import Analysis, operator_name
from tailor.tracing.graph.axes import tag
from tailor.tracing.graph.rules.call import Value

PRODUCTS = {"matmul", "bmm", "einsum", "baddbmm"}
BETWEEN = {
    "add",
    "sub",
    "mul",
    "div",
    "masked_fill",
    "dropout",
    "view",
    "reshape",
    "softmax",
    "permute",
    "transpose",
    "contiguous",
    "clone",
    "to",
    "linear",
    "conv2d",
    "where",
    "clamp",
    "alias",
    "unsqueeze",
}
_REACH = 16  # operators between the product and its softmax, bias tables and masks included


def tag_attention(analysis: Analysis) -> None:
    """Tag the batch axis of `q @ k` before each softmax as heads, its contraction and the columns of v as head dims."""
    for node in analysis.program.graph.nodes:
        if node.op == "call_function" and operator_name(node) in ("softmax", "_softmax"):
            scores = _product(node, forward=False)
            values = _product(node, forward=True)
            if scores is not None:
                _tag(analysis, scores[0], values)


def _tag(analysis: Analysis, scores: Node, values: tuple[Node, Node] | None) -> None:
    q = analysis.values.get(scores.args[0])  # type: ignore[arg-type]
    if not isinstance(q, Value) or len(q.dims) < 3:
        return
    if len(q.dims) >= 4:
        tag(q.dims[-3], "heads")
    tag(q.dims[-1], "head dim")
    if values is None:
        return
    product, weights = values
    a, b = (analysis.values.get(operand) for operand in product.args[:2])  # type: ignore[arg-type]
    v, d = (b, -1) if product.args[0] is weights else (a, -2)
    if isinstance(v, Value) and len(v.dims) == len(q.dims):
        tag(v.dims[d], "value dim")


def _product(node: Node, forward: bool) -> tuple[Node, Node] | None:
    """The nearest matrix product before or after a softmax, and the operand it was reached by."""
    current = node
    for _ in range(_REACH):
        following = list(current.users) if forward else [a for a in current.args if isinstance(a, Node)]
        if not following or following[0].op != "call_function":
            return None
        previous, current = current, following[0]
        name = operator_name(current)
        if name in PRODUCTS:
            return (current, previous) if len(current.args) > 1 else None
        if name not in BETWEEN:
            return None
    return None
