"""What `prune` reports, and how it stands in JSON: what was not measured is left out there, and NaN or empty here."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tailor import bundle
from tailor.errors import BundleError
from tailor.verbs.train import bundle_bytes

_UNKNOWN: dict[Any, Any] = {float: math.nan, str: ""}


@dataclass(frozen=True)
class Pruned:
    """What pruning did. Accuracies on `split`: of the dense model, right after the cut, and of the written bundle.

    `throughput_ratio` is how many times faster the pruned model is, both merged, in turns within `throughput_seconds`.
    `latency_ms_before` and `_after`, batch 1, are measured in the same way where milliseconds were the target.
    """

    bundle: str
    method: str
    kept_blocks: int
    blocks: int
    macs_before: int
    macs_after: int
    params_before: int
    params_after: int
    accuracy_before: float
    accuracy_cut: float
    accuracy_after: float
    split: str
    retrain: str
    throughput_ratio: float
    throughput_seconds: float
    seconds: float
    bundle_bytes: int = 0
    reason: str = ""
    warning: str = ""
    adapters: str = ""
    train: str = ""
    steps: int = 1
    latency_ms_before: float = math.nan
    latency_ms_after: float = math.nan


def told(found: Pruned) -> dict[str, Any]:
    """What is known, for JSON."""
    return {name: value for name, value in asdict(found).items() if value != "" and value == value}  # NaN is not itself


def read(values: Mapping[str, Any], folder: Path) -> Pruned:
    """What was told of the run in the folder; BundleError where no pruning told it."""
    here = {name: value for name, value in values.items() if value is not None} | {"bundle": str(folder)}
    known: dict[str, Any] = {field.name: here.get(field.name, _UNKNOWN.get(field.type)) for field in fields(Pruned)}
    lost = [name for name, value in known.items() if value is None]
    if lost:
        raise BundleError(
            f"`{folder}` does not say its `{lost[0]}`: no pruning wrote it", hint="start anew with another `-o` folder"
        )
    return Pruned(**known)


def finished(folder: Path) -> Pruned:
    """What a finished run says again when it is resumed."""
    metrics = bundle.read_manifest(folder).metrics
    values = {**metrics, "accuracy_after": metrics.get("accuracy"), "bundle_bytes": bundle_bytes(folder)}
    return read(values, folder)
