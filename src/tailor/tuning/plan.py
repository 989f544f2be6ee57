"""The tuning plan: what trains, as plain data. Making one is `planner`'s and `spt`'s work, doing it `apply`'s."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal, Union

from pydantic import Field
from pydantic.dataclasses import dataclass

from tailor.errors import PlanError
from tailor.settings import STRICT
from tailor.tuning.method import Geometry, Module
from tailor.tuning.methods import MODULES

if TYPE_CHECKING:
    AnyModule = Module
else:
    AnyModule = Union[tuple(MODULES.values())]  # noqa: UP007
    """One of `MODULES`, for plans read from JSON."""


@dataclass(frozen=True, config=STRICT)
class Tune:
    """One method at one place: a module path, for a part of a fused layer its `rows`, for a block its geometry."""

    site: str
    method: Annotated[AnyModule, Field(discriminator="kind")]
    rows: tuple[int, int] | None = None
    geometry: Geometry | None = None

    @property
    def path(self) -> str:
        """The module's path, without the part's name."""
        return self.site.partition("[")[0]


@dataclass(frozen=True, config=STRICT)
class Entries:
    """Single entries of one tensor that train: flat indices, sorted, each once."""

    tensor: str
    indices: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.indices:
            raise PlanError(f"the plan names no entry of `{self.tensor}`", hint="leave the tensor out instead")
        if any(a >= b for a, b in zip(self.indices, self.indices[1:])) or self.indices[0] < 0:
            raise PlanError(
                f"the entries of `{self.tensor}` are not sorted, not distinct, or negative",
                hint="sort them and remove repetitions",
            )


@dataclass(frozen=True, config=STRICT)
class TunePlan:
    """What trains: parameters in `full` (whole, or a range `name[a:b]`), modules in `tunes`, single `entries`.

    The classifier always trains and is not named. `cost` is the number of trainable parameters without it; `facts` say
    how the plan came about (budget asked for, seed, unit of the sensitivity, images seen).
    """

    method: str
    full: tuple[str, ...] = ()
    tunes: tuple[Tune, ...] = ()
    entries: tuple[Entries, ...] = ()
    cost: int = 0
    facts: dict[str, str | int | float] = Field(default_factory=dict)
    kind: Literal["tune"] = "tune"


def without(plan: TunePlan, blocks: Sequence[str], dropped: Collection[str]) -> TunePlan:
    """The plan on a model that is to lose the blocks `dropped` of all its `blocks` (paths, in order).

    What trains in them is left out. Tokens that would leave the sequence after the last block leave after the last
    that stays. `cost` is not counted again.
    """

    def gone(name: str) -> bool:
        return any(name == path or name.startswith(f"{path}.") for path in dropped)

    last = next(path for path in reversed(blocks) if path not in dropped)
    tunes = {(tune.site, tune.method, tune.rows): tune for tune in plan.tunes if not gone(tune.path)}
    for tune in plan.tunes:
        place = tune.geometry
        if gone(tune.path) and place is not None and place.leaves and not place.enters:
            there = (last, tune.method, tune.rows)
            first = tunes.get(there)
            joined = replace(place, enters=first is not None)  # they join and leave at the same block
            tunes[there] = replace(tune, site=last, geometry=joined)
    return replace(
        plan,
        full=tuple(name for name in plan.full if not gone(name)),
        tunes=tuple(tunes.values()),
        entries=tuple(entries for entries in plan.entries if not gone(entries.tensor)),
    )


def renamed(plan: TunePlan, rename: Callable[[str], str]) -> TunePlan:
    """The plan in the names that `rename` gives for parameters; a block by itself is named like what is in it."""

    def name(old: str) -> str:
        return rename(f"{old}.").rstrip(".")

    return replace(
        plan,
        full=tuple(name(one) for one in plan.full),
        tunes=tuple(replace(tune, site=name(tune.site)) for tune in plan.tunes),
        entries=tuple(replace(entries, tensor=name(entries.tensor)) for entries in plan.entries),
    )
