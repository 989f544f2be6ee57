"""Which routes a family of anchors has: windows over blocks for equal depths, the nearest block for unequal ones.

SN-Net (Pan et al. 2023) joins neighbours in cost only, from the cheaper to the dearer; families with stages are joined
inside a stage, so that the maps agree. Deviations: by default a route enters its second anchor behind that one's first
block (`first` 1, the space of ESTA: a route that keeps the whole of the dearer anchor costs more than it); and with
unequal depths the layer is that of the front's block (the released lists of pairs and of layers lag by one).
"""

from collections.abc import Sequence
from itertools import pairwise

from pydantic.dataclasses import dataclass

from tailor.errors import PlanError
from tailor.settings import STRICT
from tailor.stitching.plan import Layer, Leg, Route, StitchPlan

Pair = tuple[int, int, int]
"""The front's last block, the tail's first, and the number of the stitching layer: (j, k, layer)."""


@dataclass(frozen=True, config=STRICT)
class Space:
    """How neighbours are joined: `window` and `stride` over blocks of equally deep anchors, `first` block to enter.

    `stages` are those that are joined where anchors have several; none named means all but the last. `leading` adds
    the pair (0, 0) to unequally deep plain anchors, which makes the 40 routes of the stitched LLaMA out of 39.
    """

    window: int = 2
    stride: int = 1
    first: int = 1
    stages: tuple[int, ...] = ()
    leading: bool = False

    def __post_init__(self) -> None:
        if self.window < 1 or self.stride < 1 or self.first < 0:
            raise PlanError(
                f"no space has a window of {self.window}, a stride of {self.stride} and enters at {self.first}",
                hint="leave `window`, `stride` and `first` at 2, 1 and 1",
            )


@dataclass(frozen=True, config=STRICT)
class Shape:
    """What of an anchor its routes depend on: for each block its stage, its channels, and how many tokens leave it.

    A stage is a list of blocks that run one after the other without another module in between. `maps` are (N,) tokens
    or (H, W) places. `spatial`: the channels stand before the places.
    """

    stages: tuple[int, ...]
    widths: tuple[int, ...]
    maps: tuple[tuple[int, ...], ...]
    spatial: bool = False

    def blocks(self, stage: int) -> tuple[int, ...]:
        """The numbers of the blocks of that stage."""
        return tuple(i for i, s in enumerate(self.stages) if s == stage)


def paired(depth: int, space: Space) -> tuple[Pair, ...]:
    """The pairs of two anchors of `depth` blocks each: all in a common window, owned by the first that holds them."""
    pairs: dict[tuple[int, int], int] = {}
    layers = 0
    for start in range(0, depth, space.stride):
        window = range(start, min(start + space.window, depth))
        fresh = [(j, k) for j in window for k in window if (j, k) not in pairs]
        pairs |= dict.fromkeys(fresh, layers)
        layers += bool(fresh)
    return _numbered([(j, k, layer) for (j, k), layer in pairs.items() if k >= space.first])


def unpaired(front: int, tail: int, space: Space) -> tuple[Pair, ...]:
    """The pairs of anchors of `front` and `tail` blocks: each of the tail's behind the nearest of the front's.

    One layer for each of the front's blocks that is left. Where the front is the deeper one, all of the tail's blocks
    but the first are entered.
    """
    nearest = [(i * front // tail, i) for i in range(tail)]
    chosen = [(j, k) for j, k in nearest if (k > j or front > tail) and k >= 1]
    if space.leading:
        chosen = [(0, 0), *chosen]
    return _numbered([(j, k, j) for j, k in chosen])


def pairs(front: Shape, tail: Shape, space: Space) -> tuple[Pair, ...]:
    """All pairs of two anchors, their blocks numbered through the stages, their layers from 0.

    PlanError where the anchors do not have the same stages.
    """
    stages = sorted(set(front.stages))
    if stages != sorted(set(tail.stages)):
        raise PlanError(
            f"an anchor of {len(stages)} stages cannot be joined to one of {len(set(tail.stages))}",
            hint="take anchors of one family",
        )
    if len(stages) == 1:
        return _of_stage(len(front.stages), len(tail.stages), space)
    found: list[Pair] = []
    for stage in space.stages or stages[:-1]:
        mine, theirs = front.blocks(stage), tail.blocks(stage)
        if not mine or not theirs:
            raise PlanError(f"the anchors have no stage {stage}", hint=f"their stages are {stages[0]} to {stages[-1]}")
        before = 1 + max((at for *_, at in found), default=-1)
        within = _numbered([pair for pair in _of_stage(len(mine), len(theirs), space) if pair[0] < pair[1]])
        found += [(mine[j], theirs[k], before + at) for j, k, at in within]
    return tuple(found)


def stitch_plan(anchors: Sequence[Shape], space: Space) -> StitchPlan:
    """Every anchor from end to end, then the routes between each and the next: `anchors` come in order of cost."""
    routes = [Route((Leg(number, 0, len(shape.stages)),)) for number, shape in enumerate(anchors)]
    layers: list[Layer] = []
    for number, (front, tail) in enumerate(pairwise(anchors)):
        base = len(layers)
        for j, k, at in pairs(front, tail, space):
            _agree(front, j, tail, k)
            layer = Layer(number, number + 1, front.widths[j], tail.widths[k], front.spatial)
            if base + at == len(layers):
                layers.append(layer)
            legs = (Leg(number, 0, j + 1), Leg(number + 1, k, len(tail.stages)))
            routes.append(Route(legs, (base + at,)))
    return StitchPlan(tuple(layers), tuple(routes))


def _of_stage(front: int, tail: int, space: Space) -> tuple[Pair, ...]:
    return paired(front, space) if front == tail else unpaired(front, tail, space)


def _agree(front: Shape, j: int, tail: Shape, k: int) -> None:
    """PlanError unless what leaves block `j` of `front` can enter block `k` of `tail` once its channels fit."""
    mine, theirs = front.maps[j], tail.maps[k]
    if front.spatial == tail.spatial and mine == theirs:
        return
    found, expected = ("x".join(str(n) for n in sizes) for sizes in (mine, theirs))
    what = (
        f"{found} tokens leave an anchor where {expected} enter the next"
        if found != expected
        else ("one anchor has its channels before height and width, the next behind them")
    )
    raise PlanError(what, hint="take anchors of one family, patch size and image size (`--image-size`)")


def _numbered(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """The pairs with the layers that are left numbered from 0."""
    left = sorted({at for *_, at in pairs})
    return tuple((j, k, left.index(at)) for j, k, at in pairs)
