"""The figures of a model, or of two in turns, on the machine at hand."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from tailor import backbones
from tailor.bundle.verify import is_palette
from tailor.deploy import runtimes
from tailor.deploy.runtimes import Runtime
from tailor.errors import UsageError
from tailor.events import Event, Tell
from tailor.inputs import Inputs
from tailor.measure.count import macs, parameters
from tailor.measure.fold import fold as folded
from tailor.measure.machine import machine
from tailor.measure.memory import peak_memory_bytes
from tailor.measure.speed import PROTOCOLS, Comparison, latency, throughput
from tailor.tuning.apply import merges
from tailor.workflow.names import is_bundle
from tailor.workflow.opened import deployed, open_bundle


@dataclass(frozen=True)
class Measured:
    """A model to measure: its inputs, whether its tunes were merged, and what timing leaves alone."""

    name: str
    model: nn.Module
    inputs: Inputs
    merged: bool
    facts: dict[str, Any]


def measured(
    names: Sequence[str],
    route: str | None,
    protocol: str,
    batch: int | None,
    unmerged: bool,
    fold: bool,
    runtime: Runtime,
    weights: str | None,
    download: bool,
    image_size: int | None,
    tell: Tell,
) -> list[dict[str, Any]]:
    """A row of figures a model; with two models, throughput is measured in turns."""
    models = [_opened(name, route, weights, download, image_size, not unmerged) for name in names]
    if len({one.inputs for one in models}) > 1:
        found = ", ".join(f"`{one.name}` {one.inputs}" for one in models)
        raise UsageError(f"the models take different inputs: {found}", hint="give one `--image-size` to both")
    ready = [_ready(one, fold, runtime, tell) for one in models]
    tell(Event("measuring", 0, 2, "throughput"))
    share = 10.0 if PROTOCOLS[protocol].seconds is not None else None
    many = throughput(
        {one.name: one.model for one in ready}, ready[0].inputs, batch=batch, protocol=protocol, seconds=share
    )
    rows = []
    for one in ready:
        tell(Event("measuring", 1, 2, f"latency of {one.name}"))
        rows.append(_row(one, many, protocol, None if share is None else 4.0))
    tell(Event("measuring", 2, 2))
    return rows


def _opened(
    name: str, route: str | None, weights: str | None, download: bool, image_size: int | None, merge: bool
) -> Measured:
    """A bundle (with `merge`, its tunes folded in where all of them fold exactly) or a backbone as it comes."""
    if is_bundle(name) or Path(name).is_dir():
        opened = open_bundle(name, weights, download, route if is_palette(Path(name)) else None)
        merged = merge and all(merges(plan) for plan in opened.spec.tuning)
        model = deployed(opened) if merged else opened.model
        return Measured(name, model, opened.spec.inputs, merged, {})
    model = backbones.create(name, weights or "random", image_size)
    return Measured(name, model, backbones.config_of(model).inputs, False, {})


def _ready(one: Measured, fold: bool, runtime: Runtime, tell: Tell) -> Measured:
    """The model as it is to be timed; MACs are those of the plain model."""
    model = one.model
    facts = {"macs": macs(model, one.inputs), "params": parameters(model), "folded": "", "runtime": str(runtime)}
    parameter = next(model.parameters())
    example = one.inputs.example(device=parameter.device, dtype=parameter.dtype)
    if fold:
        tell(Event("folding", text=one.name))
        done = folded(model, example)
        model, facts["folded"] = done.model, done.line
    tell(Event("preparing", text=f"{one.name}: {runtime}"))
    return replace(one, model=runtimes.ready(model, one.inputs, runtime), facts=facts)


def _row(one: Measured, many: Comparison, protocol: str, seconds: float | None) -> dict[str, Any]:
    """One model's figures; the first of two has the spread of its speed against the other's, round by round."""
    alone = latency(one.model, one.inputs, protocol=protocol, seconds=seconds)
    timing = many.timings[one.name]
    first, *others = many.timings
    held = next(one.model.parameters(), None) is not None  # else somebody else's memory, of which torch knows nothing
    ratio = {}
    if one.name == first and others:
        spread = many.ratios[others[0]]
        ratio = {"median": 1 / spread.median, "p10": 1 / spread.p90, "p90": 1 / spread.p10}
    return {
        "name": one.name,
        "latency_ms": alone.median,
        "latency_p10": alone.p10,
        "latency_p90": alone.p90,
        "throughput": timing.images_per_second,
        "throughput_mean": timing.mean_images_per_second,
        "batch": timing.batch,
        "batch_ms": timing.median,
        "batch_ms_mean": timing.mean,
        "runs": timing.runs,
        "peak_memory_bytes": peak_memory_bytes(one.model, one.inputs, batch=timing.batch) if held else None,
        "protocol": protocol,
        "seconds_limit": many.limit,
        "merged": one.merged,
        "machine": machine(),
        "ratio": ratio,
        **one.facts,
    }
