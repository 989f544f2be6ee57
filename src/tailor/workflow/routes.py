"""Measuring routes of a palette: milliseconds of the plain models they are picked as, figures on a split."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from tailor.bundle.palette import RouteRecord
from tailor.data.images import Split
from tailor.events import Event, Tell
from tailor.measure.speed import latency
from tailor.spec import Spec
from tailor.tasks import Task
from tailor.workflow.data import score_each

SECONDS = 0.5
"""Of measuring a route's latency; drift of the machine between routes is not taken out."""


def measured(
    plain: Callable[[int], nn.Module], records: Sequence[RouteRecord], which: Iterable[int], spec: Spec, tell: Tell
) -> tuple[RouteRecord, ...]:
    """The records with the median milliseconds, batch 1, of the plain models of the routes named, one by one."""
    found, chosen = list(records), list(which)
    for done, number in enumerate(chosen):
        tell(Event("timing routes", done, len(chosen), records[number].route))
        found[number] = replace(records[number], latency_ms=milliseconds(plain(number), spec))
    return tuple(found)


def milliseconds(model: nn.Module, spec: Spec) -> float:
    """The median milliseconds of a plain model, batch 1, here."""
    return latency(model, spec.inputs, seconds=SECONDS).median


def scored(
    model: Any,
    records: Sequence[RouteRecord],
    which: Iterable[int],
    spec: Spec,
    split: Split,
    task: Task,
    tell: Tell,
) -> tuple[RouteRecord, ...]:
    """The records with the task's leading figure on the split for the routes named."""
    found, chosen = list(records), list(which)
    routes = [partial(model.set_route_, number) for number in chosen]
    every = score_each(model, routes, spec.head, split, spec.preprocessing, tell, f"scoring {len(chosen)} routes")
    for number, figures in zip(chosen, every, strict=True):
        found[number] = replace(records[number], accuracy=float(figures[task.metric]))
    return tuple(found)
