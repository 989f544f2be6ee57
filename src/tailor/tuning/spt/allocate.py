"""From sensitivity scores and a budget to a TunePlan: how far down the ranking to go, and what trains there.

cost(tau) by the released rule, for every tau at once; the plan is the largest tau whose cost does not
exceed the budget. With alpha and beta at least 1 no further weight makes a plan cheaper, so that is also the dearest
plan that fits. What is counted is what trains: partly selected norms too, which the released code counts and freezes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tailor.anatomy import Anatomy
from tailor.errors import PlanError
from tailor.surgery import get_parameter
from tailor.tuning.methods.vpt_deep import VptDeep
from tailor.tuning.plan import Entries, Tune, TunePlan
from tailor.tuning.spt.candidates import TensorCandidate, candidates, price, threshold
from tailor.tuning.spt.curve import Ranking, Terms, curve, rank
from tailor.tuning.spt.scores import Scores
from tailor.tuning.spt.settings import Spt

SWEEP = tuple(range(20_000, 1_580_001, 20_000))
"""The values of tau that the released code tries."""

_NEVER = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class Taken:
    """A place in the ranking: the best `tau` weights are selected; `costs` (K + 1,) of every tau under the terms."""

    ranking: Ranking
    terms: Terms
    costs: Tensor
    tau: int


def allocate(scores: Scores, anatomy: Anatomy, model: nn.Module, settings: Spt, budget: int) -> TunePlan:
    """The largest plan of at most `budget` trainable parameters, the head not counted, learned tokens counted.

    `model` is the plain backbone, on any device (`meta` will do). With `settings.nearest` the released sweep instead:
    the tau whose cost is nearest to the budget, which it may exceed. PlanError where nothing fits, or where the scores
    are not this backbone's. Deterministic: equal scores rank by the anatomy's order.
    """
    _check(scores, anatomy, model, budget)
    everything = candidates(anatomy)
    fixed = sum(get_parameter(model, name).numel() for name in anatomy.tokens)
    prices = [price(model, c, settings) for c in everything]
    views = [c.view(scores.tensors) for c in everything]
    terms = _terms(everything, prices, settings, views[0].device)
    if settings.structured == "vpt-deep":
        tunes, cost = _prompts(everything, rank(views, max(budget - fixed, 1)), terms, anatomy, budget - fixed)
        made = facts(scores, settings, budget, budget - fixed)
        return TunePlan(settings.name, anatomy.tokens, tunes, cost=fixed + cost, facts=made)
    if settings.nearest:
        taken = _sweep(views, terms, fixed, budget)
    else:
        taken = _largest(views, terms, fixed, budget, settings.fill)
    if int(taken.costs[taken.tau]) <= fixed:
        raise _too_small(settings, curve(taken.ranking, terms, fixed), fixed, budget)
    chosen = _Chosen(everything, taken)
    return TunePlan(
        method=settings.name,
        full=(*anatomy.tokens, *chosen.full()),
        tunes=chosen.tunes(settings),
        entries=chosen.entries() if settings.parts != "structured" else (),
        cost=int(taken.costs[taken.tau]),
        facts=facts(scores, settings, budget, taken.tau),
    )


def _terms(
    everything: Sequence[TensorCandidate], prices: Sequence[int | None], settings: Spt, device: torch.device
) -> Terms:
    """What selected weights of each candidate cost under the settings."""
    limits = [threshold(c, sigma, settings) for c, sigma in zip(everything, prices, strict=True)]
    wholes = [c.size if sigma is None else sigma for c, sigma in zip(everything, prices, strict=True)]
    return Terms(
        torch.tensor(limits, device=device),
        torch.tensor(wholes, device=device),
        single=0 if settings.parts == "structured" else 1,
    )


def facts(scores: Scores, settings: Spt, budget: int, tau: int) -> dict[str, str | int | float]:
    """What a plan says about how it came about."""
    made = {"budget": budget, "tau": tau, "rule": settings.rule, "rank": settings.rank}
    ways = {"nearest": settings.nearest, "fill": settings.fill}
    return {**scores.facts, **made, **{name: "yes" if way else "no" for name, way in ways.items()}}


def _largest(views: Sequence[Tensor], terms: Terms, fixed: int, budget: int, fill: bool) -> Taken:
    """The last tau within the budget; ranks further down until one is beyond it or the weights are at an end."""
    count = max(2 * budget, 1024)
    while True:
        ranking = rank(views, count)
        taken = _within(ranking, terms, fixed, budget)
        if fill:
            taken = _filled(taken, fixed, budget)
        if taken.tau < len(ranking) or ranking.complete:
            return taken
        count *= 4


def _within(ranking: Ranking, terms: Terms, fixed: int, budget: int) -> Taken:
    costs = curve(ranking, terms, fixed)
    return Taken(ranking, terms, costs, max(int((costs <= budget).sum()) - 1, 0))  # the costs never fall


def _filled(taken: Taken, fixed: int, budget: int) -> Taken:
    """Spend what the largest tau leaves: what is too dear as a whole keeps its single weights, the ranking goes on."""
    limits = taken.terms.limit.clone()
    while taken.tau < len(taken.ranking) and int(taken.costs[taken.tau]) < budget:
        limits[taken.ranking.segment[taken.tau]] = _NEVER
        taken = _within(taken.ranking, replace(taken.terms, limit=limits.clone()), fixed, budget)
    return taken


def _sweep(views: Sequence[Tensor], terms: Terms, fixed: int, budget: int) -> Taken:
    """The tau of the released sweep whose cost is nearest to the budget; of two as near, the larger."""
    ranking = rank(views, SWEEP[-1])
    costs = curve(ranking, terms, fixed)
    taus = [tau for tau in SWEEP if tau <= len(ranking)]
    if not taus:
        raise PlanError(
            f"the released sweep starts at {SWEEP[0]:,} weights, only {len(ranking):,} have a score",
            hint="set `nearest` to false on a small backbone",
        )
    return Taken(ranking, terms, costs, min(taus, key=lambda tau: (abs(int(costs[tau]) - budget), -tau)))


def _prompts(
    everything: Sequence[TensorCandidate], ranking: Ranking, terms: Terms, anatomy: Anatomy, room: int
) -> tuple[tuple[Tune, ...], int]:
    """Prompts in the blocks with a sensitive matrix among the best `room` weights, as many as `room` allows."""
    places = VptDeep().places(anatomy)
    whole = _whole(everything, ranking, terms)
    blocks = {c.block for c, taken in zip(everything, whole, strict=True) if taken and c.site and c.block >= 0}
    roots = [anatomy.blocks[index].path for index in sorted(blocks)]
    chosen = [p for p in places if any(p.path == root or p.path.startswith(root + ".") for root in roots)]
    if not chosen:
        raise PlanError(
            f"no matrix is sensitive enough for prompts with {max(room, 0):,} parameters",
            hint="raise `--budget`, lower `rank`, or use `--method spt-lora`",
        )
    width = sum(p.geometry.width for p in chosen if p.geometry)
    if room < width:
        raise PlanError(
            f"a prompt in each of {len(chosen)} sensitive blocks takes {width:,} parameters, there are {room:,}",
            hint="raise `--budget`, or use `--method spt-lora`",
        )
    method = VptDeep(prompts=room // width)
    return tuple(Tune(p.path, method, p.rows, p.geometry) for p in chosen), room // width * width


def _whole(everything: Sequence[TensorCandidate], ranking: Ranking, terms: Terms) -> list[bool]:
    """Whether each candidate has as many selected weights as it takes to train as a whole."""
    counts = torch.bincount(ranking.segment, minlength=len(everything))
    return (counts >= terms.limit).tolist()


def _too_small(settings: Spt, costs: Tensor, fixed: int, budget: int) -> PlanError:
    above = costs[costs > fixed]
    least = f", the least is {int(above[0]):,}" if len(above) else ""
    what = "module or vector" if settings.parts == "structured" else "weight"
    tokens = f" beside the {fixed:,} of the learned tokens" if fixed else ""
    return PlanError(
        f"a budget of {budget:,} parameters is too small for one {what}{tokens}{least}",
        hint=f"use `--budget {int(above[0])}` or more" if len(above) else "score on more images",
    )


def _check(scores: Scores, anatomy: Anatomy, model: nn.Module, budget: int) -> None:
    if budget < 1:
        raise PlanError(f"the budget must be above zero, found: {budget}", hint="write for instance `--budget 0.4%`")
    hint = "the scores were made for another backbone; score again"
    for name in dict.fromkeys(c.tensor for c in candidates(anatomy)):
        shape = tuple(get_parameter(model, name).shape)
        if name not in scores.tensors:
            raise PlanError(f"there are no scores for `{name}`", hint=hint)
        if tuple(scores.tensors[name].shape) != shape:
            found = tuple(scores.tensors[name].shape)
            raise PlanError(f"the scores of `{name}` have shape {found}, the model expects {shape}", hint=hint)


class _Chosen:
    """The selected weights as the parts of a plan."""

    def __init__(self, everything: Sequence[TensorCandidate], taken: Taken) -> None:
        self.everything = everything
        self.selected = Ranking(taken.ranking.segment[: taken.tau], taken.ranking.index[: taken.tau], False)
        self.whole = _whole(everything, self.selected, taken.terms)

    def tunes(self, settings: Spt) -> tuple[Tune, ...]:
        """A module at every sensitive matrix."""
        method = settings.module()
        sites = [c.site for c, whole in zip(self.everything, self.whole, strict=True) if c.site and whole]
        return tuple(Tune(site.name, method, site.rows) for site in sites)

    def full(self) -> tuple[str, ...]:
        """Vectors that train whole; the name of the parameter where all parts of a fused one do."""
        parts: dict[str, list[TensorCandidate]] = {}
        for c in self.everything:
            if c.site is None:
                parts.setdefault(c.tensor, []).append(c)
        taken = {c.name for c, whole in zip(self.everything, self.whole, strict=True) if whole}
        names: list[str] = []
        for tensor, pieces in parts.items():
            inside = [c.name for c in pieces if c.name in taken]
            names += [tensor] if len(inside) == len(pieces) else inside
        return tuple(names)

    def entries(self) -> tuple[Entries, ...]:
        """Single weights, as flat indices into the whole parameter."""
        return tuple(Entries(tensor, tuple(indices.tolist())) for tensor, indices in self._flat())

    def _flat(self) -> Iterator[tuple[str, Tensor]]:
        segment, index = self.selected.segment.cpu(), self.selected.index.cpu()
        single = ~torch.tensor(self.whole)[segment]
        starts = torch.tensor([c.start for c in self.everything])
        flat, segment = (index + starts[segment])[single], segment[single]
        tensors: dict[str, list[Tensor]] = {}
        for number in segment.unique().tolist():
            tensors.setdefault(self.everything[number].tensor, []).append(flat[segment == number])
        for tensor, pieces in tensors.items():
            yield tensor, torch.cat(pieces).sort().values
