"""`tailor bench BUNDLE|NAME`: MACs, parameters, latency, throughput and memory, measured on the machine at hand."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tailor.errors import UsageError
from tailor.events import Event, Report, silent
from tailor.measure.compiling import compiled
from tailor.measure.count import macs, parameters
from tailor.measure.fold import fold as folded
from tailor.measure.machine import machine
from tailor.measure.memory import peak_memory_bytes
from tailor.measure.speed import PROTOCOLS, Comparison, images, latency, no_gain, throughput
from tailor.verbs.subject import Subject, open_subject


@dataclass(frozen=True)
class Bench:
    """Figures of one model: `latency_ms` is the median at batch 1; the others at batch `batch`, the protocol's.

    `throughput` is images a second by the median forward (`batch_ms`), `throughput_mean` by total time. Of two models,
    `throughput_ratio` and `macs_ratio` say how many times more the first does, and how many times fewer MACs it needs.
    """

    name: str
    macs: int
    params: int
    latency_ms: float
    latency_p10: float
    latency_p90: float
    throughput: float
    throughput_mean: float
    batch: int
    batch_ms: float
    batch_ms_mean: float
    runs: int
    peak_memory_bytes: int
    protocol: str
    seconds_limit: float | None
    merged: bool
    folded: str = ""
    compiled: bool = False
    machine: dict[str, Any] = field(default_factory=dict)
    ratio: dict[str, float] = field(default_factory=dict)
    throughput_ratio: float | None = None
    macs_ratio: float | None = None
    warning: str = ""


def bench(
    name: str,
    *,
    against: str | None = None,
    quick: bool = False,
    protocol: Literal["quick", "sls", "isomorphic"] = "quick",
    batch: int | None = None,
    unmerged: bool = False,
    fold: bool = False,
    compile: bool = False,
    weights: str | None = None,
    image_size: int | None = None,
    report: Report = silent,
) -> Bench | list[Bench]:
    """Measure a bundle or a backbone by name (random weights unless given: speed does not depend on them).

    With `against`, both run in turns in one measurement, and the ratios say how many times faster the first is.
    `quick` takes under 30 seconds; `protocol` names the papers' (`sls`: batch 64 x 100; `isomorphic`: 20 + 100).
    `fold` puts batch norms, and layer norms' affine part, into the layers beside them; `compile` is `torch.compile`.
    """
    if quick and protocol != "quick":
        raise UsageError("`--quick` and `--protocol` contradict each other", hint="leave one of them out")
    if batch is not None and batch < 1:
        raise UsageError(f"a batch of {batch} images cannot be", hint="write for instance `--batch 8`")
    names = [name] if against is None else [name, against]
    subjects = {}
    for one in names:
        if one in subjects:
            raise UsageError(f"`{one}` is measured against itself", hint="name another bundle or model")
        subjects[one] = open_subject(one, weights=weights, image_size=image_size, merge=not unmerged)
    _same_size(subjects)
    rows = _measure([_ready(subject, fold, compile, report) for subject in subjects.values()], protocol, batch, report)
    return _compared(rows) if len(rows) > 1 else rows[0]


def _same_size(subjects: Mapping[str, Subject]) -> None:
    sizes = {subject.size for subject in subjects.values()}
    if len(sizes) > 1:
        found = ", ".join(f"`{name}` {'x'.join(map(str, s.size))}" for name, s in subjects.items())
        raise UsageError(f"the models take images of different sizes: {found}", hint="give one `--image-size` to both")


def _ready(subject: Subject, fold: bool, compile: bool, report: Report) -> tuple[Subject, dict[str, Any]]:
    """The subject as it is to be timed, and the facts that timing leaves alone; MACs are those of the plain model."""
    model = subject.model
    facts = {"macs": macs(model, subject.size), "params": parameters(model), "folded": "", "compiled": compile}
    parameter = next(model.parameters())
    example = images(2, subject.size, parameter.device, parameter.dtype)
    if fold:
        report(Event("folding", text=subject.name))
        done = folded(model, example)
        model, facts["folded"] = done.model, done.line
    if compile:
        report(Event("compiling", text=subject.name))
        model = compiled(model, example[:1])
    return replace(subject, model=model), facts


def _measure(
    ready: list[tuple[Subject, dict[str, Any]]], protocol: str, batch: int | None, report: Report
) -> list[Bench]:
    """All figures; with two models, throughput is measured in turns."""
    report(Event("measuring", 0, 2, "throughput"))
    share = 10.0 if PROTOCOLS[protocol].seconds is not None else None
    models = {subject.name: subject.model for subject, _ in ready}
    many = throughput(models, ready[0][0].size, batch=batch, protocol=protocol, seconds=share)
    made = []
    for subject, facts in ready:
        report(Event("measuring", 1, 2, f"latency of {subject.name}"))
        made.append(_row(subject, facts, many, protocol, None if share is None else 4.0))
    report(Event("measuring", 2, 2))
    return made


def _row(subject: Subject, facts: dict[str, Any], many: Comparison, protocol: str, seconds: float | None) -> Bench:
    """One model's figures; the first of two has the spread of its speed against the other's, round by round."""
    one = latency(subject.model, subject.size, protocol=protocol, seconds=seconds)
    timing = many.timings[subject.name]
    first, *others = many.timings
    ratio = {}
    if subject.name == first and others:
        spread = many.ratios[others[0]]
        ratio = {"median": 1 / spread.median, "p10": 1 / spread.p90, "p90": 1 / spread.p10}
    return Bench(
        name=subject.name,
        latency_ms=one.median,
        latency_p10=one.p10,
        latency_p90=one.p90,
        throughput=timing.images_per_second,
        throughput_mean=timing.mean_images_per_second,
        batch=timing.batch,
        batch_ms=timing.median,
        batch_ms_mean=timing.mean,
        runs=timing.runs,
        peak_memory_bytes=peak_memory_bytes(subject.model, subject.size, batch=timing.batch),
        protocol=protocol,
        seconds_limit=many.limit,
        merged=subject.merged,
        machine=machine(),
        ratio=ratio,
        **facts,
    )


def _compared(rows: list[Bench]) -> list[Bench]:
    """The ratios side by side, those of the model that is compared with being 1, and a warning where MACs mislead."""
    first, other = rows
    faster = first.ratio["median"]
    fewer = other.macs / first.macs
    warning = no_gain(other.macs, first.macs, faster)
    return [
        replace(first, throughput_ratio=faster, macs_ratio=fewer, warning=warning and f"`{first.name}`: {warning}"),
        replace(other, throughput_ratio=1.0, macs_ratio=1.0),
    ]
