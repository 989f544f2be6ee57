"""Which units of each group stay: scores of units from scores of weights, and their ranking.

Isomorphic Pruning (arXiv 2407.04616) ranks only among groups of one shape; DepGraph (arXiv 2301.12900) all units at
once; uniform each group by itself. Deviations: exactly the asked share goes also at ties, every group keeps a unit,
norms of every kind count, and widths are rounded to the nearest multiple of 8, which the hardware likes, unless told.
"""

from collections.abc import Callable, Mapping
from math import ceil
from typing import Literal, get_args

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from tailor.errors import PlanError
from tailor.tracing.groups import Group, Groups, Label
from tailor.tracing.layout import unit_of

Normaliser = Literal["mean", "max", "none"]
Rounding = Literal["nearest", "down"]

RANKINGS: dict[str, Callable[[Group], str]] = {
    "isomorphic": lambda group: f"{group.label}: {group.kind}",
    "depgraph": lambda group: "",
    "uniform": lambda group: group.id,
}
"""By the name of a method: groups with the same key are ranked together."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Shares:
    """What share of the units goes, for each part a group can play; 0 leaves it alone."""

    embedding: float = 0.0
    heads: float = 0.0
    head_dim: float = 0.0
    hidden: float = 0.0

    def __post_init__(self) -> None:
        for label in get_args(Label):
            if not 0 <= self.of(label) < 1:
                raise PlanError(
                    f"the share of {label} units that goes must be at least 0 and below 100 %: {self.of(label):.0%}",
                    hint="write for instance `50%`; to remove whole blocks use `--method sls`",
                )

    def of(self, label: str) -> float:
        """The share for a group's label."""
        return float(getattr(self, label.replace(" ", "_")))


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Widths:
    """How units are chosen: which are ranked together, and to what widths are rounded (heads never are)."""

    ranking: str = "isomorphic"
    round_to: int = 8
    rounding: Rounding = "nearest"


def unit_scores(
    groups: Groups, elements: Mapping[str, Tensor], normaliser: Normaliser = "mean", everything: bool = False
) -> dict[str, Tensor]:
    """A score for each unit of each group from scores of the weights: `elements` by parameter, in its shape.

    The mean over a group's tensors of the sum over the unit's slice, then divided by the group's mean (or maximum).
    Weights of layers and norms count; biases, tokens, position tables and layer scales only with `everything`.
    """
    scores = {}
    for group in groups.groups:
        sums = []
        for member in group.members:
            if member.tensor not in elements or not (everything or member.tensor.endswith("weight")):
                continue
            layout = groups.layouts[member.tensor][member.dim]
            sums.append(_by_unit(elements[member.tensor], member.dim, unit_of(layout, group.id, groups.sizes), group))
        if not sums:
            raise PlanError(
                f"no weight of group `{group.id}` has a score", hint="score the parameters of the model that was traced"
            )
        scores[group.id] = _normalised(torch.stack(sums).mean(0), normaliser)
    return scores


def _by_unit(element: Tensor, dim: int, units: Tensor, group: Group) -> Tensor:
    """Sums (units,) of an element score over the positions that belong to each unit."""
    element = element.detach().double()
    line = element.movedim(dim, 0).flatten(1).sum(1) if element.ndim > 1 else element
    inside = units >= 0
    return line.new_zeros(group.size).index_add_(0, units[inside].to(line.device), line[inside.to(line.device)]).cpu()


def _normalised(raw: Tensor, normaliser: Normaliser) -> Tensor:
    whole = {"mean": raw.mean(), "max": raw.max(), "none": torch.ones(())}[normaliser]
    return raw / whole if whole > 0 else raw


def random_scores(groups: Groups, seed: int) -> dict[str, Tensor]:
    """A uniform score for each unit: the control."""
    generator = torch.Generator().manual_seed(seed)
    return {group.id: torch.rand(group.size, generator=generator, dtype=torch.float64) for group in groups.groups}


def choose(
    groups: Groups, scores: Mapping[str, Tensor], shares: Shares, settings: Widths
) -> dict[str, tuple[int, ...]]:
    """The units that stay in every group that loses some, ascending; the lowest scores of each ranking go.

    Groups that the model's code ties together keep equally many, those of the group that keeps most.
    """
    key = RANKINGS[settings.ranking]
    classes: dict[str, list[Group]] = {}
    for group in groups.groups:
        if shares.of(group.label) > 0:
            classes.setdefault(key(group), []).append(group)
    counts = {group.id: group.size for group in groups.groups}
    for members in classes.values():
        counts |= _left(members, scores, shares)
    by_id = {group.id: group for members in classes.values() for group in members}
    counts |= {name: _rounded(counts[name], group, settings) for name, group in by_id.items()}
    for tie in groups.ties:
        counts |= dict.fromkeys(tie, max(counts[name] for name in tie))
    return {
        group.id: _best(scores[group.id], counts[group.id]) for group in groups.groups if counts[group.id] < group.size
    }


def _left(members: list[Group], scores: Mapping[str, Tensor], shares: Shares) -> dict[str, int]:
    """How many units each group of one ranking keeps when the lowest of them all go; the best of each group stays."""
    pool = torch.cat([_best_spared(scores[group.id]) for group in members])
    owner = torch.cat([torch.full((group.size,), i) for i, group in enumerate(members)])
    gone = ceil(sum(shares.of(group.label) * group.size for group in members) - 1e-9)
    lowest = torch.argsort(pool, stable=True)[:gone]
    lost = torch.bincount(owner[lowest[pool[lowest].isfinite()]], minlength=len(members)).tolist()
    return {group.id: group.size - n for group, n in zip(members, lost, strict=True)}


def _best_spared(scores: Tensor) -> Tensor:
    """The scores, with the last of the highest out of reach."""
    spared = scores.clone()
    spared[torch.argsort(scores, stable=True)[-1]] = torch.inf
    return spared


def _rounded(count: int, group: Group, settings: Widths) -> int:
    """The width as a multiple of `round_to`, in groups of at least two such multiples; heads are counted one by one."""
    step = settings.round_to
    if group.label == "heads" or step <= 1 or group.size < 2 * step:
        return count
    multiples = count // step if settings.rounding == "down" else (count + step // 2) // step
    return min(group.size, max(1, multiples) * step)


def _best(scores: Tensor, count: int) -> tuple[int, ...]:
    """The units with the highest scores, ascending; of equal ones the later, as the lower of a stable sort go first."""
    return tuple(sorted(torch.argsort(scores, stable=True)[len(scores) - count :].tolist()))


def search(size_at: Callable[[float], float], target: float, *, steps: int = 12, most: float = 0.95) -> float:
    """The smallest share whose model is no larger than `target`, by bisection; PlanError where none up to `most` is.

    `size_at(share)` must not grow with the share, but for small steps of rounding.
    """
    whole = size_at(0.0)
    if target >= whole:
        raise PlanError(
            f"the target {target:.4g} is not below what the model has: {whole:.4g}", hint="name a smaller target"
        )
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
