"""A nested palette: one tuned backbone whose units were ranked once, cut at any size; the control of a stitched one.

Smaller sizes keep a part of what larger ones keep. All share the tunes, which are trained by the sandwich rule (Yu and
Huang 2019): in every step the whole, the smallest and two sizes drawn between. A unit is taken out by a zero where it
would be read, which computes what the cut model does. Ours: a size learns the whole's hard labels as well, as a route.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from typing import Any, Literal

import numpy as np
import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from tailor.errors import PlanError
from tailor.settings import STRICT
from tailor.stitching.step import MeanLoss, WithImages, differentiated, hard, known, summed
from tailor.surgery import freeze_, get_module, set_module_, trainable
from tailor.tracing import WidthPlan, cut_, remaining
from tailor.tuning.apply import merge_
from tailor.tuning.layers import answers_for_base, plain
from tailor.tuning.plan import TunePlan

STREAM = 5  # what this random stream is for
BETWEEN = 2
"""Sizes drawn in a step besides the whole and the smallest."""


@dataclass(frozen=True, config=STRICT)
class NestedSize:
    """One size: its name, and what is cut of the backbone (None: nothing)."""

    name: str
    cut: WidthPlan | None = None


@dataclass(frozen=True, config=STRICT)
class NestedPlan:
    """The sizes of a nested palette, the whole first, then from the smallest on."""

    routes: tuple[NestedSize, ...]
    kind: Literal["nested"] = "nested"

    def __post_init__(self) -> None:
        names = [size.name for size in self.routes]
        if len(names) < 2 or len(set(names)) < len(names) or self.routes[0].cut is not None:
            raise PlanError(
                "a nested palette has the whole, then at least one smaller size, each once", hint="make it again"
            )

    def find(self, name: str) -> int:
        """The number of the size of that name; PlanError where there is none."""
        for number, size in enumerate(self.routes):
            if size.name == name:
                return number
        known_names = ", ".join(f"`{size.name}`" for size in self.routes[:6])
        raise PlanError(f"the palette has no route `{name}`", hint=f"its routes are {known_names}, ...")


@plain_dataclass
class ZeroedChannels:
    """What is zero now: by the path of the layer that reads it, the channels that stay (C) as ones."""

    current: dict[str, Tensor] = field(default_factory=dict)


@answers_for_base
class Masked(nn.Module):
    """A layer that reads zeros where the current size has taken something out."""

    def __init__(self, base: nn.Module, path: str, masks: ZeroedChannels) -> None:
        super().__init__()
        self.base, self.path, self.masks = base, path, masks

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), or (B, in, H, W) -> (B, out, H', W')."""
        mask = self.masks.current.get(self.path)
        if mask is not None:
            mask = mask.to(x)
            x = x * (mask[:, None, None] if isinstance(plain(self.base), nn.Conv2d) else mask)
        return self.base(x)  # type: ignore[no-any-return]


class Nested(nn.Module):
    """A backbone that runs as any of its sizes; it starts as the whole. Its tunes are applied before."""

    def __init__(self, model: nn.Module, plan: NestedPlan) -> None:
        super().__init__()
        self.plan, self.masks = plan, ZeroedChannels()
        self.zeros = [_zeros(model, size.cut) for size in plan.routes]
        for path in dict.fromkeys(path for zeros in self.zeros for path in zeros):
            layer = get_module(model, path)
            set_module_(model, path, Masked(layer, path, self.masks).train(layer.training))
        self.model = model

    def set_route_(self, route: int) -> "Nested":
        """From now on `forward` runs that size."""
        self.masks.current = self.zeros[route]
        return self

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Of the model, as timm's models call it."""
        self.model.set_grad_checkpointing(enable)  # type: ignore[operator]

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K)."""
        return self.model(images)  # type: ignore[no-any-return]


def cut_out(model: Nested, tune: TunePlan, route: int) -> nn.Module:
    """A copy of one size as an ordinary model: tunes folded in, then cut, in eval mode."""
    whole = copy.deepcopy(model.model)
    for path, module in list(whole.named_modules()):
        if isinstance(module, Masked):
            set_module_(whole, path, module.base)
    merge_(whole, tune)
    cut = model.plan.routes[route].cut
    return freeze_(whole if cut is None else cut_(whole, cut)).eval()


def _zeros(model: nn.Module, plan: WidthPlan | None) -> dict[str, Tensor]:
    """For every layer whose inputs the plan cuts, which of them stay, as ones."""
    found: dict[str, Tensor] = {}
    for piece in plan.slices if plan is not None else ():
        path, _, leaf = piece.tensor.rpartition(".")
        if leaf != "weight" or len(piece.layouts) < 2 or piece.layouts[1].isdigit():
            continue
        assert plan is not None
        stay = remaining(plan, piece.tensor, 1)
        assert stay is not None
        mask = torch.zeros(plain(get_module(model, path)).weight.shape[1])
        mask[stay] = 1.0
        found[path] = mask
    return found


@plain_dataclass
class Sandwich:
    """A run's step and what goes before it: the whole on its labels, three sizes on them and on what it says.

    `loss`, `learn`, `distil` are those of a stitched palette's step. It has no state: what is drawn follows from the
    seed and the step.
    """

    nested: Nested
    loss: MeanLoss
    seed: int = 0
    distil: float = 0.5
    learn: Callable[[Any, Any, Any], Tensor] = hard
    routes: Sequence[int] = ()

    def __post_init__(self) -> None:
        self.parameters = list(trainable(self.nested).values())
        self.visited = torch.zeros(len(self.nested.plan.routes), dtype=torch.int64)

    def before(self, update: int) -> None:
        """Draw the sizes of the update."""
        generator = np.random.default_rng([STREAM, self.seed, update])
        between = len(self.nested.plan.routes) - 2
        drawn = generator.choice(between, min(BETWEEN, between), replace=False) if between else ()
        self.routes = (1, *(2 + int(n) for n in drawn))

    def step(self, model: nn.Module, share: WithImages) -> Tensor:
        """The mean of the losses of all sizes of the update, its gradient already known."""
        assert model is self.nested
        output = self.nested.set_route_(0)(share.images)
        taught = output.detach()
        found = [differentiated(self.loss(output, share), self.parameters)]
        for route in self.routes:
            output = self.nested.set_route_(route)(share.images)
            loss = (1 - self.distil) * self.loss(output, share) + self.distil * self.learn(output, taught, share)
            found.append(differentiated(loss, self.parameters))
        self.nested.set_route_(0)
        value = torch.stack([value for value, _ in found]).mean()
        gradients = [summed(parts) for parts in zip(*(each for _, each in found), strict=True)]
        scaled = [None if g is None else g / len(found) for g in gradients]
        return known(value, scaled, self.parameters)

    def after(self, update: int) -> None:
        """Count what was trained."""
        self.visited[[0, *self.routes]] += 1

    def state(self) -> dict[str, Tensor]:
        """How often each size was trained."""
        return {"visited": self.visited}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Undo `state`."""
        self.visited.copy_(tensors["visited"])
