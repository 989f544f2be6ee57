"""`tailor bench BUNDLE|NAME`: MACs, parameters, latency, throughput and memory, measured on the machine at hand."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tailor.deploy import runtimes
from tailor.errors import UsageError
from tailor.events import Tell
from tailor.workflow.telling import SHOWN, told


@dataclass(frozen=True)
class Bench:
    """Figures of one model: `latency_ms` is the median at batch 1; the others at batch `batch`, the protocol's.

    `throughput` is images a second by the median forward (`batch_ms`), `throughput_mean` by total time. Of two models,
    `throughput_ratio` and `macs_ratio` say how many times more the first does, and how many times fewer MACs it needs.
    `peak_memory_bytes` is what torch allocates: None in ONNX Runtime, which has memory of its own.
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
    peak_memory_bytes: int | None
    protocol: str
    seconds_limit: float | None
    merged: bool
    folded: str = ""
    runtime: str = "eager"
    machine: dict[str, Any] = field(default_factory=dict)
    ratio: dict[str, float] = field(default_factory=dict)
    throughput_ratio: float | None = None
    macs_ratio: float | None = None
    warning: str = ""


def bench(
    name: str | Path,
    *,
    against: str | Path | None = None,
    quick: bool = False,
    protocol: Literal["quick", "sls", "isomorphic"] = "quick",
    batch: int | None = None,
    unmerged: bool = False,
    fold: bool = False,
    runtime: runtimes.Name = "eager",
    channels_last: bool = False,
    route: str | None = None,
    weights: str | None = None,
    download: bool = False,
    image_size: int | None = None,
    device: str | None = None,
    progress: Tell | None = SHOWN,
) -> Bench | list[Bench]:
    """Measure a bundle or a backbone by name (random weights unless given: speed does not depend on them).

    With `against`, both run in turns in one measurement, and the ratios say how many times faster the first is.

    Args:
        name: a bundle, or a backbone's name.
        against: another one, measured in the same run.
        quick: be done in under 30 seconds.
        protocol: `quick`, or a paper's (`sls`: batch 64 x 100; `isomorphic`: 20 + 100).
        batch: images a forward pass, other than the protocol's.
        unmerged: measure the tunes as modules of their own, not folded into the layers.
        fold: put batch norms, and layer norms' affine part, into the layers beside them.
        runtime: what carries the models out: `eager` PyTorch, `compile` (torch.compile) or `onnx` (ONNX Runtime).
        channels_last: hold the channels of a pixel side by side, which some convolutions run faster with.
        route: of a palette, by name; by default the dearest that is deployed.
        weights: a moved checkpoint file of the backbone.
        download: whether what the bundle's backbone lacks on this machine may be fetched.
        image_size: pixels a side, other than the backbone's own.
        device: `cpu`, `cuda`, `mps`.
        progress: hears events; by default they are drawn in a terminal or notebook, None silences.
    """
    if quick and protocol != "quick":
        raise UsageError("`--quick` and `--protocol` contradict each other", hint="leave one of them out")
    if batch is not None and batch < 1:
        raise UsageError(f"a batch of {batch} images cannot be", hint="write for instance `--batch 8`")
    runtimes.check(runtime)
    asked = runtimes.Runtime(runtime, channels_last)
    names = [str(one) for one in (name, against) if one is not None]
    if len(set(names)) < len(names):
        raise UsageError(f"`{name}` is measured against itself", hint="name another bundle or model")
    with told(progress) as tell:
        from tailor.workflow.bench import measured
        from tailor.workflow.place import placed

        with placed(device):
            rows = measured(names, route, protocol, batch, unmerged, fold, asked, weights, download, image_size, tell)
    made = [Bench(**row) for row in rows]
    return _compared(made) if len(made) > 1 else made[0]


def _compared(rows: list[Bench]) -> list[Bench]:
    """The ratios side by side, those of the model that is compared with being 1, and a warning where MACs mislead."""
    from tailor.measure.speed import no_gain

    first, other = rows
    faster = first.ratio["median"]
    fewer = other.macs / first.macs
    warning = no_gain(other.macs, first.macs, faster)
    return [
        replace(first, throughput_ratio=faster, macs_ratio=fewer, warning=warning and f"`{first.name}`: {warning}"),
        replace(other, throughput_ratio=1.0, macs_ratio=1.0),
    ]
