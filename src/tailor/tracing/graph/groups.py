"""Groups: the axes of tensors that must shrink together, named, labelled and explained, read off an analysis."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Literal

import torch
from torch import Tensor

from tailor.tracing.graph.analyse import Analysis
from tailor.tracing.graph.axes import Atom, Dim, expand, find, leaves, size
from tailor.tracing.widths.layout import unit_of
from tailor.tracing.widths.plan import Replay

Label = Literal["embedding", "heads", "head dim", "hidden"]


@dataclass(frozen=True)
class Member:
    """One dimension of a parameter or buffer in which a group's units lie; `uses` are the operators that read it."""

    tensor: str
    dim: int
    uses: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """Axes that lose the same units. Groups of one `kind` are isomorphic: the same operators read the same dims."""

    id: str
    label: Label
    size: int
    kind: str
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Pinned:
    """A dimension of a parameter of which nothing can be removed, and why."""

    tensor: str
    dim: int
    size: int
    reason: str


@dataclass(frozen=True)
class Attribute:
    """An attribute of a module that follows the weights: its layouts (several for a tuple), and their form.

    `size` is the extent of the layout, `sizes` a tuple of them, `ratio` first by second, `rsqrt` its inverse root.
    """

    module: str
    name: str
    layouts: tuple[str, ...]
    form: Literal["size", "sizes", "ratio", "rsqrt"] = "size"


@dataclass(frozen=True)
class Carrier:
    """Rows of a tensor that carry the attention's scale: they grow by sqrt(kept / dense) of the head-dim layout."""

    tensor: str
    ranges: tuple[tuple[int, int], ...]
    head_dim: str


@dataclass(frozen=True)
class Groups:
    """All that can be removed from a model, as data. `layouts` holds the tensors that have something to remove.

    `replays` are the modules to run as recorded calls, because their code fixes sizes; their sizes are layouts still.
    Groups in one of `ties` must keep equally many units (not the same): the model's code cuts them apart by number.
    """

    groups: tuple[Group, ...]
    layouts: Mapping[str, tuple[str, ...]]
    attributes: tuple[Attribute, ...]
    carriers: tuple[Carrier, ...]
    pinned: tuple[Pinned, ...]
    unknown: tuple[str, ...]
    ties: tuple[tuple[str, ...], ...] = ()
    replays: tuple[Replay, ...] = ()

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Units of each group."""
        return {group.id: group.size for group in self.groups}

    def __getitem__(self, id: str) -> Group:
        return next(group for group in self.groups if group.id == id)


def spell(dim: Dim, names: Mapping[Atom, str]) -> str:
    """The dimension as a layout: free atoms by their group's name, pinned ones by their size."""
    return " + ".join(_spell_product(segment, names) for segment in _merge_constants(expand(dim), names))


def _spell_product(segment: tuple[Atom, ...] | int, names: Mapping[Atom, str]) -> str:
    if isinstance(segment, int):
        return str(segment)
    factors: list[str] = []
    constant = 1
    for atom in segment:
        text = _spell_atom(atom, names)
        if text.isdigit():
            constant *= int(text)
            continue
        if constant > 1:
            factors.append(str(constant))
            constant = 1
        factors.append(text)
    if constant > 1 or not factors:
        factors.append(str(constant))
    return "*".join(factors)


def _spell_atom(atom: Atom, names: Mapping[Atom, str]) -> str:
    root = find(atom)
    if root.parts is None:
        return names.get(root, str(root.size))
    text = spell(root.parts, names)
    return text if text.isdigit() else f"({text})"


def _merge_constants(dim: Dim, names: Mapping[Atom, str]) -> list[tuple[Atom, ...] | int]:
    """Neighbouring parts of which nothing goes become one number."""
    merged: list[tuple[Atom, ...] | int] = []
    for segment in dim:
        if any(leaf in names for leaf in leaves((segment,))):
            merged.append(segment)
        elif merged and isinstance(merged[-1], int):
            merged[-1] += size((segment,))
        else:
            merged.append(size((segment,)))
    return merged


def free_atoms(analysis: Analysis) -> dict[Atom, list[tuple[str, int]]]:
    """Atoms without a pin that lie in a parameter or buffer, with the places where they lie, in graph order."""
    found: dict[Atom, list[tuple[str, int]]] = {}
    for name, value in analysis.sources.items():
        for position, dim in enumerate(value.dims):
            for atom in dict.fromkeys(leaves(dim)):
                if not atom.pins:
                    found.setdefault(atom, []).append((name, position))
    return found


def name_atoms(atoms: Mapping[Atom, list[tuple[str, int]]]) -> dict[Atom, str]:
    """A readable, unique name for each group: the module that holds all of its members, and its label."""
    names: dict[Atom, str] = {}
    taken: Counter[str] = Counter()
    for atom, places in atoms.items():
        path = ".".join(_common([tensor.split(".")[:-1] for tensor, _ in places]))
        name = re.sub(r"[^\w.]", "_", f"{path}.{label_of(atom)}".strip(".").replace(" ", "_"))
        name = f"model.{name}" if name[0].isdigit() else name
        taken[name] += 1
        names[atom] = name if taken[name] == 1 else f"{name}_{taken[name]}"
    return names


def _common(paths: list[list[str]]) -> list[str]:
    """The longest beginning that all paths share."""
    shared = zip(*paths)  # as long as the shortest
    return [parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, shared)]


def label_of(atom: Atom) -> Label:
    """The part a group plays, from what the operators said of it."""
    if "heads" in atom.tags:
        return "heads"
    if atom.tags & {"head dim", "value dim"}:
        return "head dim"
    return "embedding" if "residual" in atom.tags else "hidden"


def build_groups(
    analysis: Analysis, atoms: Mapping[Atom, list[tuple[str, int]]], names: Mapping[Atom, str]
) -> tuple[Group, ...]:
    """The groups, in graph order."""
    uses = {
        tensor: tuple(sorted({f"{use.operator}.{use.role}" for use in found}))
        for tensor, found in analysis.uses.items()
    }
    result = []
    for atom, places in atoms.items():
        members = tuple(Member(tensor, dim, uses.get(tensor, ())) for tensor, dim in places)
        result.append(Group(names[atom], label_of(atom), atom.size, _kind(members), members))
    return tuple(result)


def _kind(members: Iterable[Member]) -> str:
    counts = Counter(f"{'/'.join(member.uses)}[{member.dim}]" for member in members)
    return ", ".join(f"{n} {name}" for name, n in sorted(counts.items()))


def operators(group: Group) -> dict[str, int]:
    """How many operators of each type work along the group's axis: `{"linear in": 13, "linear out": 12}`, most first.

    What makes groups isomorphic, as Fig. 2 of Isomorphic Pruning draws it: the output and the input side of a layer are
    two; biases and statistics go with their operator; of others than layers the operand and its dim are named.
    """
    counts: Counter[str] = Counter()
    for member in group.members:
        for use in member.uses:
            operator, _, role = use.partition(".")
            if role == "weight" and operator.startswith(("linear", "conv")):
                transposed = "transpose" in operator
                counts[f"{operator} {'in' if (member.dim == 1) != transposed else 'out'}"] += 1
            elif role == "weight":
                counts[operator] += 1
            elif role not in ("bias", "running_mean", "running_var"):
                counts[f"{operator} {role}[{member.dim}]"] += 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def pinned_dims(analysis: Analysis, names: Mapping[Atom, str]) -> tuple[Pinned, ...]:
    """Dimensions of parameters and buffers (size above 1) of which nothing goes, with the first reason."""
    result = []
    for name, value in analysis.sources.items():
        for position, dim in enumerate(value.dims):
            reasons = [reason for leaf in leaves(dim) for reason in leaf.pins]
            if reasons and not any(leaf in names for leaf in leaves(dim)):
                result.append(Pinned(name, position, size(dim), reasons[0]))
    return tuple(result)


def unit_sums(groups: Groups, group: str, values: Mapping[str, Tensor]) -> dict[tuple[str, int], Tensor]:
    """For each member `(tensor, dim)` of the group found in `values`, the sum over the slice of each unit, `(units,)`.

    `values` holds one number per weight under the parameters' names, such as |w * dL/dw|.
    """
    found = groups[group]
    sums: dict[tuple[str, int], Tensor] = {}
    for member in found.members:
        if member.tensor not in values:
            continue
        value = values[member.tensor]
        positions = value.sum([d for d in range(value.ndim) if d != member.dim]) if value.ndim > 1 else value
        units = unit_of(groups.layouts[member.tensor][member.dim], group, groups.sizes).to(value.device)
        inside = units >= 0  # parts of a `cat` that belong to other groups
        total = torch.zeros(found.size, dtype=value.dtype, device=value.device)
        sums[member.tensor, member.dim] = total.index_add_(0, units[inside], positions[inside])
    return sums
