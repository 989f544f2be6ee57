"""A width plan: which units of each group stay, and all that follows from it, as plain data.

The plan carries the layout of every tensor and the new value of every attribute, so applying it needs neither a trace
nor an export, and works on any fresh copy of the stock class.
"""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, FiniteFloat, JsonValue
from pydantic.dataclasses import dataclass

from tailor.errors import PlanError

_STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, config=_STRICT)
class Cut:
    """The units of one group that stay; the others are removed."""

    group: str
    size: int
    keep: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.keep:
            raise PlanError(
                f"the cut of `{self.group}` keeps no unit", hint="keep at least one, or drop the whole block"
            )
        if list(self.keep) != sorted(set(self.keep)):
            raise PlanError(f"the units kept of `{self.group}` are not ascending and distinct", hint="sort them")
        if self.keep[0] < 0 or self.keep[-1] >= self.size:
            wrong = self.keep[0] if self.keep[0] < 0 else self.keep[-1]
            raise PlanError(
                f"group `{self.group}` has {self.size} units, but the plan keeps unit {wrong}",
                hint="the plan was made for another backbone; make it again with `tailor prune`",
            )


@dataclass(frozen=True, config=_STRICT)
class Slice:
    """The layout of each dimension of a parameter or buffer, `3*h0*d0`: from it follow the positions that stay."""

    tensor: str
    layouts: tuple[str, ...]


@dataclass(frozen=True, config=_STRICT)
class Setting:
    """The new value of a module's attribute, such as `num_heads`, or of an entry of one: `feature_info[0].num_chs`."""

    module: str
    attribute: str
    value: int | FiniteFloat | tuple[int, ...]


@dataclass(frozen=True, config=_STRICT)
class Rescale:
    """Factor on ranges `(start, stop)` of a tensor's dense first dim, so that `1/sqrt(head dim)` stays what it was."""

    tensor: str
    ranges: tuple[tuple[int, int], ...]
    factor: FiniteFloat


@dataclass(frozen=True, config=_STRICT)
class Recorded:
    """One ATen call. Arguments are numbers or references: `{"value": i}`, `{"tensor": name}`, `{"length": [i, d]}`."""

    operator: str
    args: tuple[JsonValue, ...]
    kwargs: dict[str, JsonValue]


@dataclass(frozen=True, config=_STRICT)
class Replay:
    """What a module computes, call by call, where its class's code fixes sizes. Inputs are the first values."""

    module: str
    steps: tuple[Recorded, ...]
    outputs: tuple[JsonValue, ...]
    single: bool


@dataclass(frozen=True, config=_STRICT)
class WidthPlan:
    """Widths to keep: the decision (`cuts`), and what follows from it for tensors and attributes."""

    cuts: tuple[Cut, ...]
    slices: tuple[Slice, ...]
    settings: tuple[Setting, ...] = ()
    rescales: tuple[Rescale, ...] = ()
    replays: tuple[Replay, ...] = ()
    kind: Literal["width"] = "width"
