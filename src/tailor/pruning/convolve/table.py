"""What an architecture costs: a look-up table by block and operation, so that a cost is a sum that a gate can learn.

`counted` equals the counted MACs of the model that the architecture becomes. `released` is the arithmetic of SPViT's
code: norms count, the class token does not pass the FFN, and windows are taken to divide the map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from tailor.errors import PlanError
from tailor.pruning.convolve.gates import cost_of
from tailor.pruning.convolve.places import AttentionPlace, HiddenPlace, Slot
from tailor.pruning.convolve.plan import OPERATIONS, Closing, Operation, Scope


@dataclass(frozen=True)
class BlockCosts:
    """Of one block: each operation in the order of `OPERATIONS` (empty where there is no attention), and a unit."""

    operations: tuple[float, ...]
    unit: float
    units: int


@dataclass(frozen=True)
class Table:
    """The costs of every block, and of the `rest`, in `measure`."""

    blocks: tuple[BlockCosts, ...]
    rest: float
    measure: str = "MACs"

    @property
    def dense(self) -> float:
        """With every attention and unit."""
        return self.of([OPERATIONS[-1]] * len(self.blocks), [block.units for block in self.blocks])

    @property
    def least(self) -> float:
        """Without attention, and one unit a block."""
        return self.of([OPERATIONS[0]] * len(self.blocks), [1] * len(self.blocks))

    def of(self, operations: Sequence[Operation], units: Sequence[int]) -> float:
        """An architecture's cost: an operation and a number of units for each block."""
        total = self.rest
        for block, operation, count in zip(self.blocks, operations, units, strict=True):
            total += block.unit * count
            if block.operations:
                total += block.operations[OPERATIONS.index(operation)]
        return total

    def total(self, gates: Sequence[Tensor | None], units: Sequence[Tensor | None], closing: Closing) -> Tensor:
        """The cost, by the values of the gates, differentiable; None where a block has none and stays as it is."""
        total = torch.tensor(self.rest, dtype=torch.float64)
        for block, chooses, opened in zip(self.blocks, gates, units, strict=True):
            total = total + block.unit * (block.units if opened is None else opened.double().sum().cpu())
            if block.operations and chooses is None:
                total = total + block.operations[-1]
            elif chooses is not None:
                nothing, *costs = block.operations
                steps = torch.tensor(costs, dtype=torch.float64) - nothing
                total = total + nothing + cost_of(chooses.double().cpu(), steps, closing)
        return total


def counted(places: Sequence[Slot], dense: int, scope: Scope = "map") -> Table:
    """The table of a model of `dense` MACs, counted as matrix products and convolutions."""
    blocks = tuple(
        BlockCosts(_products(p.attention, scope), _unit(p.hidden), p.hidden.units if p.hidden else 0) for p in places
    )
    return Table(blocks, dense - Table(blocks, 0.0).dense)


def _products(attention: AttentionPlace | None, scope: Scope) -> tuple[float, ...]:
    """MACs of nothing, the two convolutions, and the attention."""
    if attention is None:
        return ()
    patches, inner = prod(attention.grid), attention.heads * attention.channels
    tokens, seen = patches + attention.prefix, patches + attention.prefix
    if attention.windows:
        tokens, seen = prod(attention.windows.padded), prod(attention.windows.size)
        patches = tokens if scope == "window" else patches
    linear = tokens * inner * (3 * attention.inputs + attention.outputs)
    back = attention.channels * attention.outputs
    convolutions = (patches * (k * k * attention.inputs * attention.channels + back) for k in (1, 3))
    return (0.0, *map(float, convolutions), float(linear + 2 * tokens * seen * inner + attention.beside))


def _unit(hidden: HiddenPlace | None) -> float:
    return float(hidden.tokens * (hidden.fed + hidden.outputs)) if hidden else 0.0


def released(places: Sequence[Slot], image: tuple[int, int, int], classes: int) -> Table:
    """The table in SPViT's code, for dense DeiT and Swin on an `image` (C, H, W); the last norm counts in Swin only."""
    blocks, rest = [], 0.0
    for number, place in enumerate(places):
        attention, hidden = place.attention, place.hidden
        if attention is None or hidden is None:
            raise PlanError(
                f"`table: released` is for dense models, and `{place.block}` has lost a part",
                hint="use `table: counted`",
            )
        patches, width = prod(attention.grid), attention.inputs
        tokens = patches + attention.prefix
        window = prod(attention.windows.size) if attention.windows else tokens
        full = tokens * (4 * width**2 + 2 * window * width)
        blocks.append(
            BlockCosts(
                (0.0, *(float((k * k + 1) * width * attention.channels * patches) for k in (1, 3)), float(full)),
                2.0 * patches * width,
                hidden.units,
            )
        )
        rest += 2 * width * tokens
        if number == 0:
            rest += width * prod(image) + (patches * width if attention.windows else 0)
        before = places[number - 1].attention
        if number and before and before.grid != attention.grid:  # a merging: a norm, and a linear layer
            rest += prod(before.grid) * before.inputs + patches * 4 * before.inputs * width
    last = places[-1].attention
    assert last
    rest += last.inputs * (classes + (prod(last.grid) * 4 if last.windows else 0))
    return Table(tuple(blocks), rest)
