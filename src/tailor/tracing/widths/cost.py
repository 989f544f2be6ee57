"""MACs and parameters of a cut model from its counts of units alone: products of layouts, no model and no surgery.

Every matrix product of the graph costs a product of axes, and every axis is a layout; so a search over widths prices a
candidate in about a millisecond. Counted as `measure.count` counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import nn
from torch.fx import Node

from tailor.tracing.graph.analyse import Analysis, module_path, operator_name
from tailor.tracing.graph.axes import Dim, size
from tailor.tracing.graph.groups import spell
from tailor.tracing.graph.rules.call import Value, parameters_of
from tailor.tracing.graph.traced import Traced
from tailor.tracing.widths.layout import extent, names


@dataclass(frozen=True)
class Cost:
    """A sum of products of layouts, each with a factor; `per` divides it (the images of the traced example)."""

    terms: tuple[tuple[int, tuple[str, ...]], ...]
    per: int = 1

    def at(self, counts: Mapping[str, int]) -> int:
        """The amount when each group has `counts[group]` units."""
        known: dict[str, int] = {}
        total = 0
        for factor, layouts in self.terms:
            for layout in layouts:
                if layout not in known:
                    known[layout] = extent(layout, counts)
                factor *= known[layout]
            total += factor
        return total // self.per


def everywhere(name: str) -> bool:
    """All of a model counts."""
    return True


def parameter_cost(model: nn.Module, traced: Traced, counted: Callable[[str], bool] = everywhere) -> Cost:
    """The parameters of `model` whose names are `counted`, a tied weight once."""
    layouts = traced.groups.layouts
    whole = {name: tuple(str(n) for n in p.shape) for name, p in model.named_parameters() if counted(name)}
    return Cost(_collected([layouts.get(name, sizes) for name, sizes in whole.items()]))


def mac_cost(traced: Traced, counted: Callable[[str], bool] = everywhere) -> Cost:
    """The MACs of one image through the traced model, in modules whose paths are `counted`."""
    analysis, found = traced.analysis, _Products(traced.analysis)
    images = int(analysis.program.example_inputs[0][0].shape[0])  # type: ignore[index]
    products: list[tuple[str, ...]] = []
    for node, dims in found.all():
        if not counted(module_path(node).split("@")[0]):
            continue
        spelled = tuple(spell(dim, traced.names) for dim in dims)
        # Positions that the code makes anew for each image lead with them and see none.
        for_each = found.sees_images(node) or size(dims[0]) == images
        products += [spelled] * (1 if for_each else images)
    return Cost(_collected(products), images)


def _collected(products: Iterable[tuple[str, ...]]) -> tuple[tuple[int, tuple[str, ...]], ...]:
    """Equal products once, numbers multiplied out."""
    factors: Counter[tuple[str, ...]] = Counter()
    for product in products:
        factors[tuple(sorted(f for f in product if names(f)))] += prod(extent(f, {}) for f in product if not names(f))
    return tuple((factor, product) for product, factor in factors.items())


class _Products:
    """The matrix products of a graph, each as the dimensions whose product is its MACs."""

    def __init__(self, analysis: Analysis) -> None:
        self.values = analysis.values
        self.nodes = [n for n in analysis.program.graph.nodes if n.op == "call_function"]
        inputs = set(analysis.program.graph_signature.user_inputs)
        self.seen = {n for n in analysis.program.graph.nodes if n.op == "placeholder" and n.name in inputs}
        for node in self.nodes:
            if self.seen.intersection(node.all_input_nodes):
                self.seen.add(node)

    def sees_images(self, node: Node) -> bool:
        """Whether the images flow into it: what does not is computed once, however many they are."""
        return node in self.seen

    def all(self) -> Iterable[tuple[Node, tuple[Dim, ...]]]:
        """Every product, in graph order; an attention is two."""
        for node in self.nodes:
            match operator_name(node):
                case "linear":
                    yield node, (*self._dims(node, 0), self._dims(node, 1)[0])
                case "matmul" | "mm" | "bmm" | "mv" | "dot" | "__matmul__":
                    yield node, (*self._out(node), self._dims(node, 0)[-1])
                case "addmm" | "baddbmm" | "addmv":
                    yield node, (*self._out(node), self._dims(node, 1)[-1])
                case "einsum":
                    yield node, self._letters(node)
                case "conv1d" | "conv2d" | "conv3d" | "convolution":
                    out = self._out(node)
                    yield node, (out[0], *out[2:], *self._dims(node, 1))
                case "conv_transpose1d" | "conv_transpose2d" | "conv_transpose3d":
                    x = self._dims(node, 0)
                    yield node, (x[0], *x[2:], *self._dims(node, 1))
                case "scaled_dot_product_attention":
                    q, k, v = (self._dims(node, i) for i in range(3))
                    yield node, (*q, k[-2])
                    yield node, (*q[:-1], k[-2], v[-1])

    def _out(self, node: Node) -> tuple[Dim, ...]:
        value = self.values[node]
        return value.dims if isinstance(value, Value) else ()

    def _dims(self, node: Node, argument: int) -> tuple[Dim, ...]:
        value = self.values[self._argument(node, argument)]
        assert isinstance(value, Value)
        return value.dims

    @staticmethod
    def _argument(node: Node, position: int) -> Any:
        """An argument, however it was passed."""
        if position < len(node.args):
            return node.args[position]
        return node.kwargs[parameters_of(node.target)[position]]

    def _letters(self, node: Node) -> tuple[Dim, ...]:
        letters = str(self._argument(node, 0)).replace(" ", "").split("->")[0].split(",")
        found: dict[str, Dim] = {}
        for names_, operand in zip(letters, self._argument(node, 1)):
            found |= dict(zip(names_, self.values[operand].dims))
        return tuple(found.values())
