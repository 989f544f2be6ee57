"""What `prune` was asked for, checked before anything is opened."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tailor.errors import UsageError, nearest
from tailor.events import Report
from tailor.pruning.elements import DATA, KNOWN
from tailor.pruning.layers import Sls
from tailor.training import Recipe
from tailor.verbs.beside import Adapters
from tailor.verbs.images import Corrupt
from tailor.verbs.narrow import Goal, settings_of
from tailor.verbs.shorten import sls_of

WIDTHS = ("isomorphic", "depgraph", "uniform", "random")
METHODS = ("sls", *WIDTHS)

Retrain = Literal["none", "1clr", "ft", "tfs"]
Trains = Literal["tunes", "full"]


@dataclass(frozen=True)
class Step:
    """Which of how many steps a cut is; `whole` are the sizes, before the first, of the groups that steps have cut."""

    number: int = 1
    of: int = 1
    whole: Mapping[str, int] = field(default_factory=dict)

    @property
    def may_be_empty(self) -> bool:
        """Whether it may remove nothing: before the last step, or where an earlier one removed something."""
        return self.number < self.of or bool(self.whole)


@dataclass(frozen=True)
class Order:
    """One pruning, complete: of what, how, to what, and what trains afterwards. The seed is the recipe's."""

    name: str
    folder: Path
    method: str
    data: str | None
    alpha: float | None
    sls: Mapping[str, Any] | None
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
    recover: int
    step: Step

    @property
    def narrows(self) -> bool:
        """Whether widths go, not blocks."""
        return self.method in WIDTHS

    @property
    def walk(self) -> Sls:
        """How SLS decides."""
        return sls_of(self.alpha, self.sls)

    @property
    def asked(self) -> dict[str, Any]:
        """What decides the outcome, as plain values: it stands in the plan file, and a resumed run must ask the same.

        What training is told besides stands in its checkpoints.
        """
        return {
            "name": self.name.rstrip("/"),
            "data": self.data and self.data.rstrip("/"),
            "method": self.method,
            "alpha": None if self.narrows else self.walk.alpha,
            "sls": dict(self.sls or {}),
            "criterion": self.criterion,
            **asdict(self.goal),
            "widths": dict(self.widths or {}),
            "classifier": self.classifier,
            "samples": self.samples,
            "seed": self.recipe.seed,
            "adapters": self.adapters,
            "retrain": self.retrain,
            "train": self.train,
            "teacher": self.teacher and self.teacher.rstrip("/"),
            "steps": self.step.of,
            "recover": self.recover,
            "weights": self.weights,
            "image_size": self.image_size,
        }

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"unknown method `{self.method}`", hint=nearest(self.method, METHODS))
        if self.criterion not in (None, *KNOWN):
            raise UsageError(f"unknown criterion `{self.criterion}`", hint=nearest(str(self.criterion), KNOWN))
        if self.classifier not in ("fresh", "own"):
            raise UsageError(f"no classifier is called `{self.classifier}`", hint="write `own` or `fresh`")
        _check_used(self)
        if not self.data and (self.method == "sls" or self.criterion in DATA or self.retrain != "none"):
            name = "sls" if self.method == "sls" else self.criterion
            what = f"`--retrain {self.retrain}`" if self.retrain != "none" else f"`{name}`"
            raise UsageError(
                f"no data was named, and {what} needs labelled images",
                hint="add `--data DATA`, the images the model was adapted to",
            )
        if self.samples < 1:
            raise UsageError(f"no image would decide: `--samples {self.samples}`", hint="write `--samples 1000`")
        if self.narrows:
            self.goal.target()
            settings_of(self.method, self.widths, self.adapters)
        else:
            self.walk  # noqa: B018  # refuses what is out of range


def _check_used(order: Order) -> None:
    """UsageError for what was given and would be ignored."""
    if order.narrows and order.alpha is not None:
        raise UsageError(
            f"`--alpha {order.alpha:g}` is for blocks, `{order.method}` cuts widths",
            hint="leave it out, or use `--method sls`",
        )
    if order.narrows and order.sls:
        raise UsageError(
            f"`sls: {dict(order.sls)}` is for blocks, `{order.method}` cuts widths",
            hint="leave it out, or use `--method sls`",
        )
    widths = {f"--{flag}": text for flag, text in asdict(order.goal).items() if text is not None}
    widths |= {"--criterion": order.criterion} if order.criterion else {}
    widths |= {"--adapters": order.adapters} if order.adapters != "merge" else {}
    widths |= {"widths:": dict(order.widths)} if order.widths else {}
    if not order.narrows and widths:
        flag, value = next(iter(widths.items()))
        raise UsageError(
            f"`{flag} {value}` is for widths, `{order.method}` drops blocks",
            hint="add `--method isomorphic`, or leave it out",
        )
    if order.method == "random" and order.criterion not in (None, "random"):
        raise UsageError(
            f"`--method random` draws units, `--criterion {order.criterion}` scores them",
            hint="leave one of the two out",
        )
    if order.image_size is not None and Path(order.name).is_dir():
        raise UsageError(
            f"the bundle `{order.name}` keeps its image size, so `--image-size {order.image_size}` means nothing",
            hint="leave it out, or adapt again at that size",
        )


def trains(asked: Trains | None, method: str, adapters: Adapters) -> Trains:
    """What retraining trains: the tunes where there are any beside the layers, else everything."""
    return asked or ("full" if method in WIDTHS and adapters == "merge" else "tunes")
