"""What verbs return and bundles remember: plain figures, led by the task's metric under its own name."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from tailor.errors import BundleError

Retrain = Literal["none", "1clr", "ft", "tfs"]
"""After a cut: nothing, the full schedule again, a constant small rate, from fresh tunes."""
Trains = Literal["tunes", "full"]
"""What that trains."""
_UNKNOWN: dict[Any, Any] = {float: math.nan, str: ""}


@dataclass(frozen=True)
class Trained:
    """What a training verb returns. `score` is the task's `metric` on `split`; it has that name too (`.accuracy`).

    Where several methods were compared, `cost_of_freezing` of the one that left the backbone as it was holds the metric
    of each other one, less its own.
    """

    bundle: str
    method: str
    score: float
    split: str
    trainable_params: int
    trainable_percent: float
    head_params: int
    bundle_bytes: int
    seconds: float
    epoch: int
    metric: str = "accuracy"
    plan: str = ""
    decoder: str = ""
    diagram: tuple[str, ...] = ()
    cost_of_freezing: Mapping[str, float] = field(default_factory=dict)

    def __getattr__(self, name: str) -> float:
        return _named(self, name, {"": "score"})

    def values(self) -> dict[str, Any]:
        """What JSON holds."""
        return _led(asdict(self), self.metric)


def with_freezing(rows: Sequence[Trained]) -> list[Trained]:
    """The rows; those of a frozen backbone say what tuning it would have gained, method by method of their decoder."""
    return [
        row if row.trainable_params or math.isnan(row.score) else replace(row, cost_of_freezing=_gained(row, rows))
        for row in rows
    ]


def _gained(frozen: Trained, rows: Sequence[Trained]) -> dict[str, float]:
    tuned = [row for row in rows if row.trainable_params and row.decoder == frozen.decoder]
    return {row.method: row.score - frozen.score for row in tuned}


@dataclass(frozen=True)
class Pruned:
    """What pruning did. Scores, the task's `metric` on `split`: dense, after the cut, repaired, and of the bundle.

    `repair` says how the cut was repaired before any training, which took `repair_seconds`.

    They have that name too (`.accuracy_before`). `throughput_ratio` is how many times faster the pruned model is, both
    merged, in turns within `throughput_seconds`, in `runtime`. `latency_ms_before` and `_after`, batch 1, are measured
    in the same way where milliseconds were the target.
    """

    bundle: str
    method: str
    kept_blocks: int
    blocks: int
    macs_before: int
    macs_after: int
    params_before: int
    params_after: int
    score_before: float
    score_cut: float
    score_after: float
    split: str
    retrain: str
    throughput_ratio: float
    throughput_seconds: float
    seconds: float
    metric: str = "accuracy"
    bundle_bytes: int = 0
    reason: str = ""
    warning: str = ""
    adapters: str = ""
    train: str = ""
    steps: int = 1
    latency_ms_before: float = math.nan
    latency_ms_after: float = math.nan
    repair: str = ""
    repair_seconds: float = math.nan
    score_repaired: float = math.nan
    diagram: tuple[str, ...] = ()
    runtime: str = "eager"

    def __getattr__(self, name: str) -> float:
        return _named(self, name, {f"_{when}": f"score_{when}" for when in ("before", "cut", "repaired", "after")})

    def values(self) -> dict[str, Any]:
        """What JSON holds."""
        return _led(asdict(self), self.metric)

    def known(self) -> dict[str, Any]:
        """What was measured, for a file: the rest is left out."""
        return {
            name: value for name, value in asdict(self).items() if value not in ("", ()) and value == value
        }  # NaN is not


def pruned(values: Mapping[str, Any], folder: Path) -> Pruned:
    """What a pruning told of the run in the folder; BundleError where no pruning told it."""
    here = {name: value for name, value in values.items() if value is not None} | {"bundle": str(folder)}
    known: dict[str, Any] = {
        one.name: here.get(one.name, _UNKNOWN.get(one.type, one.default)) for one in fields(Pruned)
    }
    lost = [one.name for one in fields(Pruned) if one.type is int and not isinstance(known[one.name], int)]
    if lost:
        raise BundleError(
            f"`{folder}` does not say its `{lost[0]}`: no pruning wrote it", hint="start anew with another `-o` folder"
        )
    return Pruned(**{**known, "diagram": tuple(known["diagram"])})


def _named(record: Any, name: str, scores: Mapping[str, str]) -> float:
    """The score under the name of its metric."""
    metric = "" if name.startswith("__") else object.__getattribute__(record, "metric")
    for suffix, score in scores.items():
        if metric and name == metric + suffix:
            return object.__getattribute__(record, score)  # type: ignore[no-any-return]
    raise AttributeError(f"`{type(record).__name__}` has no `{name}`")


def _led(values: dict[str, Any], metric: str) -> dict[str, Any]:
    """The values with `score` called what the metric is called."""
    return {
        metric + key.removeprefix("score") if key.partition("_")[0] == "score" else key: value
        for key, value in values.items()
        if key != "metric"
    }


@dataclass(frozen=True)
class Stitched:
    """What a palette came to. `routes` are all of them; `trainable_percent` is of the anchors' parameters."""

    bundle: str
    routes: tuple[Any, ...]
    deployed: int
    trainable_params: int
    trainable_percent: float
    head_params: int
    bundle_bytes: int
    base_bytes: int
    explained: float
    seconds: float
    metric: str = "accuracy"
    split: str = ""


@dataclass(frozen=True)
class Picked:
    """The route that was picked, and the bundle it became. What was not measured is left out of JSON."""

    bundle: str
    route: str
    macs: int
    params: int
    latency_ms: float | None
    accuracy: float | None
    bundle_bytes: int
