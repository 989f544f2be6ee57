"""Architectures that nobody searches for: as written in a file (the released ones), or drawn at random at equal cost.

Of a written one the file says how many hidden units stay, not which: those with the largest weights do (salience as in
SSP, |row| of the layer before plus |column| of the last). Kernels come from the attention as it is.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tailor.errors import PlanError
from tailor.inputs import Example
from tailor.pruning.convolve.convert import apply_swaps_
from tailor.pruning.convolve.places import HiddenPlace, Slot
from tailor.pruning.convolve.plan import OPERATIONS, Operation
from tailor.pruning.convolve.read_off import Architecture, Converted, cost, swap_plan, width_plan
from tailor.pruning.convolve.settings import LETTERS, Written
from tailor.pruning.convolve.table import Table
from tailor.surgery import get_module
from tailor.tracing import cut_


def as_written(model: nn.Module, places: Sequence[Slot], settings: Written) -> Architecture:
    """The architecture on this model; PlanError where it has other blocks, or fewer hidden units."""
    operations = settings.operations or "A" * len(places)
    for what, count in (("operations", len(operations)), ("hidden", len(settings.hidden) or len(places))):
        if count != len(places):
            raise PlanError(
                f"`{what}` is written for {count} blocks, the model has {len(places)}", hint="name one for each block"
            )
    chosen = []
    for letter, place in zip(operations, places, strict=True):
        if place.attention is None and letter in "13":
            raise PlanError(f"`{place.block}` has no attention that could become `{letter}`", hint="write S there")
        chosen.append(LETTERS[letter] if place.attention else "none")
    widths = settings.hidden or tuple(p.hidden.units if p.hidden else 0 for p in places)
    units = [_best(model, place, width) for place, width in zip(places, widths, strict=True)]
    return Architecture(tuple(chosen), tuple(units))


def _best(model: nn.Module, place: Slot, width: int) -> tuple[int, ...]:
    hidden = place.hidden
    most = hidden.units if hidden else 0
    if not (hidden is None and width == 0) and not 1 <= width <= most:
        raise PlanError(
            f"the MLP of `{place.block}` has {most} hidden units, {width} are to stay", hint="keep 1 or more"
        )
    if hidden is None:
        return ()
    order = torch.argsort(salience(model, hidden), stable=True)
    return tuple(sorted(order[most - width :].tolist()))


@torch.no_grad()
def salience(model: nn.Module, hidden: HiddenPlace) -> Tensor:
    """(units,): the absolute weights into each hidden unit and out of it, summed."""
    module, last = get_module(model, hidden.path), get_module(model, hidden.last)
    into = [m.weight for m in module.modules() if isinstance(m, nn.Linear) and m is not last]
    out: Any = last.weight
    rows = [weight.abs().sum(1).unflatten(0, (-1, hidden.units)).sum(0) for weight in into]
    return torch.stack([*rows, out.abs().sum(0)]).sum(0)


def drawn(
    places: Sequence[Slot], table: Table, target: float, seed: int, *, attention: bool = True, hidden: bool = True
) -> Architecture:
    """A random architecture within 1 % of the cost `target`: operations and widths of the parts asked for.

    Each operation is as likely as the others, each width a uniform share of the block's; then all shares move together
    until the cost fits. PlanError where 1,000 draws come to none.
    """
    generator = torch.Generator().manual_seed(seed)
    for _ in range(1000):
        operations = [
            OPERATIONS[int(torch.randint(4, (1,), generator=generator))] if attention and p.attention else _stays(p)
            for p in places
        ]
        shares = torch.rand(len(places), generator=generator).tolist()
        most = [p.hidden.units if p.hidden else 0 for p in places]
        widths = _fitted(operations, shares, most, table, target) if hidden else most
        if abs(table.of(operations, widths) / target - 1) <= 0.01:
            units = tuple(
                tuple(sorted(torch.randperm(m, generator=generator)[:w].tolist())) for m, w in zip(most, widths)
            )
            return Architecture(tuple(operations), units)
    raise PlanError(f"no random architecture costs {target:,.0f} {table.measure}", hint="ask for more, or both parts")


def _stays(place: Slot) -> Operation:
    return "attention" if place.attention else "none"


def _fitted(
    operations: Sequence[Operation], shares: Sequence[float], most: Sequence[int], table: Table, target: float
) -> list[int]:
    """Widths max(1, share ** power) whose power brings the cost nearest to the target from below."""

    def at(power: float) -> list[int]:
        return [max(1, round(m * share**power)) if m else 0 for m, share in zip(most, shares, strict=True)]

    low, high = 0.0, 50.0  # all units, hardly any
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if table.of(operations, at(middle)) <= target else (middle, high)
    return at(high)


def made(
    model: nn.Module,
    places: Sequence[Slot],
    found: Architecture,
    table: Table,
    example: Example,
    how: Mapping[str, Any],
    method: str,
) -> Converted:
    """The plans of an architecture and the model they leave, its kernels folded from the attention's weights.

    `how` are the settings `order`, `skip`, `scope` and `folded`.
    """
    facts = {
        "operations": list(found.operations),
        "hidden": list(found.widths),
        "dense_hidden": [block.units for block in table.blocks],
        "measure": table.measure,
        "dense": table.dense,
        "cost": cost(found, table),
    }
    plan = swap_plan(found, places, **how, method=method, facts=facts)
    swapped = apply_swaps_(copy.deepcopy(model), plan).eval()
    widths = width_plan(swapped, example, places, found)
    return Converted(found, cost(found, table), plan, widths, swapped if widths is None else cut_(swapped, widths))
