"""The model with some of its blocks: traced and scored once, then its widths are arithmetic."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from tailor.build import Opened
from tailor.errors import PlanError
from tailor.plans import AnyPlan
from tailor.pruning.race.pace import Load
from tailor.pruning.settings import Shares, Widths, part_of
from tailor.pruning.target import NothingToGo, search, used_up
from tailor.pruning.width import kept, widths
from tailor.tracing import Cost, Traced, mac_cost, parameter_cost, plan_widths, settle, trace
from tailor.workflow.race.arena import Arena
from tailor.workflow.race.depths import layer_plan
from tailor.workflow.unit_scores import score_units


@dataclass(frozen=True)
class Measure:
    """How much of the aim's quantity a load comes to, and how much it may come to."""

    limit: float
    of: Callable[[Load], float]


@dataclass(frozen=True)
class Shallow:
    """A model with `depth` blocks, and what its widths are chosen from."""

    name: str
    plans: tuple[AnyPlan, ...]
    opened: Opened
    traced: Traced
    scores: Mapping[str, Tensor]
    macs: Cost
    params: Cost
    channels: Cost
    depth: int

    @property
    def whole(self) -> dict[str, int]:
        """Units of every group, none of them gone."""
        return dict(self.traced.groups.sizes)

    def load(self, counts: Mapping[str, int]) -> Load:
        """What the model has to do with so many units in every group."""
        return Load(self.macs.at(counts), self.params.at(counts), self.channels.at(counts), self.depth)

    def at(self, share: float, settings: Widths) -> dict[str, int]:
        """Units of every group where such a share of them goes, of the parts in the settings."""
        shares = Shares(**dict.fromkeys(map(str, settings.parts), share))
        return widths(self.traced.groups, self.scores, shares, settings)

    def cut(self, counts: Mapping[str, int]) -> tuple[AnyPlan, ...]:
        """The plans that lead to these counts."""
        plan = plan_widths(self.traced.groups, kept(self.traced.groups, self.scores, counts))
        return (*self.plans, plan) if plan.cuts else self.plans

    def words(self, plans: Sequence[AnyPlan]) -> str:
        """The plans for people: blocks and mean widths."""
        found = [str(getattr(plan, "facts", {}).get("reason", "")) for plan in plans]
        sizes: dict[str, list[tuple[int, int]]] = {}
        for plan in plans:
            for cut in getattr(plan, "cuts", ()):
                sizes.setdefault(self.traced.groups[cut.group].label, []).append((cut.size, len(cut.keep)))
        for label, pairs in sizes.items():
            whole, left = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
            found.append(f"{label} {whole:.4g} -> {left:.4g}" + (f" (mean of {len(pairs)})" if len(pairs) > 1 else ""))
        return ", ".join(filter(None, found))

    def solved(self, settings: Widths, measure: Measure) -> dict[str, int] | None:
        """The most units, of the parts in the settings, with which the model keeps to the limit; None where none do."""
        if not {part_of(group.label) for group in self.traced.groups.groups} & set(settings.parts):
            return self.whole if measure.of(self.load(self.whole)) <= measure.limit else None

        def size(counts: Mapping[str, int]) -> float:
            return measure.of(self.load(counts))

        try:
            share = search(lambda share: size(self.at(share, settings)), measure.limit, steps=24)
        except NothingToGo:
            return self.whole
        except PlanError:
            return None
        groups, counts = self.traced.groups, self.at(share, settings)
        return used_up(groups, self.scores, counts, settings, settings.parts, size, measure.limit)


def shallow(arena: Arena, name: str, blocks: Sequence[int]) -> Shallow:
    """The model with these blocks, traced, its units scored by the task's gradients."""
    context = arena.context
    layers = layer_plan([block.path for block in arena.opened.anatomy.blocks], blocks)
    plans: tuple[AnyPlan, ...] = () if layers is None else (layers,)
    left = arena.cut(plans)
    traced = settle(left.model, trace(left.model, context.example), context.example)
    scores = score_units(context.at(left), traced.groups, "taylor", arena.settings.samples, Widths(), "merge")
    vectors = {name for name, parameter in left.model.named_parameters() if parameter.ndim == 1}
    return Shallow(
        name,
        plans,
        left,
        traced,
        scores.units,
        mac_cost(traced),
        parameter_cost(left.model, traced),
        parameter_cost(left.model, traced, vectors.__contains__),
        len(blocks),
    )
