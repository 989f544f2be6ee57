"""What a route costs: the sum of its pieces, each counted once however many routes there are.

The pieces of an anchor are its stem (all before the first block), its blocks (each with the down-sampling before it)
and its tail (norm and head). Counting is for the caller: MACs, or anything that adds up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from tailor.stitching.plan import Route, StitchPlan
from tailor.stitching.space import Shape


@dataclass(frozen=True)
class Pieces:
    """The cost of an anchor's pieces, of one image."""

    stem: int
    blocks: tuple[int, ...]
    tail: int

    @classmethod
    def along(cls, marks: Sequence[int]) -> "Pieces":
        """From what was spent when the first block begins, when each block ends, and in all."""
        return cls(marks[0], tuple(b - a for a, b in pairwise(marks[:-1])), marks[-1] - marks[-2])


def route_cost(plan: StitchPlan, route: Route, shapes: Sequence[Shape], pieces: Sequence[Pieces]) -> int:
    """The MACs of the route: its legs' pieces and, at every joint, one product of the tokens with the layer."""
    total = pieces[route.front].stem + pieces[route.tail].tail
    for leg in route.legs:
        total += sum(pieces[leg.anchor].blocks[leg.start : leg.stop])
    for leg, number in zip(route.legs, route.layers, strict=False):
        layer = plan.layers[number]
        total += prod(shapes[leg.anchor].maps[leg.stop - 1]) * layer.inputs * layer.outputs
    return total


def costs(plan: StitchPlan, shapes: Sequence[Shape], pieces: Sequence[Pieces]) -> tuple[int, ...]:
    """The MACs of every route."""
    return tuple(route_cost(plan, route, shapes, pieces) for route in plan.routes)
