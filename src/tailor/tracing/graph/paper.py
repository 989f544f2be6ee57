"""Which groups the published code of Isomorphic Pruning takes for isomorphic: by the edges of its dependency graph.

Two groups are of one class there if the same operators follow each other along their axis, in the same order, those
that only move data included: so attention in shifted windows, whose scores pass through a mask, is a class of its own.
It traced one image; where an attention has no other batch (a single window), its products need no copies, which shows
in the graph as well. Our own labels (`Group.kind`) see neither. Kernel sizes, strides and widths count in none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch.fx import Node

from tailor.tracing.graph.analyse import operator_name
from tailor.tracing.graph.axes import Atom, leaves
from tailor.tracing.graph.groups import Groups
from tailor.tracing.graph.labels import PRODUCTS
from tailor.tracing.graph.rules.call import Value
from tailor.tracing.graph.traced import Traced

ATTENTION = {*PRODUCTS, "scaled_dot_product_attention"}
LAYERS = {"linear", "conv1d", "conv2d", "conv3d"}
"""Where the walk to an attention's operands ends."""


def as_published(traced: Traced) -> Groups:
    """The groups with the published code's classes as their kinds; heads, which it ranks apart, are one class."""
    edges = _Edges(traced)
    kinds = {name: " ".join(edges.of(atom)) for atom, name in traced.names.items()}
    groups = tuple(
        replace(group, kind="heads" if group.label == "heads" else kinds[group.id]) for group in traced.groups.groups
    )
    return replace(traced.groups, groups=groups)


class _Edges:
    """The graph's operators as the dependency graph of one axis sees them."""

    def __init__(self, traced: Traced) -> None:
        self.analysis = traced.analysis
        self.nodes = [node for node in traced.analysis.program.graph.nodes if node.op == "call_function"]
        self.held = {node: self._atoms(node) for node in traced.analysis.program.graph.nodes}
        self.images = int(traced.analysis.program.example_inputs[0][0].shape[0])  # type: ignore[index]

    def of(self, atom: Atom) -> Iterator[str]:
        """The operators that hold the axis, each after those that it reads, in the graph's order."""
        for node in self.nodes:
            sources = [source for source in node.all_input_nodes if atom in self.held[source]]
            if not sources and atom not in self.held[node]:
                continue
            yield from (f"{self._name(source, atom)}>{self._name(node, atom)}" for source in sources)
            if operator_name(node) in ATTENTION:
                yield from (operator_name(other) for other in self._scores(node))
                yield self._copies(node)

    def _atoms(self, node: Node) -> set[Atom]:
        value = self.analysis.values.get(node)
        found = value if isinstance(value, list) else [value]
        return {leaf for item in found if isinstance(item, Value) for dim in item.dims for leaf in leaves(dim)}

    def _name(self, node: Node, atom: Atom) -> str:
        """The operator, or the axis of a parameter; a convolution of one channel a group is another layer's type."""
        if node.op == "placeholder":
            dims = self.analysis.values[node].dims
            return f"[{', '.join(str(d) for d, dim in enumerate(dims) if atom in leaves(dim))}]"
        name = operator_name(node)
        apart = name in LAYERS and len(node.args) > 6 and node.args[6] != 1
        return f"depthwise {name}" if apart else name

    def _scores(self, node: Node) -> list[Node]:
        """The operators between the layers before an attention and this product of it: masks and tables included."""
        found: set[Node] = set()
        open_ = list(node.all_input_nodes)
        while open_:
            current = open_.pop()
            if current.op != "call_function" or current in found or operator_name(current) in LAYERS:
                continue
            found.add(current)
            open_ += current.all_input_nodes
        return sorted(found)

    def _copies(self, node: Node) -> str:
        value = self.analysis.values[node]
        return "view" if isinstance(value, Value) and value.shape[0] == self.images else "copy"
