"""What the searches and the written architectures are told: plain data, readable without loading torch."""

import math
from typing import Literal

from pydantic.dataclasses import dataclass

from tailor.errors import PlanError
from tailor.pruning.convolve.plan import STRICT, Closing, Operation, Order, Scope, Skip

SearchedKind = Literal["attention", "hidden"]


@dataclass(frozen=True, config=STRICT)
class Wrapping:
    """How the convolutions share weights and the gates choose: what the search and the conversion must agree on.

    With `paths: multi` they share none: each is a path of its own, drawn at random (what the thesis compares with).
    """

    order: Order = "bn-relu"
    skip: Skip = "zero"
    scope: Scope = "map"
    closing: Closing = "dominant"
    temperature: float = 1.0
    start: float = 1.5
    attention: bool = True
    hidden: bool = True
    paths: Literal["single", "multi"] = "single"


@dataclass(frozen=True, config=STRICT)
class Search:
    """How long to search and how. `gate_lr` is the rate of the gates, which have no weight decay, `lr` the weights'.

    `start` is where gates start (chance 0.82), `order`, `skip`, `scope` and `closing` as in `Wrapping`; the released
    models take `skip: norm` and a `temperature` of 0.01 (DeiT) or 100 (Swin). `descent` is the part of the search in
    which the aim falls, `tolerance` how far from the target an adaptive search may end, in shares of the target.
    `paths: multi` gives the convolutions weights of their own; `table: released` takes the arithmetic of the released
    code for the cost; `folded` leaves no batch norms in the model.
    """

    updates: int = 1000
    batch_size: int = 32
    gate_lr: float = 1e-2
    lr: float = 1e-4
    weight_decay: float = 0.05
    start: float = 1.5
    pull: Literal["adaptive"] | float = "adaptive"
    descent: float = 0.6
    tolerance: float = 0.03
    order: Order = "bn-relu"
    skip: Skip = "zero"
    scope: Scope = "map"
    closing: Closing = "dominant"
    temperature: float = 1.0
    parts: tuple[SearchedKind, ...] = ("attention", "hidden")
    paths: Literal["single", "multi"] = "single"
    table: Literal["counted", "released"] = "counted"
    folded: bool = False

    def __post_init__(self) -> None:
        if self.gate_lr * self.updates < self.start:
            least = math.ceil(self.start / self.gate_lr)
            raise PlanError(
                f"no gate could close: it starts at {self.start:g} and moves by at most {self.gate_lr:g} in each of "
                f"{self.updates:,} updates",
                hint=f"search at least {least:,} updates, {2 * least:,} to decide anything, or raise `gate_lr`",
            )
        if not self.parts:
            raise PlanError("`parts` names nothing to search", hint="write `parts: [attention, hidden]`")
        _above_zero(self, "batch_size", "gate_lr", "lr", "temperature")
        if not 0 <= self.descent <= 1 or not 0 < self.tolerance < 1:
            raise PlanError("`descent` and `tolerance` are shares", hint="write for instance 0.6 and 0.03")
        if not isinstance(self.pull, str) and not self.pull > 0:
            raise PlanError(f"`pull` must be above 0: {self.pull:g}", hint="write for instance 30, or `adaptive`")

    @property
    def wrapping(self) -> Wrapping:
        """What the supernet is told."""
        return Wrapping(
            order=self.order,
            skip=self.skip,
            scope=self.scope,
            closing=self.closing,
            temperature=self.temperature,
            start=self.start,
            attention="attention" in self.parts,
            hidden="hidden" in self.parts,
            paths=self.paths,
        )


LETTERS: dict[str, Operation] = {"S": "none", "1": "conv1", "3": "conv3", "A": "attention"}
"""How an architecture is written, a letter a block."""


@dataclass(frozen=True, config=STRICT)
class Written:
    """An architecture as a file says it: `operations` a letter a block (A, 3, 1 or S; empty: every attention stays).

    `hidden` is the number of hidden units by block (empty: all stay); the rest as in a search.
    """

    operations: str = ""
    hidden: tuple[int, ...] = ()
    order: Order = "bn-relu"
    skip: Skip = "zero"
    scope: Scope = "map"
    folded: bool = False

    def __post_init__(self) -> None:
        unknown = sorted(set(self.operations) - set(LETTERS))
        if unknown:
            raise PlanError(
                f"`{unknown[0]}` is no operation", hint="write A (attention), 3, 1 (convolution) or S (none)"
            )


@dataclass(frozen=True, config=STRICT)
class RandomArchitecture:
    """Of which parts a random architecture is drawn; the rest as in a search."""

    parts: tuple[SearchedKind, ...] = ("attention", "hidden")
    order: Order = "bn-relu"
    skip: Skip = "zero"
    scope: Scope = "map"
    folded: bool = False

    def __post_init__(self) -> None:
        if not self.parts:
            raise PlanError("`parts` names nothing to draw", hint="write `parts: [attention, hidden]`")


@dataclass(frozen=True, config=STRICT)
class StepSearch:
    """How long to learn the scores, their rate and the weights'; scores start as normal numbers of size `start`."""

    updates: int = 1000
    batch_size: int = 32
    gate_lr: float = 1e-2
    lr: float = 1e-4
    weight_decay: float = 0.05
    start: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        _above_zero(self, "updates", "batch_size", "gate_lr", "lr", "start")


def _above_zero(settings: object, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if not value > 0:
            raise PlanError(f"`{name}` must be above 0: {value:g}", hint=f"change `{name}`")
