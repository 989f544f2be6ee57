"""What a tuning method has to offer, and the geometry it may ask for. The tables of methods stand in `__init__`."""

from typing import ClassVar, Literal, Protocol, runtime_checkable

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import nn

from tailor.anatomy import Anatomy, Layout

STRICT = ConfigDict(extra="forbid", strict=True)
"""How every plan is read from JSON: no coercion, no unknown key."""

Rows = tuple[tuple[int, int], ...]
"""Ranges of a layer's outputs; empty means all of them."""


@dataclass(frozen=True, config=STRICT)
class Geometry:
    """What a module in a block must know about its activations: channels, layout, prefix tokens, patch grid."""

    width: int
    layout: Layout = "tokens"
    prefix: int = 0
    grid: tuple[int, int] | None = None


@dataclass(frozen=True, config=STRICT)
class Place:
    """Where a method sits: a module path, for fused layers a named range of rows, for blocks their geometry."""

    path: str
    part: str = ""
    rows: tuple[int, int] | None = None
    geometry: Geometry | None = None


@runtime_checkable
class Module(Protocol):
    """A method that puts modules into the backbone. Its fields are its settings: the JSON and the command line too.

    `identity` says whether the wrapped model computes the same function before training; `merges` whether `merge`
    exists and is exact; `knob` names the integer field that a budget sets.
    """

    kind: str
    identity: ClassVar[bool]
    merges: ClassVar[bool]
    knob: ClassVar[str]

    def places(self, anatomy: Anatomy) -> tuple[Place, ...]:
        """Where the method sits in this backbone; PlanError with a sentence where it is not defined."""
        ...

    def cost(self, layer: nn.Module, rows: tuple[int, int] | None = None, geometry: Geometry | None = None) -> int:
        """Trainable parameters added at one place."""
        ...

    def wrap(self, layer: nn.Module, rows: Rows = (), geometry: Geometry | None = None) -> nn.Module:
        """The module that takes the layer's place; it keeps the layer, frozen, as `base`."""
        ...


@runtime_checkable
class Selection(Protocol):
    """A method that trains parameters of the backbone itself and adds none."""

    kind: str
    knob: ClassVar[str]

    def names(self, anatomy: Anatomy, parameters: dict[str, nn.Parameter]) -> tuple[str, ...]:
        """Parameters that train, the classifier left out."""
        ...


Role = Literal["module", "selection", "planner"]


def site_places(anatomy: Anatomy, *, ops: tuple[str, ...] = (), fused: bool = True) -> tuple[Place, ...]:
    """The linear and dense convolution sites with the given labels (all where empty), fused layers whole or in parts."""
    sites = anatomy.layers if fused else anatomy.sites
    chosen = [s for s in sites if s.kind != "depthwise" and (not ops or s.op in ops)]
    return tuple(Place(s.path, s.part, s.rows) for s in chosen)
