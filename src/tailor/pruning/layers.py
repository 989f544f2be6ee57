"""Which blocks stay, as a plan; the decision from a curve of separations; and the surgery that removes the others.

SLS (arXiv 2407.14330): walking down from the last block, the model ends before the first that separates the classes
too badly. How the curve is measured stands in `sls`. Deviations: blocks that change the size of their map stay (they
are a residual network's patch merging), as the mergings between stages do, so every depth from one block on builds.
"""

from collections.abc import Collection, Sequence
from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import nn

from tailor.errors import PlanError
from tailor.pruning.bypass import Bypass, bypass_of
from tailor.pruning.settings import Sls
from tailor.settings import STRICT
from tailor.surgery import get_module, set_module_


@dataclass(frozen=True, config=STRICT)
class LayerPlan:
    """The blocks that stay, by index among those of the model that earlier plans leave, and the paths of the others.

    `bypasses` stand in place of some of these.

    `curve` is the separation of the classes after each block (None where it was not needed), the evidence for the
    decision; `facts` hold the threshold, the settings and why the walk ended.
    """

    kept: tuple[int, ...]
    dropped: tuple[str, ...] = ()
    method: str = "sls"
    curve: tuple[float | None, ...] = ()
    facts: dict[str, str | int | float] = Field(default_factory=dict)
    bypasses: tuple[Bypass, ...] = ()
    kind: Literal["layers"] = "layers"

    def __post_init__(self) -> None:
        if not self.kept:
            raise PlanError("the plan keeps no block", hint="keep at least the first")
        if list(self.kept) != sorted(set(self.kept)) or self.kept[0] < 0:
            raise PlanError("the blocks kept are not ascending and distinct", hint="sort them")
        if len(set(self.dropped)) < len(self.dropped):
            raise PlanError("the plan drops a block twice", hint="name every block once")
        if self.kept[-1] >= len(self.kept) + len(self.dropped):
            raise PlanError(
                f"the plan keeps block {self.kept[-1]} of {len(self.kept) + len(self.dropped)}",
                hint="number the blocks from 0",
            )
        bridged = [path for bypass in self.bypasses for path in bypass.blocks]
        if len(set(bridged)) < len(bridged) or not set(bridged) <= set(self.dropped):
            raise PlanError("the plan puts a linear map where no block was dropped", hint="make the plan again")

    @property
    def gone(self) -> tuple[str, ...]:
        """The dropped blocks in whose place nothing stands: those behind them in their list move up."""
        kept = {bypass.path for bypass in self.bypasses}
        return tuple(path for path in self.dropped if path not in kept)

    @property
    def blocks(self) -> int:
        """How many blocks there were."""
        return len(self.kept) + len(self.dropped)


@dataclass(frozen=True, config=STRICT)
class WalkEnd:
    """Where the walk ended: the depth that stays, the threshold, and why it ended there."""

    depth: int
    threshold: float
    reason: str


def walk(curve: Sequence[float | None], settings: Sls) -> WalkEnd | None:
    """The walk down the curve (first block first); None where it meets a value that is not known yet."""
    last = curve[-1]
    if last is None:
        return None
    threshold = settings.threshold(last)
    if last <= 0 and settings.below_zero == "keep":
        return WalkEnd(len(curve), threshold, f"the last block does not separate the classes: SC {last:.3f}")
    for depth in range(len(curve), settings.lowest - 1, -1):
        score = curve[depth - 1]
        if score is None:
            return None
        if score < threshold:
            return WalkEnd(depth + 1, threshold, f"block {depth} has SC {score:.3f}, below {threshold:.3f}")
    depth = min(settings.lowest, len(curve))
    return WalkEnd(depth, threshold, f"every block down to {depth} reaches {threshold:.3f}")


def choose(
    curve: Sequence[float | None], settings: Sls, blocks: Sequence[str], fixed: Collection[int] = ()
) -> LayerPlan:
    """The plan that a curve of separations leads to: `blocks` are the paths, `fixed` the indices of those that stay.

    PlanError where the curve does not reach far enough down to decide, or is not one of these blocks.
    """
    if not blocks or len(curve) != len(blocks):
        raise PlanError(f"the curve has {len(curve)} values for {len(blocks)} blocks", hint="measure it again")
    stop = walk(curve, settings)
    if stop is None:
        raise PlanError("the curve ends before the decision does", hint="measure more blocks")
    kept = _whole(blocks, {*range(stop.depth), *fixed})
    facts: dict[str, str | int | float] = {
        "alpha": settings.alpha,
        "below_zero": settings.below_zero,
        "lowest": settings.lowest,
        "threshold": round(stop.threshold, 6),
        "depth": stop.depth,
        "reason": stop.reason,
    }
    return LayerPlan(
        kept=kept,
        dropped=tuple(path for index, path in enumerate(blocks) if index not in kept),
        curve=tuple(curve),
        facts=facts,
    )


def _whole(blocks: Sequence[str], stay: Collection[int]) -> tuple[int, ...]:
    """The blocks to keep so that each list of blocks loses only its tail: then no block that stays gets a new name."""
    last: dict[str, int] = {}
    for index in sorted(stay):
        last[_list(blocks[index])] = index
    return tuple(i for i, path in enumerate(blocks) if i in stay or i < last.get(_list(path), -1))


def _list(path: str) -> str:
    return path.rpartition(".")[0]


def apply_layers_(model: nn.Module, plan: LayerPlan, most: int | None = None) -> nn.Module:
    """Remove the plan's blocks, with whatever was put into them, from the lists that hold them; return the model.

    PlanError where they are not there, or before linear maps of more than `most` parameters are made.
    """
    size = sum(bypass.width * (bypass.width + 1) for bypass in plan.bypasses)
    if most is not None and size > most:
        raise PlanError(f"{most:,} stored numbers do not fit the plan, whose linear maps have {size:,} parameters")
    places: dict[str, list[int]] = {}
    for path in plan.dropped:
        get_module(model, path)
        holder, _, leaf = path.rpartition(".")
        if not leaf.isdecimal() or not isinstance(get_module(model, holder), nn.Sequential | nn.ModuleList):
            raise PlanError(f"`{path}` is not a block in a list of blocks", hint="make the plan again")
        places.setdefault(holder, []).append(int(leaf))
    for bypass in plan.bypasses:
        set_module_(model, bypass.path, bypass_of(bypass, next(model.parameters())))
    gone = set(plan.gone)
    for holder, indices in places.items():
        blocks = get_module(model, holder)
        for index in sorted((i for i in indices if f"{holder}.{i}" in gone), reverse=True):
            del blocks[index]  # type: ignore[operator]
    return model
