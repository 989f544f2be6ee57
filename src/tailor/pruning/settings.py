"""What a width method is told: the share of each part that goes, and how units are ranked, rounded and kept."""

from collections.abc import Mapping
from typing import Literal, get_args

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from tailor.errors import PlanError, UsageError
from tailor.tracing.graph.groups import Label

_STRICT = ConfigDict(extra="forbid", strict=True)
Normaliser = Literal["mean", "max", "none"]
Rounding = Literal["nearest", "down"]
Part = Literal["embedding", "heads", "head_dim", "hidden"]


@dataclass(frozen=True, config=_STRICT)
class Shares:
    """What share of the units goes, for each part a group can play; 0 leaves it alone."""

    embedding: float = 0.0
    heads: float = 0.0
    head_dim: float = 0.0
    hidden: float = 0.0

    def __post_init__(self) -> None:
        for label in get_args(Label):
            if not 0 <= self.of(label) < 1:
                raise PlanError(
                    f"the share of {label} units that goes must be at least 0 and below 100 %: {self.of(label):.0%}",
                    hint="write for instance `50%`; to remove whole blocks use `--method sls`",
                )

    def of(self, label: str) -> float:
        """The share for a group's label."""
        return float(getattr(self, part_of(label)))


def part_of(label: str) -> str:
    """The name of a label's part in settings: `head_dim` for `head dim`."""
    return label.replace(" ", "_")


@dataclass(frozen=True, config=_STRICT)
class Widths:
    """How units are chosen; all but `ranking`, which is the method's, stands in the `widths:` section of a file.

    Widths become multiples of `round_to`, the nearest or the one below; heads are counted one by one. Every group keeps
    `keep_at_least` units. `normaliser` divides the scores of a group; with `everything` its biases, tokens, position
    tables and layer scales count as well. `strict: paper` ranks together what the published code of Isomorphic Pruning
    takes for one shape. Heads are ranked, and head dims, with their `class` as the method says, over `all` layers, or
    each `layer` by itself. A target searches the share of `parts`. `blocks` says how many blocks of a list of blocks
    stay after the cut: those with the highest scores.
    """

    ranking: str = "isomorphic"
    round_to: int = 8
    rounding: Rounding = "nearest"
    keep_at_least: int = 1
    normaliser: Normaliser = "mean"
    everything: bool = False
    strict: Literal["paper"] | None = None
    attention: Literal["class", "all", "layer"] = "class"
    parts: tuple[Part, ...] = ("embedding", "heads", "hidden")
    blocks: Mapping[str, int] = Field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("round_to", "keep_at_least"):
            if getattr(self, name) < 1:
                raise UsageError(f"`{name}` must be at least 1: {getattr(self, name)}", hint="1 changes nothing")
        if not self.parts:
            raise UsageError("`parts` names no part", hint="write for instance `parts: [embedding, hidden]`")
        for path, count in self.blocks.items():
            if count < 1:
                raise UsageError(f"`blocks` must keep at least 1 of `{path}`: {count}", hint="keep at least one")

    def step(self, label: str, size: int) -> int:
        """By how many units a width changes: heads and groups of fewer than two multiples one by one."""
        return 1 if label == "heads" or size < 2 * self.round_to else self.round_to
