"""One route of a palette as an ordinary bundle: the one that was named, or the best within what was asked."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tailor import budget as budgets
from tailor import bundle
from tailor.bundle.live import dearest, live
from tailor.bundle.palette import Read, RouteRecord, read_palette
from tailor.errors import UsageError
from tailor.events import Event, Tell
from tailor.workflow.records import Picked
from tailor.workflow.routes import milliseconds
from tailor.workflow.wanted import Wanted


def pick(path: Path, wanted: Wanted, base: Path | None, folder: Path, tell: Tell) -> Picked:
    """Choose a route, and write it merged: it is any bundle, and needs neither palette nor anchors."""
    from tailor.workflow.train import bundle_bytes

    found = read_palette(path, base)
    number = choose(found, wanted, tell)
    record = found.manifest.routes[number]
    made = live(found, (number,))
    spec, model = made.spec(number), made.plain(number)
    record = replace(record, latency_ms=milliseconds(model, spec))
    metrics = {
        name: value
        for name, value in (
            (str(found.manifest.metrics.get("metric", "accuracy")), record.accuracy),
            ("macs", record.macs),
            ("params", record.params),
            ("latency_ms", record.latency_ms),
        )
        if value is not None
    }
    facts = {**found.manifest.provenance, "palette": path.name, "route": record.route}
    bundle.write(folder, spec, bundle.state(model, True), complete=True, metrics=metrics, provenance=facts)
    return Picked(
        str(folder), record.route, record.macs, record.params, record.latency_ms, record.accuracy, bundle_bytes(folder)
    )


def choose(found: Read, wanted: Wanted, tell: Tell) -> int:
    """The number of the route that was asked for; UsageError where none will do."""
    wanted.check()
    records = found.manifest.routes
    deployed = sorted((n for n, one in enumerate(records) if one.deployed), key=lambda n: records[n].macs)
    if wanted.route is not None:
        return found.palette.plan.find(wanted.route)
    if wanted.accuracy is not None:
        return _accurate(records, wanted.accuracy)
    if wanted.macs is not None:
        amount = budgets.parse(wanted.macs, "--macs")
        most = amount.of(max(one.macs for one in records))
        return _within(records, deployed, lambda n: records[n].macs, most, f"--macs {wanted.macs}", tell)
    if wanted.latency is not None:
        limit = budgets.parse(wanted.latency, "--latency").value
        times = _timed(found, deployed, tell)
        return _within(records, deployed, times.__getitem__, limit, f"--latency {wanted.latency}", tell)
    return dearest(found)


def _within(
    records: Sequence[RouteRecord],
    deployed: Sequence[int],
    cost: Callable[[int], float],
    most: float,
    asked: str,
    tell: Tell,
) -> int:
    """Of the deployed routes that cost at most that the most accurate, where that was measured, else the dearest."""
    fitting = [n for n in deployed if cost(n) <= most]
    if not fitting:
        least = min(deployed, key=cost)
        name = records[least].route
        raise UsageError(
            f"`{asked}` is below the cheapest deployed route, `{name}`: it has {_said(cost(least))}",
            hint=f"write `--route {name}`, or ask for more",
        )
    if len(fitting) == len(deployed):
        tell(Event("pick", text=f"`{asked}` is above every deployed route: the dearest is taken"))
    measured = [n for n in fitting if records[n].accuracy is not None]
    if measured:
        return max(measured, key=lambda n: (records[n].accuracy or 0.0, -cost(n)))
    return max(fitting, key=cost)


def _said(cost: float) -> str:
    return f"{cost / 1e9:.4g} GMACs" if cost > 1e5 else f"{cost:.3g} ms"


def _timed(found: Read, deployed: Sequence[int], tell: Tell) -> dict[int, float]:
    """Milliseconds of the deployed routes, on this machine."""
    made = live(found, deployed)
    times = {}
    for done, number in enumerate(deployed):
        tell(Event("timing routes", done, len(deployed), found.manifest.routes[number].route))
        times[number] = milliseconds(made.plain(number), made.spec(number))
    return times


def _accurate(records: Sequence[RouteRecord], least: float) -> int:
    """The cheapest route that reaches the accuracy; UsageError where none was measured, or none does."""
    measured = [n for n, one in enumerate(records) if one.accuracy is not None]
    if not measured:
        raise UsageError(
            "the accuracies of this palette's routes were not measured",
            hint="train it with `--evaluate-routes`, or choose by `--macs` or `--latency`",
        )
    reached = [n for n in measured if (records[n].accuracy or 0.0) >= least]
    if not reached:
        best = max(measured, key=lambda n: records[n].accuracy or 0.0)
        raise UsageError(
            f"no route reaches an accuracy of {least:g}: the best is `{records[best].route}` "
            f"with {records[best].accuracy:.3f}",
            hint=f"write `--route {records[best].route}`, or train for longer",
        )
    return min(reached, key=lambda n: records[n].macs)
