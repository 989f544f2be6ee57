"""From the units to keep to a width plan: pure arithmetic on the groups, no model and no graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

from tailor.errors import PlanError, nearest
from tailor.tracing.graph.groups import Attribute, Groups
from tailor.tracing.widths.layout import NAME, extent, names
from tailor.tracing.widths.plan import Cut, Recorded, Replay, Rescale, Setting, Slice, WidthPlan


def plan_widths(groups: Groups, keep: Mapping[str, Sequence[int]]) -> WidthPlan:
    """The plan that keeps `keep[group]` (ascending unit numbers) of each group named, and all of the others."""
    unknown = sorted(set(keep) - set(groups.sizes))
    if unknown:
        raise PlanError(f"no group is called `{unknown[0]}`", hint=nearest(unknown[0], list(groups.sizes)))
    cuts = tuple(
        Cut(group.id, group.size, tuple(int(unit) for unit in keep[group.id]))
        for group in groups.groups
        if group.id in keep and len(keep[group.id]) < group.size
    )
    cut = {c.group for c in cuts}
    _check_ties(groups, {**groups.sizes, **{c.group: len(c.keep) for c in cuts}})
    kept = {**groups.sizes, **{c.group: len(c.keep) for c in cuts}}
    slices = tuple(
        Slice(tensor, tuple(_settle(layout, cut, groups.sizes) for layout in layouts))
        for tensor, layouts in groups.layouts.items()
        if any(names(layout) & cut for layout in layouts)
    )
    settings = tuple(
        Setting(a.module, a.name, _value(a, kept))
        for a in groups.attributes
        if any(names(layout) & cut for layout in a.layouts)
    )
    rescales = tuple(
        Rescale(c.tensor, c.ranges, sqrt(extent(c.head_dim, kept) / extent(c.head_dim, groups.sizes)))
        for c in groups.carriers
        if names(c.head_dim) & cut
    )
    replays = tuple(_number_replay(replay, kept) for replay in groups.replays) if cuts else ()
    return WidthPlan(cuts, slices, settings, rescales, replays)


def _number_replay(replay: Replay, kept: Mapping[str, int]) -> Replay:
    """The recorded calls with numbers for layouts."""
    steps = tuple(
        Recorded(
            s.operator, tuple(_number(a, kept) for a in s.args), {k: _number(a, kept) for k, a in s.kwargs.items()}
        )
        for s in replay.steps
    )
    return Replay(replay.module, steps, replay.outputs, replay.single)


def _number(argument: Any, kept: Mapping[str, int]) -> Any:
    if isinstance(argument, (list, tuple)):
        return [_number(item, kept) for item in argument]
    if isinstance(argument, dict) and "layout" in argument:
        return extent(argument["layout"], kept)
    if isinstance(argument, dict) and "ratio" in argument:
        whole, part = (extent(layout, kept) for layout in argument["ratio"])
        return whole // part
    return argument


def _check_ties(groups: Groups, kept: Mapping[str, int]) -> None:
    for tie in groups.ties:
        counts = {name: kept[name] for name in tie}
        if len(set(counts.values())) > 1:
            found = ", ".join(f"`{name}` {n}" for name, n in counts.items())
            raise PlanError(
                f"groups that the code cuts apart by number keep different counts: {found}",
                hint="keep equally many of each",
            )


def _settle(layout: str, cut: set[str], sizes: Mapping[str, int]) -> str:
    """The layout with groups that stay whole written as numbers."""
    if not names(layout) & cut:
        return str(extent(layout, sizes))
    return NAME.sub(lambda match: match[0] if match[0] in cut else str(sizes[match[0]]), layout)


def _value(attribute: Attribute, kept: Mapping[str, int]) -> int | float | tuple[int, ...]:
    extents = tuple(extent(layout, kept) for layout in attribute.layouts)
    match attribute.form:
        case "size":
            return extents[0]
        case "sizes":
            return extents
        case "ratio":
            return extents[0] // extents[1]
        case "rsqrt":
            return float(extents[0] ** -0.5)
