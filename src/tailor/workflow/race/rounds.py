"""The race itself: rounds of short trainings, the better half of each goes on, and the last one trains to the end.

Everybody learns from the dense model where the task knows how, and goes on from where its last round left it.
"""

import time
from dataclasses import dataclass, replace

from torch import Tensor

from tailor.events import Event
from tailor.plans import AnyPlan
from tailor.pruning.race.candidates import Candidate
from tailor.pruning.race.clock import Round, epochs, part, rounds
from tailor.workflow.decision import RACE
from tailor.workflow.foretell import seconds_an_epoch
from tailor.workflow.race.arena import Arena
from tailor.workflow.race.find import MILDER, REPAIRED, find
from tailor.workflow.race.ledger import Ledger, opened
from tailor.workflow.train import fit_

FEWEST = 3
"""Epochs of a first round that are worth a round."""
RESERVED = 0.06
"""Share of the time that is kept for comparing the winner with the dense model at the end."""


@dataclass(frozen=True)
class Won:
    """The race when it is over: all candidates, the winner, and its tensors after its trainings."""

    candidates: list[Candidate]
    winner: Candidate
    plans: tuple[AnyPlan, ...]
    tensors: dict[str, Tensor]


def race(arena: Arena) -> Won:
    """Find candidates, or take up those of an interrupted race; train them in rounds; the winner."""
    ledger = opened(arena.context.folder / RACE, arena.context.resume)
    if not ledger.found:
        ledger = ledger.written(arena.clock.spent, found=tuple(find(arena)))
    kept: dict[str, dict[str, Tensor]] = {}
    plan = rounds(_starting(arena, ledger), arena.settings.rounds)
    for number in range(len(plan)):
        if number == len(ledger.planned):
            ledger = ledger.written(arena.clock.spent, planned=(*ledger.planned, _planned(arena, ledger, plan, number)))
        for name in ledger.planned[number]:
            ledger = _run(arena, ledger, kept, name, number)
    won = ledger.of(next(iter(ledger.planned[-1])))
    return Won(ledger.candidates, won.candidate, won.plans, kept[won.candidate.name])


def _starting(arena: Arena, ledger: Ledger) -> int:
    """How many start: as many as can train for some epochs each, so that the round says something."""
    if ledger.planned:
        return sum(ledger.of(name).candidate.meets for name in ledger.planned[0])
    meeting = arena.judge.entrants([one for one in ledger.candidates if one.measured], arena.settings.entrants)
    if not arena.settings.rounds or len(meeting) == 1:
        return 1
    seconds = arena.settings.rounds[0] * max(0.0, arena.clock.left - RESERVED * arena.clock.limit)
    return max(1, min(len(meeting), int(seconds / (FEWEST * _foretold(arena, ledger, meeting[0].name)))))


def _planned(arena: Arena, ledger: Ledger, plan: tuple[Round, ...], number: int) -> dict[str, int]:
    """Who runs in this round, best first, and for how many epochs."""
    before = [ledger.of(name).candidate for name in (ledger.planned[number - 1] if number else ())]
    running = [one for one in before if one.meets]
    count = plan[number].entrants
    measured = [one for one in ledger.candidates if one.measured]
    chosen = arena.judge.best(running, count) if number else arena.judge.entrants(measured, count)
    seconds = part(plan, number, max(0.0, arena.clock.left - RESERVED * arena.clock.limit))
    if len(plan) > 1 and not number:  # what else could be had trains as long as those that start
        milder = [one for one in measured if not one.meets and one.name.endswith(MILDER)]
        seconds, chosen = seconds * count / (count + len(milder)), [*chosen, *milder]
    most = arena.context.recipe.epochs
    return {one.name: epochs(seconds, one.each or _foretold(arena, ledger, one.name), most) for one in chosen}


def _foretold(arena: Arena, ledger: Ledger, name: str) -> float:
    """Seconds that an epoch of a candidate will take."""
    images = arena.context.images
    assert images is not None
    return seconds_an_epoch(arena.cut(ledger.of(name).plans), images, arena.recipe(1))


def _run(arena: Arena, ledger: Ledger, kept: dict[str, dict[str, Tensor]], name: str, number: int) -> Ledger:
    """One training of one candidate, gone on with where it was interrupted; its tensors are kept."""
    stage, found, passes = f"round {number + 1}", ledger.of(name), ledger.planned[number][name]
    began = time.perf_counter()
    repaired = REPAIRED in found.candidate.scores and name not in kept
    student = arena.repaired(name, found.plans) if repaired else arena.cut(found.plans)
    if name in kept:
        student.model.load_state_dict(kept[name])
    folder = ledger.folder / name / str(number + 1)
    arena.context.tell(Event("racing", text=f"{stage}: {name}, {passes} epochs"))
    run = replace(arena.context.run(), recipe=arena.recipe(passes), folder=folder, teacher=arena.guide)
    metrics = fit_(student, run).metrics
    score = float(metrics[arena.context.task.metric])
    kept[name] = {n: tensor.detach().cpu().clone() for n, tensor in student.model.state_dict().items()}
    if stage in found.candidate.scores:  # it was over before the race was interrupted
        return ledger
    candidate = replace(found.candidate, epochs={**found.candidate.epochs, stage: passes})
    candidate = candidate.scored(stage, score, time.perf_counter() - began)
    arena.context.tell(Event("racing", text=f"{stage}: {name} {score:.3f} on val"))
    return ledger.scored(candidate, arena.clock.spent)
