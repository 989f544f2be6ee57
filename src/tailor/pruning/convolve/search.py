"""The search: weights and gates train together on the task's loss and on how far the cost is from its aim.

The cost is counted in shares of the dense one (squared GMACs vanish on a model of 0.1 G). `pull: adaptive` (ours) lets
the aim fall to the target over the first part of the search, and learns the pull: it grows while the cost is above the
aim. A number is a fixed pull towards the target from the start, as in the thesis; what that ends at, it ends at.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from tailor.anatomy import Anatomy
from tailor.errors import PlanError
from tailor.inputs import Example
from tailor.pruning.convolve.convert import apply_swaps_, searched_
from tailor.pruning.convolve.places import Slot
from tailor.pruning.convolve.read_off import Converted, architecture, cost, gates_of, settle_, swap_plan, width_plan
from tailor.pruning.convolve.settings import Search
from tailor.pruning.convolve.table import Table
from tailor.pruning.convolve.wrap import Gated, wrap_
from tailor.tracing import cut_

ModelLoss = Callable[[nn.Module, Any], Tensor]
_FIRST_PULL = 10.0


class Train(Protocol):
    """Trains every parameter of a module for the search's updates: the engine, with data and recipe given already.

    `step(module, share)` is the loss of a share; `apart` are optimiser groups with a `lr` and a `weight_decay` of their
    own; `before(update)` is to be called before each update, counted from 0. What may be resumed is for it to say: all
    state of a search is in the module's parameters and batch norms, and in the optimiser.
    """

    def __call__(  # noqa: D102
        self, module: nn.Module, step: ModelLoss, apart: Sequence[Mapping[str, Any]], before: Callable[[int], None]
    ) -> None: ...


@dataclass(frozen=True)
class Now:
    """Where a search is: the cost of the open gates, the mean cost of a draw, and the aim, in shares of the dense cost.

    `entropy` is the mean of a gate in bits.
    """

    update: int
    updates: int
    cost: float
    expected: float
    aim: float
    entropy: float
    pull: float


class Supernet(nn.Module):
    """A model with its gates, the pull on their cost, and the update that it is in; called as the model is."""

    def __init__(self, model: nn.Module, gated: Sequence[Gated], table: Table, target: float, search: Search) -> None:
        super().__init__()
        self.model = model
        self.gated, self.table, self.target, self.search = tuple(gated), table, target, search
        fixed = None if isinstance(search.pull, str) else search.pull
        self.log_pull = nn.Parameter(torch.tensor(math.log(fixed or _FIRST_PULL)), requires_grad=fixed is None)
        self.update = 0

    def forward(self, images: Tensor) -> Tensor:
        """The model's output."""
        return self.model(images)  # type: ignore[no-any-return]

    def aim(self) -> float:
        """The share of the dense cost that this update pulls towards."""
        search = self.search
        if not isinstance(search.pull, str):
            return self.target
        way = min(1.0, (self.update + 1) / max(1.0, search.descent * search.updates))
        return 1.0 - (1.0 - self.target) * way

    def cost(self, values: Literal["indicators", "chances"] = "indicators") -> Tensor:
        """The share of the dense cost of the open gates, differentiable, or its mean over draws (to first order)."""
        chooses = [getattr(one.attention.gates, values)() if one.attention else None for one in self.gated]
        units = [getattr(one.hidden.gates, values)() if one.hidden else None for one in self.gated]
        return self.table.total(chooses, units, self.search.closing) / self.table.dense

    def penalty(self) -> Tensor:
        """What the distance from the aim adds to the loss; the pull itself climbs where the cost is too high."""
        gap = self.cost() - self.aim()
        penalty = self.log_pull.detach().exp() * gap**2
        return penalty - (self.log_pull * gap.detach() if self.log_pull.requires_grad else 0)

    def now(self) -> Now:
        """Where the search is."""
        entropies = [gates.entropy() for gates in gates_of(self.gated)]
        with torch.no_grad():
            return Now(
                self.update,
                self.search.updates,
                float(self.cost()),
                float(self.cost("chances")),
                self.aim(),
                sum(entropies) / len(entropies),
                float(self.log_pull.exp()),
            )


def search(
    model: nn.Module,
    anatomy: Anatomy,
    places: Sequence[Slot],
    table: Table,
    target: float,
    settings: Search,
    *,
    loss: ModelLoss,
    train: Train,
    example: Example,
    progress: Callable[[Now], None] | None = None,
) -> Converted:
    """Search the model, which stays as it is, for an architecture of cost `target` in the table's measure.

    `example` (2 samples or more) is what the result is traced with. PlanError where no architecture costs so little.
    """
    check_target(table, target, settings)
    net = supernet(model, places, table, target, settings)

    def before(update: int) -> None:
        net.update = update
        if progress is not None and update % 10 == 0:
            progress(net.now())

    def step(module: nn.Module, share: Any) -> Tensor:
        return loss(module, share) + net.penalty().to(torch.float32)

    train(net, step, apart(net), before)
    return read_off(model, net, places, example)


def check_target(table: Table, target: float, settings: Search) -> None:
    """PlanError where the target is not below the dense cost, or below what the parts that are searched can reach."""
    attention, hidden = ("attention" in settings.parts), ("hidden" in settings.parts)
    count = len(table.blocks)
    least = table.of(
        ["none" if attention else "attention"] * count, [1 if hidden and b.units else b.units for b in table.blocks]
    )
    if target >= table.dense:
        raise PlanError(
            f"the model costs {table.dense:,.0f} {table.measure}, the target is not below that: {target:,.0f}",
            hint="write what is to remain, for instance `--macs 70%`",
        )
    if target < least:
        raise PlanError(
            f"the search can reach {least:,.0f} {table.measure} ({least / table.dense:.0%} of the dense model), "
            f"the target is {target:,.0f}",
            hint=f"ask for {math.ceil(100 * least / table.dense) + 1}% or more, or search both parts",
        )


def supernet(model: nn.Module, places: Sequence[Slot], table: Table, target: float, settings: Search) -> Supernet:
    """A supernet around a copy of the model, all of which trains."""
    copied = copy.deepcopy(model).requires_grad_(True)
    gated = wrap_(copied, tuple(places), settings.wrapping)
    return Supernet(copied, gated, table, target / table.dense, settings)


def apart(net: Supernet) -> list[dict[str, Any]]:
    """The optimiser groups of what trains at the gates' rate, without weight decay."""
    gates = [one.theta for one in gates_of(net.gated)]
    pulls = [net.log_pull] if net.log_pull.requires_grad else []
    return [{"params": [*gates, *pulls], "lr": net.search.gate_lr, "weight_decay": 0.0}]


def read_off(model: nn.Module, net: Supernet, places: Sequence[Slot], example: Example) -> Converted:
    """The architecture that the gates of a trained supernet leave, and `model` made into it with the weights found.

    Where an adaptive search ended too far from its target, the threshold of all gates moves until it is met.
    """
    settings, table = net.search, net.table
    wanted = net.target * table.dense
    net.eval()
    found = architecture(net.gated, settings.closing)
    threshold = 0.0
    if settings.pull == "adaptive" and abs(cost(found, table) / wanted - 1) > settings.tolerance:
        threshold = settle_(net.gated, table, settings.closing, wanted)
        found = architecture(net.gated, settings.closing)
    facts = {
        "operations": list(found.operations),
        "hidden": list(found.widths),
        "dense_hidden": [block.units for block in table.blocks],
        "measure": table.measure,
        "dense": table.dense,
        "target": wanted,
        "cost": cost(found, table),
        "threshold": threshold,
        "updates": settings.updates,
    }
    how = {name: getattr(settings, name) for name in ("order", "skip", "scope", "folded")}
    plan = swap_plan(found, places, **how, facts=facts)
    swapped = searched_(apply_swaps_(copy.deepcopy(model), plan), net.model, net.gated, plan).eval()
    widths = width_plan(swapped, example, places, found)
    if widths is not None:
        cut_(swapped, widths)
    return Converted(found, cost(found, table), plan, widths, swapped)
