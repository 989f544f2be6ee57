"""What the pruners are told: how far down SLS walks; how units are ranked, rounded and kept."""

from collections.abc import Mapping
from typing import Literal, get_args

from pydantic import Field
from pydantic.dataclasses import dataclass

from tailor.errors import PlanError, UsageError
from tailor.settings import STRICT

Normaliser = Literal["mean", "max", "none"]
Rounding = Literal["nearest", "down"]
Adapters = Literal["merge", "keep", "prune"]
"""What becomes of the tunes when widths are cut."""
WidthKind = Literal["embedding", "heads", "head_dim", "hidden"]
Bridge = Literal["identity", "linear"]
"""What comes in place of a dropped block."""
Recovery = Literal["ridge", "norms", "none"]
"""What follows a cut of widths, before any training: closed-form recovery, new statistics of batch norms, nothing."""


@dataclass(frozen=True, config=STRICT)
class Sls:
    """The settings: `alpha` is the share of the last block's separation that a block must reach.

    Where the last block's separation is not positive a share of it means nothing: `keep` keeps every block, `shift`
    takes the threshold SC_N - (1 - alpha) |SC_N|. `lowest` is the smallest depth the walk may reach.
    """

    alpha: float = 0.3
    below_zero: Literal["keep", "shift"] = "keep"
    lowest: int = 1

    def __post_init__(self) -> None:
        if not -1 <= self.alpha <= 1:
            raise PlanError(f"alpha lies between -1 and 1, found: {self.alpha:g}", hint="write for instance 0.3")
        if self.lowest < 1:
            raise PlanError(f"a model keeps at least one block, found: {self.lowest}", hint="set `lowest` to 1")

    def threshold(self, last: float) -> float:
        """What a block must reach, given the last block's separation."""
        if last > 0 or self.below_zero == "keep":
            return self.alpha * last
        return last - (1 - self.alpha) * abs(last)


@dataclass(frozen=True, config=STRICT)
class Shares:
    """What share of the units goes, for each part a group can play; 0 leaves it alone."""

    embedding: float = 0.0
    heads: float = 0.0
    head_dim: float = 0.0
    hidden: float = 0.0

    def __post_init__(self) -> None:
        for part in get_args(WidthKind):
            if not 0 <= getattr(self, part) < 1:
                raise PlanError(
                    f"the share of {part.replace('_', ' ')} units that goes must be at least 0 and below 100 %: "
                    f"{getattr(self, part):.0%}",
                    hint="write for instance `50%`; to remove whole blocks use `--method sls`",
                )

    def of(self, label: str) -> float:
        """The share for a group's label."""
        return float(getattr(self, part_of(label)))


def part_of(label: str) -> str:
    """The name of a label's part in settings: `head_dim` for `head dim`."""
    return label.replace(" ", "_")


@dataclass(frozen=True, config=STRICT)
class Widths:
    """How units are chosen; all but `ranking` and `drawn`, the method's, stands in the `widths:` section of a file.

    With `drawn` units have random scores. Widths become multiples of `round_to`, the nearest or the one below; heads
    are counted one by one. Every group keeps `keep_at_least` units. `normaliser` divides the scores of a group; with
    `everything` its biases, tokens, position tables and layer scales count as well. `strict: paper` ranks together what
    the published code of Isomorphic Pruning takes for one shape. Heads are ranked, and head dims, with their `class` as
    the method says, over `all` layers, or each `layer` by itself. A target searches the share of `parts`. `blocks` says
    how many blocks of a list of blocks stay after the cut: those with the highest scores.
    """

    ranking: str = "isomorphic"
    round_to: int = 8
    rounding: Rounding = "nearest"
    keep_at_least: int = 1
    normaliser: Normaliser = "mean"
    everything: bool = False
    strict: Literal["paper"] | None = None
    attention: Literal["class", "all", "layer"] = "class"
    parts: tuple[WidthKind, ...] = ("embedding", "heads", "hidden")
    blocks: Mapping[str, int] = Field(default_factory=dict)
    drawn: bool = False

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


@dataclass(frozen=True, config=STRICT)
class Repair:
    """How a cut model is repaired. In order, each layer is given what the layers repaired so far make of the images.

    In `parallel` it is given what the dense model gives it: a fifth of the time, but nothing makes up for the errors of
    others. `ridge` is a share of the inputs' mean variance; of one image `positions` tokens or pixels a layer count.
    Repaired are the `layers` from the first that reads a cut axis or follows a dropped block, or only what stands in
    place of such blocks.
    """

    order: Literal["sequential", "parallel"] = "sequential"
    layers: Literal["behind", "bypass"] = "behind"
    ridge: float = 1e-2
    positions: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if self.ridge < 0 or self.positions < 1:
            raise PlanError(
                f"a repair with ridge {self.ridge:g} and {self.positions} positions an image cannot be",
                hint="leave both out",
            )
