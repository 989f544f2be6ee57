"""The layout of one tensor dimension as text: `3*h0*d0 + e1`, sums of row-major products of groups and constants.

A number is an axis that stays whole, a name is a group of units. Plans carry layouts, so a cut needs no tracing, and
a reader sees what happens to each tensor. Everything here is pure arithmetic on kept units.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from tailor.errors import PlanError

Parsed = tuple[tuple["int | str | Parsed", ...], ...]  # type: ignore[misc]

NAME = re.compile(r"[A-Za-z_][\w.]*")
_TOKEN = re.compile(rf"\s*([0-9]+|{NAME.pattern}|[*+()])")


_LONGEST, _DEEPEST = 1 << 16, 32
_DIGITS = 12


@lru_cache(maxsize=65536)
def parse(text: str) -> Parsed:
    """The layout that `text` spells; a `PlanError` where it spells none."""
    tokens = _TOKEN.findall(text) if len(text) <= _LONGEST else []
    whole = sum(map(len, tokens)) == len(re.sub(r"\s", "", text))
    if not tokens or not whole or any(token[0].isdigit() and len(token) > _DIGITS for token in tokens):
        raise _no_layout(text)
    try:
        layout, end = _sum(tokens, 0, 0)
    except IndexError:
        raise _no_layout(text) from None
    if end != len(tokens):
        raise _no_layout(text)
    return layout


def _no_layout(text: str) -> PlanError:
    shown = text if len(text) <= 80 else text[:80] + "..."
    return PlanError(f"not a layout of axes: `{shown}`", hint="the plan is damaged; make it again with `tailor prune`")


def _sum(tokens: list[str], at: int, depth: int) -> tuple[Parsed, int]:
    if depth > _DEEPEST:
        raise IndexError
    segment, at = _product(tokens, at, depth)
    segments = [segment]
    while at < len(tokens) and tokens[at] == "+":
        segment, at = _product(tokens, at + 1, depth)
        segments.append(segment)
    return tuple(segments), at


def _product(tokens: list[str], at: int, depth: int) -> tuple[tuple, int]:
    factor, at = _factor(tokens, at, depth)
    factors = [factor]
    while at < len(tokens) and tokens[at] == "*":
        factor, at = _factor(tokens, at + 1, depth)
        factors.append(factor)
    return tuple(factors), at


def _factor(tokens: list[str], at: int, depth: int) -> tuple["int | str | Parsed", int]:
    head = tokens[at]
    if head == "(":
        inner, at = _sum(tokens, at + 1, depth + 1)
        if tokens[at] != ")":
            raise IndexError
        return inner, at + 1
    if head in "*+)":
        raise IndexError
    return (int(head) if head[0].isdigit() else head), at + 1


def names(text: str) -> set[str]:
    """The groups that occur in a layout."""
    return set(NAME.findall(text))


def extent(text: str, sizes: Mapping[str, int]) -> int:
    """Length of the dimension when each group has `sizes[group]` units."""
    return _extent(parse(text), sizes)


def _extent(layout: Parsed, sizes: Mapping[str, int]) -> int:
    return sum(prod(_factor_extent(factor, sizes) for factor in segment) for segment in layout)


def _factor_extent(factor: "int | str | Parsed", sizes: Mapping[str, int]) -> int:
    if isinstance(factor, int):
        return factor
    return sizes[factor] if isinstance(factor, str) else _extent(factor, sizes)


def keep_mask(text: str, kept: Mapping[str, Tensor]) -> Tensor:
    """True for every position that stays; `kept[group]` is a boolean vector over that group's units."""
    return _mask(parse(text), kept)


def _mask(layout: Parsed, kept: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([_segment_mask(segment, kept) for segment in layout])


def _segment_mask(segment: tuple, kept: Mapping[str, Tensor]) -> Tensor:
    mask = torch.ones(1, dtype=torch.bool)
    for factor in segment:
        mask = (mask[:, None] & _factor_mask(factor, kept)).flatten()
    return mask


def _factor_mask(factor: "int | str | Parsed", kept: Mapping[str, Tensor]) -> Tensor:
    if isinstance(factor, int):
        return torch.ones(factor, dtype=torch.bool)
    return kept[factor] if isinstance(factor, str) else _mask(factor, kept)


def keep_index(text: str, kept: Mapping[str, Tensor]) -> Tensor:
    """Positions that stay, ascending: what `index_select` takes."""
    return keep_mask(text, kept).nonzero().flatten()


def unit_of(text: str, group: str, sizes: Mapping[str, int]) -> Tensor:
    """For every position along the dimension, the unit of `group` it belongs to, or -1."""
    return _units(parse(text), group, sizes)


def _units(layout: Parsed, group: str, sizes: Mapping[str, int]) -> Tensor:
    return torch.cat([_segment_units(segment, group, sizes) for segment in layout])


def _segment_units(segment: tuple, group: str, sizes: Mapping[str, int]) -> Tensor:
    units = torch.full((1,), -1)
    for factor in segment:
        if isinstance(factor, tuple):
            inner = _units(factor, group, sizes)
        else:
            n = _factor_extent(factor, sizes)
            inner = torch.arange(n) if factor == group else torch.full((n,), -1)
        units = torch.maximum(units[:, None], inner).flatten()  # a group occurs once in a product
    return units
