"""What a palette consists of, as plain data: routes through anchors, the layers that join them, biases of their own.

A block is numbered through its anchor, stages and all. `space` decides which routes there are, `routed` builds them.
"""

from itertools import pairwise
from typing import Literal

from pydantic.dataclasses import dataclass

from tailor.errors import PlanError
from tailor.settings import STRICT


@dataclass(frozen=True, config=STRICT)
class Leg:
    """The part of a route that lies in one anchor: its blocks from `start` to before `stop`."""

    anchor: int
    start: int
    stop: int

    def __post_init__(self) -> None:
        if self.anchor < 0 or not 0 <= self.start < self.stop:
            raise PlanError(f"a leg has no blocks from {self.start} to {self.stop}", hint="make the palette again")


@dataclass(frozen=True, config=STRICT)
class Route:
    """A way through the anchors: the first leg's embedding, its blocks, a stitching layer, the next leg's, ... the
    last leg's norm and head. `layers` are the numbers of the stitching layers, one fewer than legs.

    A route of one leg, an anchor from end to end, is called by its anchor's number: `0`. Others name where they leave
    an anchor and where they enter the next: `0.6-1.7` ends in anchor 0 after block 6 and goes on in 1 with block 7.
    """

    legs: tuple[Leg, ...]
    layers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.layers) != len(self.legs) - 1 or any(layer < 0 for layer in self.layers):
            raise PlanError(
                f"a route of {len(self.legs)} legs has {len(self.layers)} stitching layers", hint="make it again"
            )
        if self.legs[0].start:
            raise PlanError(f"the route `{self.name}` does not begin at block 0", hint="make it again")

    @property
    def name(self) -> str:
        """How tables and people write it."""
        if len(self.legs) == 1:
            return str(self.legs[0].anchor)
        joints = pairwise(self.legs)
        return ">".join(f"{a.anchor}.{a.stop - 1}-{b.anchor}.{b.start}" for a, b in joints)

    @property
    def front(self) -> int:
        """The anchor that it begins in."""
        return self.legs[0].anchor

    @property
    def tail(self) -> int:
        """The anchor that it ends in, whose norm and head it uses."""
        return self.legs[-1].anchor

    def crosses(self, anchor: int, block: int) -> bool:
        """Whether it runs that block."""
        return any(leg.anchor == anchor and leg.start <= block < leg.stop for leg in self.legs)


@dataclass(frozen=True, config=STRICT)
class Layer:
    """A stitching layer: an affine map on the channels, from those of anchor `front` to those of anchor `tail`.

    `spatial`: the channels stand before height and width, so it is a 1x1 convolution; else they come last.
    """

    front: int
    tail: int
    inputs: int
    outputs: int
    spatial: bool = False


@dataclass(frozen=True, config=STRICT)
class StitchPlan:
    """The routes of a palette and the stitching layers that they share."""

    layers: tuple[Layer, ...]
    routes: tuple[Route, ...]
    kind: Literal["stitch"] = "stitch"

    def __post_init__(self) -> None:
        names = [route.name for route in self.routes]
        if not names or len(set(names)) < len(names):
            raise PlanError("a palette's routes are none, or not distinct", hint="make the palette again")
        for route in self.routes:
            for (a, b), at in zip(pairwise(route.legs), route.layers, strict=True):
                if at >= len(self.layers) or (self.layers[at].front, self.layers[at].tail) != (a.anchor, b.anchor):
                    raise PlanError(
                        f"no stitching layer {at} joins the anchors of `{route.name}`", hint="make the palette again"
                    )

    def find(self, name: str) -> int:
        """The number of the route of that name; PlanError where there is none."""
        for number, route in enumerate(self.routes):
            if route.name == name:
                return number
        known = ", ".join(f"`{route.name}`" for route in self.routes[:6])
        raise PlanError(f"the palette has no route `{name}`", hint=f"its routes are {known}, ...")


@dataclass(frozen=True, config=STRICT)
class RouteBiasPlan:
    """Biases of their own for the routes that join anchors, at linear layers they share (ESTA's stitch-specific bias).

    `sites` are paths in the routed model, or a range of the outputs there: `anchors.0.blocks.3.attn.qkv[0:192]`.
    """

    sites: tuple[str, ...]
    cost: int = 0
    kind: Literal["route-bias"] = "route-bias"
