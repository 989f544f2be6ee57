"""Which units of each group stay: scores of units from scores of weights, and their ranking.

Isomorphic Pruning (arXiv 2407.04616) ranks only among groups of one shape; DepGraph (arXiv 2301.12900) all units at
once; uniform each group by itself. Deviations: exactly the asked share goes also at ties, every group keeps a unit,
norms of every kind count, and widths are rounded to the nearest multiple of 8, which the hardware likes, unless told.
"""

from collections.abc import Callable, Iterable, Mapping
from math import ceil

import torch
from torch import Tensor

from tailor.errors import PlanError
from tailor.pruning.settings import Normaliser, Shares, Widths
from tailor.tracing.graph.groups import Group, Groups
from tailor.tracing.widths.layout import unit_of

RANKINGS: dict[str, Callable[[Group], str]] = {
    "isomorphic": lambda group: f"{group.label}: {group.kind}",
    "depgraph": lambda group: "",
    "uniform": lambda group: group.id,
}
"""By the name of a method: groups with the same key are ranked together."""

COUNTED = ("weight", ".up", ".down")
"""How the tensors that count in a unit's score end: weights of layers and norms, and a tune's own matrices."""


def unit_scores(
    groups: Groups, elements: Mapping[str, Tensor], normaliser: Normaliser = "mean", everything: bool = False
) -> dict[str, Tensor]:
    """A score for each unit of each group from scores of the weights: `elements` by parameter, in its shape.

    The mean over a group's tensors of the sum over the unit's slice, then divided by the group's mean (or maximum).
    Weights of layers and norms count; biases, tokens, position tables and layer scales only with `everything`, or where
    a group lies on nothing else.
    """
    scores = {}
    for group in groups.groups:
        known = [member for member in group.members if member.tensor in elements]
        counted = [member for member in known if everything or member.tensor.endswith(COUNTED)] or known
        if not counted:
            raise PlanError(
                f"no weight of group `{group.id}` has a score", hint="score the parameters of the model that was traced"
            )
        sums = []
        for member in counted:
            layout = groups.layouts[member.tensor][member.dim]
            sums.append(_by_unit(elements[member.tensor], member.dim, unit_of(layout, group.id, groups.sizes), group))
        scores[group.id] = normalised(torch.stack(sums).mean(0), normaliser)
    return scores


def _by_unit(element: Tensor, dim: int, units: Tensor, group: Group) -> Tensor:
    """Sums (units,) of an element score over the positions that belong to each unit."""
    element = element.detach().double()
    line = element.movedim(dim, 0).flatten(1).sum(1) if element.ndim > 1 else element
    inside = units >= 0
    return line.new_zeros(group.size).index_add_(0, units[inside].to(line.device), line[inside.to(line.device)]).cpu()


def normalised(raw: Tensor, normaliser: Normaliser) -> Tensor:
    """The scores of a group divided by their mean, their maximum, or nothing; all zeros stay."""
    whole = {"mean": raw.mean(), "max": raw.max(), "none": torch.ones(())}[normaliser]
    return raw / whole if whole > 0 else raw


def random_scores(groups: Groups, seed: int) -> dict[str, Tensor]:
    """A uniform score for each unit: the control."""
    generator = torch.Generator().manual_seed(seed)
    return {group.id: torch.rand(group.size, generator=generator, dtype=torch.float64) for group in groups.groups}


def choose(
    groups: Groups, scores: Mapping[str, Tensor], shares: Shares, settings: Widths
) -> dict[str, tuple[int, ...]]:
    """The units that stay in every group that loses some, ascending; the lowest scores of each ranking go."""
    return kept(groups, scores, widths(groups, scores, shares, settings))


def kept(groups: Groups, scores: Mapping[str, Tensor], counts: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The units that stay in every group that loses some, ascending: its `counts` best."""
    return {
        group.id: _best(scores[group.id], counts[group.id]) for group in groups.groups if counts[group.id] < group.size
    }


def widths(groups: Groups, scores: Mapping[str, Tensor], shares: Shares, settings: Widths) -> dict[str, int]:
    """How many units every group keeps when the share of each ranking with the lowest scores goes.

    Groups that the model's code ties together keep equally many, those of the group that keeps most. PlanError where
    parts that are ranked together are to lose different shares.
    """
    asked = [group for group in groups.groups if shares.of(group.label) > 0]
    counts = {group.id: group.size for group in groups.groups}
    for members in classes(asked, settings).values():
        _check_alike(members, shares, settings)
        counts |= _left(members, scores, shares, settings.keep_at_least)
    counts |= {group.id: _rounded(counts[group.id], group, settings) for group in asked}
    for tie in groups.ties:
        counts |= dict.fromkeys(tie, max(counts[name] for name in tie))
    return counts


def classes(groups: Iterable[Group], settings: Widths) -> dict[str, list[Group]]:
    """The groups that are ranked together."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        key = RANKINGS[settings.ranking](group)
        if group.label in ("heads", "head dim") and settings.attention != "class":
            key = group.label if settings.attention == "all" else group.id
        found.setdefault(key, []).append(group)
    return found


def _check_alike(members: list[Group], shares: Shares, settings: Widths) -> None:
    """One ranking has one cutoff: how many units of each part fall below it is not for the shares to say."""
    labels = sorted({group.label for group in members})
    if len({shares.of(label) for label in labels}) > 1:
        raise PlanError(
            f"`{settings.ranking}` ranks the units of {', '.join(labels)} together, so no share of one can differ",
            hint="name one share for all, as `--ratio 50%` does, or use `--method isomorphic`",
        )


def _left(members: list[Group], scores: Mapping[str, Tensor], shares: Shares, least: int) -> dict[str, int]:
    """How many units each group of one ranking keeps when the lowest of them all go; each group's best `least` stay."""
    pool = torch.cat([_best_spared(scores[group.id], least) for group in members])
    owner = torch.cat([torch.full((group.size,), i) for i, group in enumerate(members)])
    gone = ceil(sum(shares.of(group.label) * group.size for group in members) - 1e-9)
    lowest = torch.argsort(pool, stable=True)[:gone]
    lost = torch.bincount(owner[lowest[pool[lowest].isfinite()]], minlength=len(members)).tolist()
    return {group.id: group.size - n for group, n in zip(members, lost, strict=True)}


def _best_spared(scores: Tensor, least: int) -> Tensor:
    """The scores, with the highest `least` out of reach; of equal ones the later."""
    spared = scores.clone()
    spared[torch.argsort(scores, stable=True)[-least:]] = torch.inf
    return spared


def _rounded(count: int, group: Group, settings: Widths) -> int:
    """The width as a multiple of its step, but not below what must stay."""
    step = settings.step(group.label, group.size)
    multiples = count // step if settings.rounding == "down" else (count + step // 2) // step
    least = min(settings.keep_at_least, group.size)
    return min(group.size, max(multiples, ceil(least / step), 1) * step)


def _best(scores: Tensor, count: int) -> tuple[int, ...]:
    """The units with the highest scores, ascending; of equal ones the later, as the lower of a stable sort go first."""
    return tuple(sorted(torch.argsort(scores, stable=True)[len(scores) - count :].tolist()))
