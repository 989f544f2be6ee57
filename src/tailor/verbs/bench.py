"""`tailor bench BUNDLE|NAME`: MACs, parameters, latency, throughput and memory, measured on the machine at hand."""

from dataclasses import dataclass, field
from typing import Any, Literal

from tailor.errors import UsageError
from tailor.measure.count import macs, parameters
from tailor.measure.machine import machine
from tailor.measure.memory import peak_memory_bytes
from tailor.measure.speed import latency, throughput
from tailor.verbs.events import Event, Report, silent
from tailor.verbs.subject import Subject, open_subject


@dataclass(frozen=True)
class Bench:
    """Figures of one model: `latency_ms` is the median at batch 1, `throughput` images a second at batch `batch`."""

    name: str
    macs: int
    params: int
    latency_ms: float
    latency_p10: float
    latency_p90: float
    throughput: float
    batch: int
    peak_memory_bytes: int
    protocol: str
    seconds_limit: float | None
    merged: bool
    machine: dict[str, Any] = field(default_factory=dict)
    ratio: dict[str, float] = field(default_factory=dict)


def bench(
    name: str,
    *,
    against: str | None = None,
    quick: bool = False,
    protocol: Literal["quick", "sls", "isomorphic"] = "quick",
    batch: int | None = None,
    unmerged: bool = False,
    weights: str | None = None,
    image_size: int | None = None,
    report: Report = silent,
) -> Bench | list[Bench]:
    """Measure a bundle or a backbone by name (random weights unless given: speed does not depend on them).

    With `against`, both run in turns in one measurement, and `ratio` says how many times faster the first is.
    `quick` takes under 30 seconds; `protocol` names the papers' (`sls`: batch 64 x 100; `isomorphic`: 20 + 100).
    """
    if quick and protocol != "quick":
        raise UsageError("`--quick` and `--protocol` contradict each other", hint="leave one of them out")
    names = [name] if against is None else [name, against]
    subjects = {}
    for one in names:
        if one in subjects:
            raise UsageError(f"`{one}` is measured against itself", hint="name another bundle or model")
        subjects[one] = open_subject(one, weights=weights, image_size=image_size, merge=not unmerged)
    return _measure(subjects, protocol, batch, report)


def _measure(subjects: dict[str, Subject], protocol: str, batch: int | None, report: Report) -> Any:
    """All figures; with two subjects, throughput is measured in turns."""
    size = next(iter(subjects.values())).size
    models = {name: s.model for name, s in subjects.items()}
    report(Event("measuring", 0, 2, "throughput"))
    share = 10.0 if protocol == "quick" else None
    many = throughput(models, size, batch=batch, protocol=protocol, seconds=share)
    made = []
    for index, (name, subject) in enumerate(subjects.items()):
        report(Event("measuring", 1, 2, f"latency of {name}"))
        one = latency(subject.model, subject.size, protocol=protocol, seconds=None if share is None else 4.0)
        timing = many.timings[name]
        ratio = {}
        if index == 0 and len(subjects) > 1:
            other = list(subjects)[1]
            spread = many.ratios[other]
            ratio = {"median": 1 / spread.median, "p10": 1 / spread.p90, "p90": 1 / spread.p10}
        made.append(
            Bench(
                name=name,
                macs=macs(subject.model, subject.size),
                params=parameters(subject.model),
                latency_ms=one.median,
                latency_p10=one.p10,
                latency_p90=one.p90,
                throughput=timing.images_per_second,
                batch=timing.batch,
                peak_memory_bytes=peak_memory_bytes(subject.model, subject.size, batch=timing.batch),
                protocol=protocol,
                seconds_limit=many.limit,
                merged=subject.merged,
                machine=machine(),
                ratio=ratio,
            )
        )
    report(Event("measuring", 2, 2))
    return made if len(made) > 1 else made[0]
