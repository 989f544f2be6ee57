"""From sensitivity scores and a budget to a TunePlan: how far down the ranking to go, and what trains there.

cost(tau) by the rule of the note (section 1.4), for every tau at once; the plan is the largest tau whose cost does not
exceed the budget. With alpha and beta at least 1 no further weight makes a plan cheaper, so that is also the dearest
plan that fits. What is counted is what trains: partly selected norms too, which the released code counts and freezes.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from tailor.anatomy import Anatomy
from tailor.errors import PlanError
from tailor.surgery import get_parameter
from tailor.tuning.plan import Entries, Tune, TunePlan
from tailor.tuning.spt import Candidate, Spt, candidates, price, threshold
from tailor.tuning.spt_curve import Ranking, Terms, curve, rank
from tailor.tuning.spt_scores import Scores

SWEEP = tuple(range(20_000, 1_580_001, 20_000))
"""The values of tau that the released code tries."""


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
    if settings.nearest:
        ranking, costs, tau = _sweep(views, terms, fixed, budget)
    else:
        ranking, costs, tau = _largest(views, terms, fixed, budget)
    if tau == 0 or int(costs[tau]) == fixed:
        raise _too_small(settings, costs, fixed, budget)
    counts = torch.bincount(ranking.segment[:tau], minlength=len(everything)).tolist()
    whole = [n >= int(limit) for n, limit in zip(counts, terms.limit.tolist(), strict=True)]
    chosen = _Chosen(everything, whole, ranking, tau)
    return TunePlan(
        method=settings.name,
        full=(*anatomy.tokens, *chosen.full()),
        tunes=chosen.tunes(settings),
        entries=chosen.entries() if settings.parts != "structured" else (),
        cost=int(costs[tau]),
        facts=_facts(scores, settings, budget, tau),
    )


def _terms(everything: Sequence[Candidate], prices: Sequence[int | None], settings: Spt, device: torch.device) -> Terms:
    """What selected weights of each candidate cost under the settings."""
    limits = [threshold(c, sigma, settings) for c, sigma in zip(everything, prices, strict=True)]
    wholes = [c.size if sigma is None else sigma for c, sigma in zip(everything, prices, strict=True)]
    return Terms(
        torch.tensor(limits, device=device),
        torch.tensor(wholes, device=device),
        single=0 if settings.parts == "structured" else 1,
    )


def _facts(scores: Scores, settings: Spt, budget: int, tau: int) -> dict[str, str | int | float]:
    """What a plan says about how it came about."""
    made = {"budget": budget, "tau": tau, "rule": settings.rule, "structured": settings.structured}
    return {**scores.facts, **made, "rank": settings.rank, "nearest": "yes" if settings.nearest else "no"}


def _largest(views: Sequence[Tensor], terms: Terms, fixed: int, budget: int) -> tuple[Ranking, Tensor, int]:
    """The last tau within the budget; ranks further down until one is beyond it or the weights are at an end."""
    count = max(2 * budget, 1024)
    while True:
        ranking = rank(views, count)
        costs = curve(ranking, terms, fixed)
        tau = int((costs <= budget).sum()) - 1  # the costs never fall
        if tau < len(ranking) or ranking.complete:
            return ranking, costs, max(tau, 0)
        count *= 4


def _sweep(views: Sequence[Tensor], terms: Terms, fixed: int, budget: int) -> tuple[Ranking, Tensor, int]:
    """The tau of the released sweep whose cost is nearest to the budget; of two as near, the larger."""
    ranking = rank(views, SWEEP[-1])
    costs = curve(ranking, terms, fixed)
    taus = [tau for tau in SWEEP if tau <= len(ranking)]
    if not taus:
        raise PlanError(
            f"the released sweep starts at {SWEEP[0]:,} weights, only {len(ranking):,} have a score",
            hint="set `nearest` to false on a small backbone",
        )
    return ranking, costs, min(taus, key=lambda tau: (abs(int(costs[tau]) - budget), -tau))


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

    def __init__(self, everything: Sequence[Candidate], whole: list[bool], ranking: Ranking, tau: int) -> None:
        self.everything, self.whole = everything, whole
        self.segment, self.index = ranking.segment[:tau], ranking.index[:tau]

    def tunes(self, settings: Spt) -> tuple[Tune, ...]:
        """A module at every sensitive matrix."""
        method = settings.module()
        sites = [c.site for c, whole in zip(self.everything, self.whole, strict=True) if c.site and whole]
        return tuple(Tune(site.name, method, site.rows) for site in sites)

    def full(self) -> tuple[str, ...]:
        """Vectors that train whole; the name of the parameter where all parts of a fused one do."""
        parts: dict[str, list[Candidate]] = {}
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
        device = self.segment.device
        single = ~torch.tensor(self.whole, device=device)[self.segment]
        starts = torch.tensor([c.start for c in self.everything], device=device)
        flat = (self.index + starts[self.segment])[single].cpu()
        segment = self.segment[single].cpu()
        tensors: dict[str, list[Tensor]] = {}
        for number in segment.unique().tolist():
            tensors.setdefault(self.everything[number].tensor, []).append(flat[segment == number])
        for tensor, pieces in tensors.items():
            yield tensor, torch.cat(pieces).sort().values
