"""What `prune` was asked for, checked before anything is opened, and what it reports."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from tailor import bundle
from tailor.errors import UsageError, nearest
from tailor.pruning.elements import DATA, KNOWN
from tailor.pruning.layers import Sls
from tailor.training import Recipe
from tailor.verbs.beside import Adapters
from tailor.verbs.events import Report
from tailor.verbs.images import Corrupt
from tailor.verbs.narrow import Goal, settings_of
from tailor.verbs.train import bundle_bytes

WIDTHS = ("isomorphic", "depgraph", "uniform", "random")
METHODS = ("sls", *WIDTHS)

Retrain = Literal["none", "1clr", "ft", "tfs"]
Trains = Literal["tunes", "full"]


@dataclass(frozen=True)
class Pruned:
    """What pruning did. Accuracies on `split`: of the dense model, right after the cut, and of the written bundle.

    `throughput_ratio` is how many times faster the pruned model is, both merged, in turns within `throughput_seconds`.
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


def finished(folder: Path) -> Pruned:
    """What a finished run says again when it is resumed."""
    metrics = bundle.read_manifest(folder).metrics
    known = {field.name: metrics[field.name] for field in fields(Pruned) if field.name in metrics}
    known |= {"bundle": str(folder), "bundle_bytes": bundle_bytes(folder), "accuracy_after": metrics["accuracy"]}
    return Pruned(**known)


@dataclass(frozen=True)
class Order:
    """One pruning, complete: of what, how, to what, and what trains afterwards. The seed is the recipe's."""

    name: str
    folder: Path
    method: str
    data: str | None
    sls: Sls
    criterion: str | None
    goal: Goal
    widths: Mapping[str, Any] | None
    classifier: str
    samples: int
    adapters: Adapters
    retrain: Retrain
    train: Trains
    recipe: Recipe
    weights: str | None
    image_size: int | None
    teacher: str | None
    corrupt: Corrupt
    workers: int
    resume: bool
    overwrite: bool
    report: Report

    @property
    def narrows(self) -> bool:
        """Whether widths go, not blocks."""
        return self.method in WIDTHS

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"unknown method `{self.method}`", hint=nearest(self.method, METHODS))
        if self.criterion not in (None, *KNOWN):
            raise UsageError(f"unknown criterion `{self.criterion}`", hint=nearest(str(self.criterion), KNOWN))
        if self.classifier not in ("fresh", "own"):
            raise UsageError(f"no classifier is called `{self.classifier}`", hint="write `own` or `fresh`")
        if not self.data and (self.method == "sls" or self.criterion in DATA or self.retrain != "none"):
            name = "sls" if self.method == "sls" else self.criterion
            what = f"`--retrain {self.retrain}`" if self.retrain != "none" else f"`{name}`"
            raise UsageError(
                f"no data was named, and {what} needs labelled images",
                hint="add `--data DATA`, the images the model was adapted to",
            )
        if self.narrows:
            self.goal.target()
            settings_of(self.method, self.widths, self.adapters)
        elif self.widths:
            raise UsageError(f"`widths:` says nothing to `--method {self.method}`", hint="add `--method isomorphic`")


def trains(asked: Trains | None, method: str, adapters: Adapters) -> Trains:
    """What retraining trains: the tunes where there are any beside the layers, else everything."""
    return asked or ("full" if method in WIDTHS and adapters == "merge" else "tunes")
