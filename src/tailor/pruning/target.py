"""From a target in MACs or parameters to widths: the share of units that meets it, then what rounding left unused.

A share is found by bisection, with widths rounded at every step, so the target holds; but whole multiples leave a rest.
It is used up by taking back the removed units that stand highest in their ranking, a step at a time, until no group can
take one more step. Parts whose share was given are left as they are.
"""

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

from tailor.errors import PlanError
from tailor.pruning.settings import Widths, part_of
from tailor.pruning.width import classes
from tailor.tracing.graph.groups import Group, Groups

AmountOf = Callable[[Mapping[str, int]], float]


class NothingToGo(PlanError):  # noqa: N818  # a step of several takes it for an answer
    """No unit would be removed."""


def check_below(target: float, whole: float) -> None:
    """NothingToGo where the model has no more than the target already."""
    if target >= whole:
        raise NothingToGo(
            f"the target {target:.4g} is not below what the model has: {whole:.4g}", hint="name a smaller target"
        )


def search(size_at: Callable[[float], float], target: float, *, steps: int = 12, most: float = 0.95) -> float:
    """The smallest share whose model is no larger than `target`, by bisection; PlanError where none up to `most` is.

    `size_at(share)` must not grow with the share, but for small steps of rounding.
    """
    whole = size_at(0.0)
    check_below(target, whole)
    least = size_at(most)
    if least > target:
        raise PlanError(
            f"the target {target:.4g} is out of reach: with {most:.0%} of the units gone {least:.4g} remain",
            hint="name a larger target, or drop whole blocks with `--method sls`",
        )
    low, high = 0.0, most
    for _ in range(steps):
        middle = (low + high) / 2
        if size_at(middle) > target:
            low = middle
        else:
            high = middle
    return high


def used_up(
    groups: Groups,
    scores: Mapping[str, Tensor],
    counts: Mapping[str, int],
    settings: Widths,
    parts: Collection[str],
    size: AmountOf,
    target: float,
) -> dict[str, int]:
    """Counts no smaller than `counts`: their `size` is at most `target`, one more step of any group would be above."""
    found = dict(counts)
    standing = _standing(groups, scores, settings)
    open_ = [unit for unit in _together(groups) if all(part_of(group.label) in parts for group in unit)]
    while open_:
        wider = [(unit, _wider(unit, found, settings)) for unit in open_]
        wider = [(unit, step) for unit, step in wider if step]
        best = max(wider, key=lambda pair: _worth(pair[0], pair[1], found, standing), default=None)
        if best is None:
            break
        unit, step = best
        if size({**found, **step}) <= target:
            found |= step
            open_ = [unit for unit, _ in wider]
        else:  # nor will it fit when others have grown
            open_ = [other for other, _ in wider if other is not unit]
    return found


def coarsest(
    groups: Groups, counts: Mapping[str, int], settings: Widths, parts: Collection[str], size: AmountOf, target: float
) -> str:
    """Why counts that are `used_up` stay below the target: the smallest step that is left, and what it would add."""
    now = size(counts)
    units = [unit for unit in _together(groups) if all(part_of(group.label) in parts for group in unit)]
    wider = [(unit, step) for unit in units if (step := _wider(unit, counts, settings))]
    if not wider:
        return "every group is whole"
    added, name, tied = min((size({**counts, **step}) - now, unit[0].id, len(unit) - 1) for unit, step in wider)
    others = f" with {tied} tied to it" if tied else ""
    return f"the smallest step left, of `{name}`{others}, adds {added:.4g}, and {target - now:.4g} are free"


def _together(groups: Groups) -> list[tuple[Group, ...]]:
    """The groups that change width together: those of a tie, every other by itself."""
    tied = {name for tie in groups.ties for name in tie}
    alone = [(group,) for group in groups.groups if group.id not in tied]
    return alone + [tuple(groups[name] for name in tie) for tie in groups.ties]


def _wider(unit: tuple[Group, ...], counts: Mapping[str, int], settings: Widths) -> dict[str, int]:
    """The counts one step wider; empty where a group is whole."""
    step = max(settings.step(group.label, group.size) for group in unit)
    count = counts[unit[0].id]
    if any(count == group.size for group in unit):
        return {}
    wider = min(count - count % step + step, *(group.size for group in unit))
    return dict.fromkeys((group.id for group in unit), wider)


def _worth(
    unit: tuple[Group, ...], step: Mapping[str, int], counts: Mapping[str, int], standing: Mapping[str, Tensor]
) -> float:
    """How high the units that come back stand in their rankings, on average."""
    back = [standing[g.id][g.size - step[g.id] : g.size - counts[g.id]] for g in unit]
    return float(torch.cat(back).mean())


def _standing(groups: Groups, scores: Mapping[str, Tensor], settings: Widths) -> dict[str, Tensor]:
    """For each group, lowest score first, the share of its ranking that each unit is above, (units,)."""
    found = {}
    for members in classes(groups.groups, settings).values():
        pool = torch.cat([scores[group.id] for group in members]).sort().values
        for group in members:
            ordered = scores[group.id].sort().values
            found[group.id] = torch.searchsorted(pool, ordered).double() / len(pool)
    return found
