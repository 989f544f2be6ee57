"""How this machine runs cut models: a pace fitted to a few of them, and the multiple of widths that it likes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from tailor.events import Event
from tailor.pruning.race.pace import Load, Pace, fitted
from tailor.pruning.settings import WidthKind, Widths
from tailor.workflow.race.arena import DENSE, Arena
from tailor.workflow.race.shallow import Shallow

MIXES: Mapping[str, tuple[WidthKind, ...]] = {
    "all": ("embedding", "heads", "hidden"),
    "inside": ("heads", "hidden"),
}
"""Which parts lose the same share: all, or those inside the blocks."""
TRIED: tuple[tuple[str, float], ...] = (("all", 0.35), ("all", 0.7), ("inside", 0.45), ("inside", 0.9))
"""Cuts by which a pace is fitted, beside the whole model."""
OVERHEAD = 20_000
"""Bytes of a bundle beside its tensors: manifest and card."""

COUNTED: dict[str, Callable[[Load], float]] = {
    "macs": lambda load: load.macs,
    "params": lambda load: load.params,
    "bytes": lambda load: 4 * load.params + OVERHEAD,
}
"""Quantities that no clock is needed for."""


@dataclass(frozen=True)
class Foretold:
    """The pace of this machine, the multiple of widths that is fastest beside it, the dense model's milliseconds."""

    pace: Pace
    rounding: int
    dense: float


def foretell(arena: Arena, bases: Sequence[Shallow]) -> Foretold:
    """Fit a pace to the dense model, the first base, and to cuts of all bases."""
    models = {DENSE: arena.opened.model}
    loads: dict[str, Load] = {DENSE: bases[0].load(bases[0].whole)}
    multiples: dict[str, int] = {}
    ways = list(product(bases, arena.settings.rounding, TRIED))
    for base, rounding, (mix, share) in ways[:: -(-len(ways) // arena.affordable)]:
        counts = base.at(share, Widths(round_to=rounding, parts=MIXES[mix]))
        load, name = base.load(counts), f"{base.depth} {rounding} {mix} {share}"
        if load not in loads.values():
            loads[name], multiples[name] = load, rounding
            models[name] = arena.cut(base.cut(counts)).model
    arena.context.tell(Event("measuring", text=f"{len(models)} models in turns, {arena.batch} images a pass"))
    times = {name: ms for name, (ms, _) in arena.timed(models, arena.batch, 1.5 * arena.seconds).items()}
    pace = fitted([loads[name] for name in models], [times[name] for name in models])
    slower: dict[int, list[float]] = {rounding: [] for rounding in arena.settings.rounding}
    for name, rounding in multiples.items():
        slower[rounding].append(times[name] / pace(loads[name]))
    known = [rounding for rounding in slower if slower[rounding]] or [arena.settings.rounding[0]]
    best = min(known, key=lambda rounding: sum(slower[rounding]) / max(len(slower[rounding]), 1))
    arena.context.tell(Event("measuring", text=f"widths in multiples of {best}; the pace errs by {pace.error:.0%}"))
    return Foretold(pace, best, times[DENSE])
