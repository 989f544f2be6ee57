"""STEP (straight-through pruning, as the thesis tailors it): heads and hidden units by scores learned with the weights.

Only the best of each kind pass, the same share of all heads and of all hidden units, from the first update on; the
gradient reaches the scores as if all of them passed (nearest description: Li et al., TACL 2021). Scores start at small
random numbers, since all would be the best where they are equal.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tailor.errors import PlanError
from tailor.inputs import Example
from tailor.pruning.convolve.convert import searched_
from tailor.pruning.convolve.places import Slot, heads_of
from tailor.pruning.convolve.plan import SwapPlan
from tailor.pruning.convolve.read_off import Converted, architecture, cost, width_plan
from tailor.pruning.convolve.search import ModelLoss, Train
from tailor.pruning.convolve.settings import StepSearch
from tailor.pruning.convolve.table import Table
from tailor.pruning.convolve.wrap import Gated, GatedUnits
from tailor.surgery import get_module, set_module_
from tailor.tracing import cut_


class RankGate(nn.Module):
    """Scores (count,), of which those above `threshold` pass; the gradient is that of all passing."""

    def __init__(self, count: int, start: float, generator: torch.Generator) -> None:
        super().__init__()
        self.theta = nn.Parameter(start * torch.randn(count, generator=generator))
        self.threshold = 0.0

    @torch.no_grad()
    def opened(self) -> Tensor:
        """Which pass; the best where none would."""
        return self.theta >= torch.clamp(self.theta.max(), max=self.threshold)

    def forward(self) -> Tensor:
        """0 or 1."""
        return self.opened().to(self.theta.dtype) + (self.theta - self.theta.detach())


def step_places(places: Sequence[Slot]) -> tuple[Slot, ...]:
    """Every block's heads, then every block's hidden units, as units of a table and of a plan of widths."""
    return (*heads_of(places), *(Slot(place.block, None, place.hidden) for place in places))


def step_search(
    model: nn.Module,
    places: Sequence[Slot],
    table: Table,
    target: float,
    settings: StepSearch,
    *,
    loss: ModelLoss,
    train: Train,
    example: Example,
) -> Converted:
    """Heads and hidden units of `model`, which stays as it is, that cost at most `target`; `table` is of `step_places`.

    PlanError where the target is above the dense cost or below one unit a block.
    """
    if not table.least <= target < table.dense:
        raise PlanError(
            f"the target must lie between {table.least:,.0f} and {table.dense:,.0f} {table.measure}: {target:,.0f}",
            hint="ask for instance for `--macs 70%`",
        )
    net = copy.deepcopy(model).requires_grad_(True)
    gated = _wrap_(net, places, settings)
    kinds = [gated[: len(gated) // 2], gated[len(gated) // 2 :]]
    share = _share_(kinds, gated, table, target)

    def before(update: int) -> None:
        _pass_(kinds, share)

    scores = [one.hidden.gates.theta for one in gated if one.hidden]
    train(net, loss, [{"params": scores, "lr": settings.gate_lr, "weight_decay": 0.0}], before)
    _share_(kinds, gated, table, target)  # blocks cost differently, and others are among the best by now
    found = architecture(gated, "dominant")
    pruned = searched_(copy.deepcopy(model), net, gated, SwapPlan(())).eval()
    widths = width_plan(pruned, example, places, found)
    return Converted(
        found, cost(found, table), SwapPlan(()), widths, pruned if widths is None else cut_(pruned, widths)
    )


def _wrap_(net: nn.Module, places: Sequence[Slot], settings: StepSearch) -> list[Gated]:
    generator = torch.Generator().manual_seed(settings.seed)
    found = []
    for place in places:
        units = None
        if place.hidden:
            layer: Any = get_module(net, place.hidden.last)
            ranked = RankGate(place.hidden.units, settings.start, generator)
            units = GatedUnits(layer, ranked, layer.in_features // place.hidden.units)
            set_module_(net, place.hidden.last, units)
        found.append(Gated(place, None, units))
    return found


def _share_(kinds: Sequence[Sequence[Gated]], gated: Sequence[Gated], table: Table, target: float) -> float:
    """Let the largest share of each kind pass that costs at most the target; return it."""
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        _pass_(kinds, middle)
        fits = cost(architecture(gated, "dominant"), table) <= target
        low, high = (middle, high) if fits else (low, middle)
    _pass_(kinds, low)
    return low


def _pass_(kinds: Sequence[Sequence[Gated]], share: float) -> None:
    """Let the best `share` of each kind pass."""
    for members in kinds:
        gates = [one.hidden.gates for one in members if one.hidden]
        if not gates:
            continue
        scores = torch.cat([one.theta.detach() for one in gates]).sort(descending=True).values
        count = max(1, round(share * len(scores)))
        for one in gates:
            one.threshold = float(scores[count - 1])
