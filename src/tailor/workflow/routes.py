"""Measuring routes of a palette: milliseconds of the plain models they are picked as, figures on a split."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from tailor.bundle.palette import RouteRecord
from tailor.data.images import Split
from tailor.events import Event, Tell, silent
from tailor.measure.speed import latency
from tailor.spec import Spec
from tailor.stitching.picked import picked
from tailor.stitching.routed import Routed
from tailor.tasks import Task
from tailor.tuning.plan import TunePlan
from tailor.workflow.data import score

SECONDS = 0.5
"""Of measuring a route's latency; drift of the machine between routes is not taken out."""


def measured(
    model: Routed, tune: TunePlan, records: Sequence[RouteRecord], which: Iterable[int], spec: Spec, tell: Tell
) -> tuple[RouteRecord, ...]:
    """The records with the median milliseconds, batch 1, of the routes named, one after the other."""
    found, chosen = list(records), list(which)
    for done, number in enumerate(chosen):
        tell(Event("timing routes", done, len(chosen), records[number].route))
        found[number] = replace(records[number], latency_ms=milliseconds(model, tune, number, spec))
    return tuple(found)


def milliseconds(model: Routed, tune: TunePlan, route: int, spec: Spec) -> float:
    """The median milliseconds of the route as a plain model, batch 1, here."""
    timing = latency(picked(model, tune, route), (3, *spec.preprocessing.size), seconds=SECONDS)
    return timing.median


def scored(
    model: Routed,
    records: Sequence[RouteRecord],
    which: Iterable[int],
    spec: Spec,
    split: Split,
    task: Task,
    tell: Tell,
) -> tuple[RouteRecord, ...]:
    """The records with the task's leading figure on the split for the routes named."""
    found, chosen = list(records), list(which)
    for done, number in enumerate(chosen):
        tell(Event("scoring routes", done, len(chosen), records[number].route))
        figures = score(model.set_route_(number), spec.head, split, spec.preprocessing, silent)
        found[number] = replace(records[number], accuracy=float(figures[task.metric]))
    return tuple(found)
