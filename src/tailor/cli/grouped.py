"""The groups of a model for a person: what is the same in repeated blocks becomes one line with a count."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

_NODE = re.compile(r" \(\w+\)$")
_PATH = re.compile(r"`([\w.]+)`")
_NAMED = 3
"""Tensors of a group that are named; the others are counted."""


def group_lines(found: dict[str, Any]) -> list[str]:
    """A line on the whole, then a table of what can shrink and one of what cannot."""
    groups, pinned = found["groups"], found["pinned"]
    lines = [
        f"{found['name']} at {'x'.join(map(str, found['input_size']))}: {len(groups)} groups, "
        f"{found['pinned_percent']:.2g} % of {found['params']:,} parameters pinned",
        "",
        *_lines(("group", "count", "part", "units", "tensors"), _group_rows(groups)),
        "",
        *_lines(("ranked together", "count", "units", "operators along the axis"), _kind_rows(groups)),
    ]
    if found["ties"]:
        lines += ["", *_lines(("keep equally many units", "count", ""), _tie_rows(found["ties"]))]
    if found["recorded"]:
        kinds = sorted({one["class"] for one in found["recorded"]})
        lines += ["", f"run as recorded calls, because their code fixes sizes: {', '.join(kinds)}"]
    if found["unknown"]:
        lines += ["", f"operators without a rule: {', '.join(found['unknown'])}"]
    return [*lines, "", *_lines(("pinned", "count", "dims", "reason"), _pinned_rows(pinned))]


def _tie_rows(ties: Sequence[Sequence[str]]) -> Iterable[tuple[str, ...]]:
    folded: dict[tuple[str, ...], list[Sequence[str]]] = defaultdict(list)
    for tie in ties:
        folded[tuple(map(_blind, tie))].append(tie)
    for same in folded.values():
        yield " = ".join(fold(column) for column in zip(*same)), str(len(same)), ""


def _group_rows(groups: Sequence[dict[str, Any]]) -> Iterable[tuple[str, ...]]:
    folded: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for group in groups:
        members = tuple(f"{_blind(m['tensor'])}[{m['dim']}]" for m in group["members"])
        folded[_blind(group["id"]), group["label"], group["size"], members].append(group)
    for (_, label, size, _), same in folded.items():
        where = fold([group["id"] for group in same])
        yield where, str(len(same)), label, f"{size:,}", _tensors(same)


def _kind_rows(groups: Sequence[dict[str, Any]]) -> Iterable[tuple[str, ...]]:
    """Isomorphic groups as one line: how many there are, the units of all, and the operators of each."""
    alike: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for group in groups:
        alike[group["label"], group["kind"]].append(group)
    for (label, _), same in alike.items():
        counts = ", ".join(f"{count} {name}" for name, count in same[0]["operators"].items())
        yield label, str(len(same)), f"{sum(group['size'] for group in same):,}", counts


def _tensors(same: Sequence[dict[str, Any]]) -> str:
    """The tensors in which the units lie: those of repeated blocks once, with their number."""
    members = [_relative(group) for group in same]
    if len(same) > 1:
        names = [fold(column) for column in zip(*members)]
    else:
        alike: dict[str, list[str]] = defaultdict(list)
        for name in members[0]:
            alike[_blind(name)].append(name)
        names = [fold(some) + (f" x{len(some)}" if len(some) > 1 else "") for some in alike.values()]
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED] if rest > 1 else names) + (f" and {rest} more" if rest > 1 else "")


def _relative(group: dict[str, Any]) -> list[str]:
    """`qkv.weight[0]` in the group `blocks.3.attn.heads`: the dims that shrink, named from that module on."""
    holder = group["id"].rpartition(".")[0] + "."
    names = [f"{m['tensor']}[{m['dim']}]" for m in group["members"]]
    return [n.removeprefix(holder) for n in names] if all(n.startswith(holder) for n in names) else names


def _pinned_rows(pinned: Sequence[dict[str, Any]]) -> Iterable[tuple[str, ...]]:
    dims: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one in pinned:
        dims[one["tensor"], _reason(one)].append(f"{one['dim']}:{one['size']}")
    folded: dict[Any, list[tuple[str, str]]] = defaultdict(list)
    for (tensor, reason), places in dims.items():
        folded[_blind(tensor), _blind(reason), tuple(places)].append((tensor, reason))
    for (_, _, places), same in folded.items():
        tensors, reasons = zip(*same)
        yield fold(tensors), str(len(same)), " ".join(places), fold(reasons)


def _reason(one: dict[str, Any]) -> str:
    """The reason without the graph's node, and without the place where that is the tensor's own module."""
    reason = _NODE.sub("", one["reason"])
    return reason.removesuffix(f" at `{one['tensor'].rpartition('.')[0]}`")


def _blind(text: str) -> str:
    """The text with the numbers of blocks left out."""
    return re.sub(r"(?<![\w\[])\d+(?![\w\]])", "*", text)


def fold(names: Sequence[str]) -> str:
    """`blocks.0.mlp`, `blocks.1.mlp` -> `blocks.*.mlp`: a number stays where all have it."""
    pieces = [re.split(r"(\d+)", name) for name in names]
    if len({len(piece) for piece in pieces}) > 1:
        return names[0]
    return "".join(column[0] if len(set(column)) == 1 else "*" for column in zip(*pieces))


def _lines(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Aligned columns; the last takes what it needs, so that lines can be searched and cut."""
    table = [heads, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(heads) - 1)]
    numbers = [head in ("count", "units") for head in heads]
    return ["  ".join([*(_cell(*c) for c in zip(row, widths, numbers)), row[-1]]) for row in table]


def _cell(text: str, width: int, number: bool) -> str:
    return text.rjust(width) if number else text.ljust(width)
