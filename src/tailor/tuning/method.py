"""What a tuning method has to offer, and the geometry it may ask for. The tables of methods stand in `__init__`."""

from collections.abc import Mapping
from typing import ClassVar, Literal, Protocol, runtime_checkable

from pydantic.dataclasses import dataclass
from torch import nn

from tailor.anatomy import Anatomy, Block, Layout
from tailor.errors import PlanError
from tailor.settings import STRICT

RowRanges = tuple[tuple[int, int], ...]
"""Ranges of a layer's outputs; empty means all of them."""


Slices = Mapping[str, int | None]
"""What a wrapper declares of its own tensors: the axis of which the leading units make a narrower module of the same
kind; None for a tensor that counts whole, as long as any unit is left."""


@dataclass(frozen=True, config=STRICT)
class Geometry:
    """What a module in a block must know about its activations: channels, layout, prefix tokens, patch grid.

    `enters` and `leaves` are for tokens that a method adds: whether they join the sequence at this place, and part
    from it after this place.
    """

    width: int
    layout: Layout = "tokens"
    prefix: int = 0
    grid: tuple[int, int] | None = None
    enters: bool = True
    leaves: bool = True


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

    identity: ClassVar[bool]
    merges: ClassVar[bool]
    knob: ClassVar[str]

    @property
    def kind(self) -> str:
        """The method's name in plans, tables and on the command line."""
        ...

    def places(self, anatomy: Anatomy) -> tuple[Place, ...]:
        """Where the method sits in this backbone; PlanError with a sentence where it is not defined."""
        ...

    def cost(self, layer: nn.Module, rows: tuple[int, int] | None = None, geometry: Geometry | None = None) -> int:
        """Trainable parameters added at one place."""
        ...

    def wrap(self, layer: nn.Module, rows: RowRanges = (), geometry: Geometry | None = None) -> nn.Module:
        """The module that takes the layer's place; it keeps the layer, frozen, as `base`."""
        ...


@runtime_checkable
class Selection(Protocol):
    """A method that trains parameters of the backbone itself and adds none."""

    knob: ClassVar[str]

    @property
    def kind(self) -> str:
        """The method's name in plans, tables and on the command line."""
        ...

    def names(self, anatomy: Anatomy, parameters: dict[str, nn.Parameter]) -> tuple[str, ...]:
        """Parameters that train, the classifier left out."""
        ...


def site_places(anatomy: Anatomy, *, ops: tuple[str, ...] = (), fused: bool = True) -> tuple[Place, ...]:
    """Linear and dense convolution sites with the given labels (all where empty), fused layers whole or in parts."""
    sites = anatomy.layers if fused else anatomy.sites
    chosen = [s for s in sites if s.kind != "depthwise" and (not ops or s.op in ops)]
    return tuple(Place(s.path, s.part, s.rows) for s in chosen)


def block_places(anatomy: Anatomy, kind: str, where: Literal["attention", "mlp"]) -> tuple[Place, ...]:
    """The attention or MLP of every block with the geometry of what goes in; PlanError where no block has one."""
    places = []
    for block in anatomy.blocks:
        path = block.attention if where == "attention" else block.mlp
        layout = block.attention_layout if where == "attention" else block.mlp_layout
        if path:
            places.append(Place(path, geometry=Geometry(block.width, layout, anatomy.prefix, _grid(anatomy, block))))
    if not places:
        noun = "attention" if where == "attention" else "MLP"
        raise undefined(kind, anatomy, f"its blocks have no {noun}" if anatomy.blocks else "its blocks are not known")
    return tuple(places)


def undefined(kind: str, anatomy: Anatomy, why: str, instead: str = "lora") -> PlanError:
    """The error of a method that a backbone has no place for."""
    return PlanError(
        f"`{kind}` is not defined on a `{anatomy.family}` backbone: {why}",
        hint=f"use `--method {instead}`",
    )


def _grid(anatomy: Anatomy, block: Block) -> tuple[int, int] | None:
    """Rows and columns of patches at the block: the backbone's own, or, stage by stage, the image over the stride."""
    if anatomy.grid or block.stage >= len(anatomy.features):
        return anatomy.grid
    _, height, width = anatomy.inputs.image
    stride = anatomy.features[block.stage].reduction
    return -(-height // stride), -(-width // stride)
