"""The widths that meet what was asked: shares as they were given, or a target in MACs, parameters or milliseconds."""

import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from tailor.budget import Amount
from tailor.events import Event, Tell
from tailor.inputs import Inputs
from tailor.measure.count import macs, parameters
from tailor.measure.speed import latency
from tailor.pruning.settings import Shares, Widths, part_of
from tailor.pruning.target import AmountOf, coarsest, search, used_up
from tailor.pruning.width import kept, widths
from tailor.tracing import Groups, Traced, cut_, mac_cost, parameter_cost, plan_widths
from tailor.tracing.widths.cost import everywhere

MEASURED_STEPS, COUNTED_STEPS = 5, 40
"""Steps of a search: milliseconds are measured and cost seconds each, counts are arithmetic."""
NEAR = 0.98
"""Share of a target that is met as a matter of course; where widths are too coarse for that, it is said why."""


@dataclass(frozen=True)
class ScoredUnits:
    """A traced model with a score for every unit of its groups, and how the units are to be chosen.

    Amounts are those of the model as `deployed` makes it, in place; names that are not `counted` are gone then. `whole`
    are the sizes, before an earlier step cut them, of groups: shares that are given are of these.
    """

    model: nn.Module
    traced: Traced
    scores: Mapping[str, Tensor]
    settings: Widths
    inputs: Inputs
    deployed: Callable[[nn.Module], nn.Module] = lambda model: model
    counted: Callable[[str], bool] = everywhere
    whole: Mapping[str, int] = field(default_factory=dict)


def counts_for(
    scored: ScoredUnits, given: Mapping[str, float], target: tuple[str, Amount] | None, tell: Tell
) -> dict[str, int]:
    """How many units every group keeps: by the shares `given`, the others searched so that the target holds.

    What rounding leaves of a target in MACs or parameters is used up; milliseconds are too coarse for that.
    """
    groups, settings = scored.traced.groups, scored.settings
    searched = tuple(part for part in settings.parts if part not in given)
    before, ranked = _before(scored, given)

    def at(share: float) -> dict[str, int]:
        shares = {str(part): share for part in searched} if target else {}
        found = widths(before, ranked, Shares(**{**shares, **given}), settings)
        return {name: min(count, groups.sizes[name]) for name, count in found.items()}

    if target is None:
        return at(0.0)
    flag, amount = target
    size = _figure(scored, flag)
    limit = amount.value * size(groups.sizes) if amount.unit == "share" else amount.value
    known: dict[float, float] = {}

    def size_at(share: float) -> float:
        if share not in known:
            known[share] = size(at(share))
            if flag == "latency":
                tell(Event("searching", text=f"{share:.1%} of the units gone: {flag} {known[share]:.4g}"))
        return known[share]

    share = search(size_at, limit, steps=MEASURED_STEPS if flag == "latency" else COUNTED_STEPS)
    tell(Event("searching", text=f"{share:.1%} of the units gone: {flag} {known[share]:.4g}"))
    if flag == "latency":
        return at(share)
    found = used_up(groups, scored.scores, at(share), settings, searched, size, limit)
    if size(found) < NEAR * limit:
        why = coarsest(groups, found, settings, searched, size, limit)
        tell(Event("searching", text=f"{flag} {size(found):.4g}: {why}"))
    return found


def _before(scored: ScoredUnits, parts: Collection[str]) -> tuple[Groups, dict[str, Tensor]]:
    """The groups as they were, in these parts; units that an earlier step removed rank lowest, so they count first."""
    grown, ranked = [], {}
    for group in scored.traced.groups.groups:
        scores = scored.scores[group.id]
        gone = scored.whole.get(group.id, group.size) - group.size if part_of(group.label) in parts else 0
        ranked[group.id] = torch.cat([scores.new_full((gone,), torch.finfo(scores.dtype).min), scores])
        grown.append(replace(group, size=group.size + gone))
    return replace(scored.traced.groups, groups=tuple(grown)), ranked


def _figure(scored: ScoredUnits, flag: str) -> AmountOf:
    """The amount by counts: arithmetic where it says of the whole model what counting says, else by cutting a copy."""

    def cut(counts: Mapping[str, int]) -> nn.Module:
        keep = kept(scored.traced.groups, scored.scores, counts)
        return scored.deployed(cut_(copy.deepcopy(scored.model), plan_widths(scored.traced.groups, keep)))

    whole = scored.traced.groups.sizes
    count = figures(flag, scored.inputs)
    if flag != "latency":
        by_parts = parameter_cost(scored.model, scored.traced, scored.counted)
        cost = mac_cost(scored.traced, scored.counted) if flag == "macs" else by_parts
        if cost.at(whole) == count(scored.deployed(copy.deepcopy(scored.model))):
            return cost.at
    return lambda counts: count(cut(counts))


def figures(flag: str, inputs: Inputs) -> Callable[[nn.Module], float]:
    """How the amount of a model is found: MACs and parameters counted, milliseconds measured."""
    count: dict[str, Callable[[nn.Module], float]] = {
        "macs": lambda model: macs(model, inputs),
        "params": parameters,
        "latency": lambda model: latency(model, inputs, seconds=2.0).median,
    }
    return count[flag]
