"""A look-up table of what a function measures, milliseconds for instance, where MACs would mislead.

A single block is a few percent of a model and drowns in noise, so all blocks of the same sizes change together, in
whole models that one call compares: without attention, with either convolution, with half of the hidden units.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import nn

from tailor.inputs import Example
from tailor.pruning.convolve.convert import apply_swaps_
from tailor.pruning.convolve.places import Slot
from tailor.pruning.convolve.plan import OPERATIONS, Operation, Order, Scope
from tailor.pruning.convolve.read_off import Architecture, swap_plan, width_plan
from tailor.pruning.convolve.table import BlockCosts, Table
from tailor.tracing import cut_

MeasureInTurns = Callable[[Mapping[str, nn.Module]], Mapping[str, float]]
"""The amounts of several models, best in turns."""


def measured(
    model: nn.Module,
    places: Sequence[Slot],
    example: Example,
    measure: MeasureInTurns,
    *,
    unit: str,
    scope: Scope = "map",
    order: Order = "bn-relu",
) -> Table:
    """The table in `unit` of `model`, convolutions with their norms folded; `example` (2 samples or more) traces cuts.

    Noise may make a part cheaper than nothing; it costs nothing then.
    """
    alike = _alike(places)
    models: dict[str, nn.Module] = {"dense": model}
    for number, members in enumerate(alike):
        for operation in OPERATIONS[:-1] if places[members[0]].attention else ():
            models[f"{number} {operation}"] = _with(model, places, members, operation, scope, order)
        if places[members[0]].hidden:
            models[f"{number} half"] = _halved(model, places, members, example)
    found = measure(models)
    blocks: list[BlockCosts] = [BlockCosts((), 0.0, 0)] * len(places)
    for number, members in enumerate(alike):
        for index in members:
            blocks[index] = _costs(places[index], number, len(members), found)
    return Table(tuple(blocks), max(0.0, found["dense"] - Table(tuple(blocks), 0.0).dense), unit)


def _costs(place: Slot, number: int, count: int, found: Mapping[str, float]) -> BlockCosts:
    """Of one of `count` blocks that were measured together."""
    operations: tuple[float, ...] = ()
    if place.attention:
        without = found[f"{number} none"]
        changed = [found[f"{number} {operation}"] for operation in OPERATIONS[:-1]]
        operations = tuple(max(0.0, (one - without) / count) for one in [*changed, found["dense"]])
    units = place.hidden.units if place.hidden else 0
    gone = units // 2 * count
    unit = max(0.0, (found["dense"] - found[f"{number} half"]) / gone) if gone else 0.0
    return BlockCosts(operations, unit, units)


def _alike(places: Sequence[Slot]) -> list[list[int]]:
    """The blocks by their sizes, windows' shifts left aside."""
    found: dict[object, list[int]] = {}
    for index, place in enumerate(places):
        at = place.attention and replace(place.attention, path="")
        if at and at.windows:
            at = replace(at, windows=replace(at.windows, shift=(0, 0)))
        hidden = place.hidden and replace(place.hidden, path="", last="")
        found.setdefault((at, hidden), []).append(index)
    return list(found.values())


def _with(
    model: nn.Module,
    places: Sequence[Slot],
    members: Sequence[int],
    operation: Operation,
    scope: Scope,
    order: Order,
) -> nn.Module:
    changed: list[Operation] = ["attention"] * len(places)
    for index in members:
        changed[index] = operation
    plan = swap_plan(Architecture(tuple(changed), ()), places, scope=scope, order=order, folded=True)
    return apply_swaps_(copy.deepcopy(model), plan).eval()


def _halved(model: nn.Module, places: Sequence[Slot], members: Sequence[int], example: Example) -> nn.Module:
    """Half of the units gone, the odd one stays."""
    wholes = [place.hidden.units if place.hidden else 0 for place in places]
    units = tuple(tuple(range(n - n // 2 if i in members else n)) for i, n in enumerate(wholes))
    dense: list[Operation] = ["attention"] * len(places)
    plan = width_plan(model, example, places, Architecture(tuple(dense), units))
    assert plan is not None
    return cut_(copy.deepcopy(model), plan)
