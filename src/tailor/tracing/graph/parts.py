"""Where code cuts an axis into parts: attributes that hold the sizes, and parts that must stay equally long.

`x.split(self.sizes)` needs `sizes` refreshed. `x.chunk(2)` cuts at half of whatever survives, so its parts must keep
equal counts (a tie) though not the same units; where counts cannot be tied one to one, the parts are pinned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from itertools import accumulate

from torch import nn
from torch.fx import Node

from tailor.tracing.graph.analyse import Analysis, module_path, operator_name
from tailor.tracing.graph.axes import Atom, Dim, Segment, expand, find, leaves, length, size
from tailor.tracing.graph.groups import Attribute, spell
from tailor.tracing.graph.rules.call import axis, named

SPLITS = {"split", "chunk", "split_with_sizes", "tensor_split", "unsafe_split", "unsafe_chunk"}


def split_nodes(analysis: Analysis) -> Iterator[tuple[Node, list[Dim]]]:
    """Every split with the dimensions of its parts."""
    for node in analysis.program.graph.nodes:
        if node.op == "call_function" and operator_name(node) in SPLITS:
            values = analysis.values[node]
            d = axis(int(named(node).get("dim", 0)), len(values[0].dims))  # type: ignore[call-overload]
            yield node, [value.dims[d] for value in values]


def tie_parts(
    model: nn.Module, analysis: Analysis, recorded: Collection[str] = ()
) -> tuple[list[tuple[Atom, ...]], dict[str, list[Dim]]]:
    """Atoms that must keep equally many units, because code cuts them apart by number; what cannot be tied, by module.

    Modules in `recorded` do not run their code, so they ask nothing.
    """
    ties: list[tuple[Atom, ...]] = []
    stuck: dict[str, list[Dim]] = {}
    for node, parts in split_nodes(analysis):
        if any(inside(node, path) for path in recorded):
            continue
        if _holder(model, node, [size(part) for part in parts]) is not None:
            continue  # an attribute gives every size, so each part is free
        for group in _equal_lengths(parts).values():
            if operator_name(node) == "split_with_sizes" and len(group) == 1:
                continue
            tied = _tie(group)
            if tied is None or (operator_name(node) != "split_with_sizes" and len(group) != len(parts)):
                stuck.setdefault(module_path(node).split("@")[0], []).extend(parts)
            elif tied:
                ties.append(tied)
    return _merged(ties), stuck


def inside(node: Node, path: str) -> bool:
    """Whether the node was made while this module ran."""
    return any(str(entry[0]).split("@")[0] == path for entry in node.meta.get("nn_module_stack", {}).values())


def _equal_lengths(parts: list[Dim]) -> dict[int, list[Dim]]:
    found: dict[int, list[Dim]] = {}
    for part in parts:
        found.setdefault(size(part), []).append(part)
    return found


def _tie(parts: list[Dim]) -> tuple[Atom, ...] | None:
    """The free atoms in which the parts differ, one each; empty where they are equal, None where it is not one each."""
    products = [expand(part) for part in parts]
    if all(product == products[0] for product in products):
        return ()
    if any(len(product) != 1 for product in products):
        return None if any(not leaf.pins for product in products for leaf in leaves(product)) else ()
    common = Counter(products[0][0])
    for product in products[1:]:
        common &= Counter(product[0])
    differing = [list((Counter(product[0]) - common).elements()) for product in products]
    if not any(_free(atom) for atoms in differing for atom in atoms):
        return ()
    if any(len(atoms) != 1 or not _free(atoms[0]) for atoms in differing):
        return None
    return tuple(dict.fromkeys(atoms[0] for atoms in differing))


def _free(atom: Atom) -> bool:
    root = find(atom)
    return root.parts is None and not root.pins


def _merged(ties: list[tuple[Atom, ...]]) -> list[tuple[Atom, ...]]:
    """Ties that share an atom are one tie."""
    merged: list[dict[Atom, None]] = []
    for tie in ties:
        current = dict.fromkeys(tie)
        rest = []
        for other in merged:
            if current.keys() & other.keys():
                current = other | current
            else:
                rest.append(other)
        merged = [*rest, current]
    return [tuple(tie) for tie in merged]


def part_attributes(
    path: str, module: nn.Module, nodes: list[Node], analysis: Analysis, names: Mapping[Atom, str]
) -> Iterator[Attribute]:
    """Attributes of the module that hold sizes of its splits or bounds of its slices."""
    for node in nodes:
        name = operator_name(node)
        if name in SPLITS:
            yield from _split_attributes(path, module, node, analysis, names)
        elif name in ("slice", "narrow"):
            yield from _slice_attributes(path, module, node, analysis, names)


def _split_attributes(
    path: str, module: nn.Module, node: Node, analysis: Analysis, names: Mapping[Atom, str]
) -> Iterator[Attribute]:
    values = analysis.values[node]
    d = axis(int(named(node).get("dim", 0)), len(values[0].dims))  # type: ignore[call-overload]
    parts = [value.dims[d] for value in values]
    holder = _attribute(module, [size(part) for part in parts])
    if holder is not None:
        yield Attribute(path, holder, tuple(spell(part, names) for part in parts), "sizes")
    if operator_name(node) != "chunk":
        for part in parts:
            yield from _integer(path, module, size(part), part, names)


def _slice_attributes(
    path: str, module: nn.Module, node: Node, analysis: Analysis, names: Mapping[Atom, str]
) -> Iterator[Attribute]:
    arguments = named(node)
    value = analysis.values[node.args[0]]  # type: ignore[index]
    dim = value.dims[axis(int(arguments.get("dim", 0)), len(value.dims))]  # type: ignore[call-overload]
    for bound in (arguments.get("start"), arguments.get("end")):
        if isinstance(bound, int):
            before = prefix(dim, bound if bound >= 0 else size(dim) + bound)
            if before is not None:
                yield from _integer(path, module, size(before), before, names)
                after = expand(dim)[len(before) :]
                yield from _integer(path, module, size(after), after, names)


def _integer(path: str, module: nn.Module, n: int, dim: Dim, names: Mapping[Atom, str]) -> Iterator[Attribute]:
    for name, value in vars(module).items():
        if type(value) is int and value == n and n > 1:
            yield Attribute(path, name, (spell(dim, names),))


def prefix(dim: Dim, n: int) -> Dim | None:
    """The parts of a dimension before position `n`, or None where no part ends there."""
    expanded: tuple[Segment, ...] = expand(dim)
    ends = list(accumulate((length(segment) for segment in expanded), initial=0))
    return expanded[: ends.index(n)] if 0 < n < ends[-1] and n in ends else None


def _holder(model: nn.Module, node: Node, sizes: list[int]) -> str | None:
    return _attribute(model.get_submodule(module_path(node).split("@")[0]), sizes)


def _attribute(module: nn.Module, sizes: list[int]) -> str | None:
    """The module's attribute that lists these sizes."""
    for name, value in vars(module).items():
        if isinstance(value, (tuple, list)) and list(value) == sizes:
            return name
    return None
