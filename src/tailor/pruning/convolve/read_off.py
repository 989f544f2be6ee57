"""From gates to an architecture, and from that to ordinary plans: a swap plan, then the widths of the hidden layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tailor.errors import PlanError
from tailor.inputs import Example
from tailor.pruning.convolve.gates import Closing, Gates, chosen
from tailor.pruning.convolve.places import Slot
from tailor.pruning.convolve.plan import OPERATIONS, Operation, Order, Scope, Skip, SwapPlan
from tailor.pruning.convolve.table import Table
from tailor.pruning.convolve.wrap import Gated
from tailor.tracing import WidthPlan, plan_widths, trace


@dataclass(frozen=True)
class Architecture:
    """What stands in each block: the operation, and the hidden units that stay, by number."""

    operations: tuple[Operation, ...]
    units: tuple[tuple[int, ...], ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """Hidden units in each block."""
        return tuple(len(units) for units in self.units)


@dataclass(frozen=True)
class Converted:
    """An architecture and its cost, the plans that make it, and the model with its weights.

    `widths` are made for the model that `swaps` leave; None where all hidden units stay.
    """

    architecture: Architecture
    cost: float
    swaps: SwapPlan
    widths: WidthPlan | None
    model: nn.Module


def architecture(gated: Sequence[Gated], closing: Closing) -> Architecture:
    """What the gates leave open without chance."""
    operations: list[Operation] = []
    units = []
    for one in gated:
        operation: Operation = "attention" if one.place.attention else "none"
        if one.attention:
            weights = chosen(one.attention.gates.opened().double(), closing)
            operation = OPERATIONS[1 + int(weights.argmax())] if weights.sum() else "none"
        operations.append(operation)
        if one.hidden:
            units.append(tuple(one.hidden.gates.opened().nonzero().flatten().tolist()))
        else:
            units.append(tuple(range(one.place.hidden.units if one.place.hidden else 0)))
    return Architecture(tuple(operations), tuple(units))


def settle_(gated: Sequence[Gated], table: Table, closing: Closing, most: float) -> float:
    """Move the threshold of all gates until the architecture costs at most `most`; return it.

    Where the last gate to close was an attention's, worth many hidden units, the best of those open again for it.
    """
    hidden = [one.hidden.gates for one in gated if one.hidden]
    threshold = 0.0
    for gates in (gates_of(gated), hidden):
        levels = torch.cat([g.theta.detach() for g in gates]).double().sort().values if gates else torch.zeros(0)
        low, high = 0, len(levels) - 1  # the first level that is low enough, or the last, lies in between
        while low < high:
            middle = (low + high) // 2
            _set_threshold_(gates, float(levels[middle]))
            if cost(architecture(gated, closing), table) <= most:
                high = middle
            else:
                low = middle + 1
        if len(levels):
            _set_threshold_(gates, float(levels[low]))
            threshold = threshold or float(levels[low])
    return threshold


def gates_of(gated: Sequence[Gated]) -> list[Gates]:
    """All gates."""
    return [part.gates for one in gated for part in (one.attention, one.hidden) if part is not None]


def _set_threshold_(gates: Sequence[Gates], threshold: float) -> None:
    for one in gates:
        one.threshold = threshold


def cost(found: Architecture, table: Table) -> float:
    """What it costs."""
    return table.of(found.operations, found.widths)


def swap_plan(
    found: Architecture,
    places: Sequence[Slot],
    *,
    order: Order = "bn-relu",
    skip: Skip = "zero",
    scope: Scope = "map",
    folded: bool = False,
    method: str = "spvit",
    facts: Mapping[str, object] | None = None,
) -> SwapPlan:
    """The plan of the attentions that go."""
    swaps = []
    for operation, place in zip(found.operations, places, strict=True):
        at = place.attention
        if at is None or operation == "attention":
            continue
        swaps.append(at.swap(operation, scope))
    return SwapPlan(tuple(swaps), order, skip, folded, method, dict(facts or {}))  # type: ignore[arg-type]


def width_plan(model: nn.Module, example: Example, places: Sequence[Slot], found: Architecture) -> WidthPlan | None:
    """The plan that leaves the units in `model`, the swapped one, by tracing it; None where all of them stay."""
    wanted = {
        f"{place.hidden.last}.weight": units
        for place, units in zip(places, found.units, strict=True)
        if place.hidden and len(units) < place.hidden.units
    }
    if not wanted:
        return None
    groups = trace(model, example).groups
    keep = {
        group.id: wanted[member.tensor]
        for group in groups.groups
        for member in group.members
        if group.label in ("hidden", "heads") and member.dim == 1 and member.tensor in wanted
    }
    if len(keep) < len(wanted):
        raise PlanError(
            f"the hidden units of {len(wanted) - len(keep)} of {len(wanted)} MLPs cannot be cut by tracing",
            hint="search the attention only: `parts: [attention]`",
        )
    return plan_widths(groups, keep)
