"""The plan of a swap: which attention becomes a convolution or nothing, with all that its plain module needs."""

from typing import Literal

from pydantic import ConfigDict, Field, JsonValue
from pydantic.dataclasses import dataclass

from tailor.errors import PlanError

STRICT = ConfigDict(extra="forbid", strict=True)
Operation = Literal["none", "conv1", "conv3", "attention"]
Other = Literal["none", "conv1", "conv3"]
Order = Literal["bn-relu", "relu-bn"]
Skip = Literal["zero", "norm"]
Scope = Literal["map", "window"]
Closing = Literal["dominant", "product"]

OPERATIONS: tuple[Operation, ...] = ("none", "conv1", "conv3", "attention")
"""Cheapest first."""

CONVOLUTIONS: tuple[Other, ...] = ("conv1", "conv3")

_MOST = 1 << 16  # of a size that a plan may ask for


@dataclass(frozen=True, config=STRICT)
class Swap:
    """One attention that goes: what comes instead, its channels, and the grid (rows, columns) of its tokens.

    `inputs` and `outputs` are the attention's, `channels` its channels per head: the bottleneck. With `undivided` the
    block no longer cuts its map into windows.
    """

    attention: str
    operation: Other
    inputs: int
    channels: int
    outputs: int
    grid: tuple[int, int]
    undivided: bool = False

    def __post_init__(self) -> None:
        sizes = (self.inputs, self.channels, self.outputs, *self.grid)
        if not all(1 <= size <= _MOST for size in sizes):
            raise PlanError(
                f"the swap of `{self.attention}` has a size out of reach: {sizes}", hint="make the plan again"
            )

    @property
    def block(self) -> str:
        """Path of the block that holds it."""
        return self.attention.rpartition(".")[0]

    @property
    def kernel(self) -> int:
        """Side of the kernel."""
        return 3 if self.operation == "conv3" else 1


@dataclass(frozen=True, config=STRICT)
class SwapPlan:
    """The attentions that go; those not named stay.

    `order` is that of batch norm and ReLU, `folded` leaves the norm out. `skip` says what a block without attention
    adds: nothing, or its normed input. `facts` say how it was decided.
    """

    swaps: tuple[Swap, ...]
    order: Order = "bn-relu"
    skip: Skip = "zero"
    folded: bool = False
    method: str = "spvit"
    facts: dict[str, JsonValue] = Field(default_factory=dict)
    kind: Literal["swap"] = "swap"

    def __post_init__(self) -> None:
        names = [swap.attention for swap in self.swaps]
        if len(set(names)) < len(names):
            raise PlanError("the plan swaps an attention twice", hint="name every attention once")
