"""Finding candidates: for some depths, the widths with which each should just meet the target; the best are measured.

A pace foretells what a cut takes. All candidates are scored on val as they are cut; those that are to train are
measured with the dense model in turns, and their widths put right until they meet the target.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tailor.errors import PlanError
from tailor.events import Event
from tailor.measure.count import parameters
from tailor.plans import AnyPlan
from tailor.pruning.race.aim import MEASURED
from tailor.pruning.race.candidates import Candidate
from tailor.pruning.settings import Widths
from tailor.workflow.race.arena import DENSE, Arena, stored
from tailor.workflow.race.depths import FIRST, grid, kept_at, orders
from tailor.workflow.race.shallow import Measure, Shallow, shallow
from tailor.workflow.race.timing import COUNTED, MIXES, OVERHEAD, Foretold, foretell

MARGIN = 0.97
"""Of the time that is asked for, what a candidate may take: another measurement of it may be slower."""
SLACK = 0.05
"""How far below its limit a candidate's time may be before it is given more units."""
MENDED, REPAIRED = 0.6, "repaired"
"""The share of the time after which nothing is repaired any more, and the name of that stage."""
MILDER = "-milder"
"""What the name of a candidate ends with that is not to meet the target."""
TURNS = 3
"""How often widths are put right by a measurement."""


@dataclass(frozen=True)
class PlannedCandidate:
    """A candidate, and the plans that lead to it."""

    candidate: Candidate
    plans: tuple[AnyPlan, ...]


@dataclass(frozen=True)
class Draft:
    """Widths of a model with fewer blocks, and the measure by which they were found."""

    name: str
    base: Shallow
    settings: Widths
    measure: Measure
    counts: Mapping[str, int]

    @property
    def plans(self) -> tuple[AnyPlan, ...]:
        """What leads to it."""
        return self.base.cut(self.counts)

    def again(self, over: float) -> "Draft":
        """With the widths that it needs where it took a share more than foretold; as it is where there are none."""
        measure = replace(self.measure, limit=self.measure.limit / (1 + over))
        counts = self.base.solved(self.settings, measure)
        return self if counts is None else replace(self, measure=measure, counts=counts)


def find(arena: Arena) -> list[PlannedCandidate]:
    """Candidates, as many as the clock allows for, those that are to train measured; PlanError where none can be."""
    until = arena.clock.spent + arena.settings.finding * arena.clock.left
    blocks = len(arena.opened.anatomy.blocks)
    whole = shallow(arena, f"{blocks}-blocks", range(blocks))
    ways = orders(arena)
    bases = [whole, shallow(arena, "", kept_at(ways[FIRST], blocks, max(1, blocks // 3)))] if ways else [whole]
    foretold = foretell(arena, bases)
    measure = _measure(arena, whole, foretold)
    drafts: list[Draft] = []
    for base in _bases(arena, whole, ways, measure):
        for mix, parts in MIXES.items():
            settings = Widths(round_to=foretold.rounding, parts=parts)
            counts = base.solved(settings, measure)
            if counts is not None and not any(d.base is base and d.counts == counts for d in drafts):
                drafts.append(Draft(f"{base.name}-{mix}", base, settings, measure, counts))
        arena.context.tell(Event("candidates", text=f"{len(drafts)} that should meet the target"))
        if drafts and arena.clock.spent > until:
            break
    if not drafts:
        dense = foretold.dense if arena.aim.quantity in MEASURED else measure.of(whole.load(whole.whole))
        least = measure.of(whole.load(whole.at(0.95, Widths(round_to=foretold.rounding))).times(1 / max(blocks, 1)))
        wanted, most = (arena.aim.said(value, foretold.dense) for value in (arena.aim.limit(dense), least))
        raise PlanError(
            f"nothing of this model comes to {wanted}: one block at its least comes to {most}", hint="ask for less"
        )
    found = {draft.name: _foretold(arena, draft, foretold) for draft in drafts}
    found, right = _measured(arena, {draft.name: draft for draft in drafts}, found)
    mended = [_repaired(arena, one) if one.candidate.measured else one for one in found.values()]
    return [*mended, *_milder(arena, whole, right, [one.candidate for one in mended], measure)]


def _measure(arena: Arena, whole: Shallow, foretold: Foretold) -> Measure:
    """How the aim's quantity follows from a load."""
    aim = arena.aim
    if aim.quantity in MEASURED:
        return Measure(aim.limit(foretold.dense) * MARGIN, foretold.pace)
    of = COUNTED[aim.quantity]
    return Measure(aim.limit(of(whole.load(whole.whole))), of)


def _bases(arena: Arena, whole: Shallow, ways: Mapping[str, Sequence[int]], measure: Measure) -> Iterator[Shallow]:
    """The model at the depths of the grid, its blocks chosen in each of the ways."""
    blocks = whole.depth
    if not ways:
        yield whole
        return
    free = min(len(order) for order in ways.values())
    fewest = max(arena.settings.least, blocks - free, 1)
    load = whole.load(whole.whole)
    enough = [d for d in range(fewest, blocks + 1) if measure.of(load.times(d / blocks)) <= measure.limit]
    for depth in grid(blocks, min(max(enough, default=fewest), blocks), arena.settings.depths):
        seen: set[tuple[int, ...]] = set()
        for way, order in ways.items():
            stay = kept_at(order, blocks, depth)
            if stay not in seen:
                seen.add(stay)
                yield whole if depth == blocks else shallow(arena, f"{depth}-blocks-{way}", stay)


def _foretold(arena: Arena, draft: Draft, foretold: Foretold) -> PlannedCandidate:
    """The draft as a candidate, its time foretold, scored on val."""
    ms = foretold.pace(draft.base.load(draft.counts))
    return _scored(arena, draft, ms, foretold.dense / ms)


def _scored(
    arena: Arena, draft: Draft, ms: float, speed: float, meets: bool = True, measured: bool = False
) -> PlannedCandidate:
    """The draft as a candidate of that time, scored on val as it is cut."""
    began, plans = time.perf_counter(), draft.plans
    model = arena.cut(plans).model
    candidate = Candidate(
        name=draft.name,
        depth=draft.base.depth,
        plans=draft.base.words(plans),
        ms=round(ms, 3),
        speed=round(speed, 3),
        macs=arena.macs(model),
        params=parameters(model),
        bytes=stored(model) + OVERHEAD,
        meets=meets,
        measured=measured,
    )
    scored = candidate.scored("cut", arena.scored(model), time.perf_counter() - began)
    text = f"{scored.name}: {scored.speed:.2f}x, {scored.score:.3f} on val as cut; {scored.plans}"
    arena.context.tell(Event("candidates", text=text))
    return PlannedCandidate(scored, plans)


def _milder(
    arena: Arena, whole: Shallow, drafts: Mapping[str, Draft], found: Sequence[Candidate], measure: Measure
) -> list[PlannedCandidate]:
    """The best candidate half of the way to the target, on the scale of ratios: for the front."""
    ready = [one for one in found if one.measured and one.meets]
    draft = drafts[arena.judge.best(ready, 1)[0].name]
    half = replace(measure, limit=(measure.of(whole.load(whole.whole)) * measure.limit) ** 0.5)
    counts = draft.base.solved(draft.settings, half)
    if counts is None or counts == draft.counts:
        return []
    milder = replace(draft, name=f"{draft.name}{MILDER}", counts=counts)
    models = {DENSE: arena.opened.model, milder.name: arena.cut(milder.plans).model}
    times = arena.timed(models, arena.batch, arena.seconds / 2)
    return [_scored(arena, milder, *times[milder.name], meets=False, measured=True)]


def _measured(
    arena: Arena, drafts: dict[str, Draft], found: dict[str, PlannedCandidate]
) -> tuple[dict[str, PlannedCandidate], dict[str, Draft]]:
    """With those that are to train measured, and their widths put right; and the drafts as they are then."""
    entrants = arena.judge.entrants([one.candidate for one in found.values()], arena.settings.entrants)
    names: list[str] = [one.name for one in entrants]
    times: dict[str, tuple[float, float]] = {}
    for turn in range(TURNS):
        models = {DENSE: arena.opened.model, **{name: arena.cut(drafts[name].plans).model for name in names}}
        arena.context.tell(Event("measuring", text=f"{len(models)} models in turns, {arena.batch} images a pass"))
        times |= arena.timed(models, arena.batch, arena.seconds)
        fixed = {name: _put_right(arena, drafts[name], times) for name in names}
        names = [name for name in names if fixed[name].counts != drafts[name].counts]
        if not names or turn == TURNS - 1:
            break
        drafts = {**drafts, **fixed}
    for one in entrants:
        meets = arena.aim.quantity not in MEASURED or _over(arena, times, one.name) <= 1 / MARGIN - 1
        found[one.name] = _scored(arena, drafts[one.name], *times[one.name], meets=meets, measured=True)
    if not any(found[one.name].candidate.meets for one in entrants):
        fastest = max(found[one.name].candidate.speed for one in entrants)
        raise PlanError(
            f"no candidate meets the target: the fastest is {fastest:.2f}x faster",
            hint="ask for less, or try again while the machine does nothing else",
        )
    return found, drafts


def _repaired(arena: Arena, found: PlannedCandidate) -> PlannedCandidate:
    """The candidate repaired before it trains, where its race has time for that, and scored on val again."""
    one, began = found.candidate, time.perf_counter()
    if not one.meets or not found.plans or arena.clock.spent > MENDED * arena.clock.limit:
        return found
    score = arena.scored(arena.repaired(one.name, found.plans).model)
    arena.context.tell(Event("candidates", text=f"{one.name}: {one.score:.3f} on val as cut, {score:.3f} repaired"))
    return replace(found, candidate=one.scored(REPAIRED, score, time.perf_counter() - began))


def _put_right(arena: Arena, draft: Draft, times: Mapping[str, tuple[float, float]]) -> Draft:
    """The draft with other widths where it misses the limit by too much."""
    if arena.aim.quantity not in MEASURED:
        return draft
    over = _over(arena, times, draft.name)
    return draft.again(over) if over > 0 or over < -SLACK else draft


def _over(arena: Arena, times: Mapping[str, tuple[float, float]], name: str) -> float:
    """By what share a model's time is above its limit."""
    if arena.aim.quantity == "speed":
        return arena.aim.value / MARGIN / times[name][1] - 1
    return times[name][0] / (arena.aim.limit(times[DENSE][0]) * MARGIN) - 1
