"""What a step of palette training minimises: the largest anchor on the labels, a drawn route on the labels and on what
the largest anchor takes them for (ESTA, one stage); or, as SN-Net, a drawn route alone.

Each half is differentiated by itself, so that two graphs never live at once and the route's saliency (SNIP: the sum of
|weight x gradient|) is its own. Heads are left out of it: theirs are larger by far, and grow with the classes.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailor.stitching.adapt import heads_of
from tailor.stitching.routed import Routed
from tailor.stitching.sampler import Sampler
from tailor.surgery import trainable


class WithImages(Protocol):
    """Images (B, C, H, W), or what a model takes in their place."""

    @property
    def images(self) -> Tensor: ...  # noqa: D102


MeanLoss = Callable[[Any, Any], Tensor]
"""From a model's output and a share to the mean loss over it."""


def hard(output: Tensor, taught: Tensor, share: Any = None) -> Tensor:
    """Mean cross-entropy of logits (..., K) with the classes that the teacher's logits name."""
    wide = output if output.dtype == torch.float64 else output.float()
    return F.cross_entropy(wide.flatten(0, -2), taught.argmax(-1).flatten())


@dataclass
class RouteTraining:
    """A run's step, what goes before and after it, and the state it keeps: the engine's companion.

    `loss` is the task's, `weigh` what a share counts for in the mean. `teacher` trains the largest anchor in every step
    and lets the route `learn` from its output with weight `distil`; `call` runs a model on a share. `reduce` sums a
    tensor over the processes.
    """

    model: Routed
    sampler: Sampler
    loss: MeanLoss
    teacher: bool = True
    distil: float = 0.5
    learn: Callable[[Any, Any, Any], Tensor] = hard
    call: Callable[[nn.Module, Any], Any] = lambda model, share: model(share.images)
    weigh: Callable[[Any], float] = lambda share: len(share.images)
    reduce: Callable[[Tensor], Tensor] = lambda tensor: tensor
    route: int = 0
    gradients: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    weight: float = 0.0

    def __post_init__(self) -> None:
        self.largest = self.sampler.anchors - 1
        heads = tuple(f"{path}." for path in heads_of(self.model))
        self.parameters = trainable(self.model)
        self.judged = {n: p for n, p in self.parameters.items() if not n.startswith(heads)}
        self.crossed: dict[int, list[nn.Parameter]] = {}

    def before(self, update: int) -> None:
        """Draw the route of the update."""
        self.route = self.sampler.draw(update)
        self.gradients = [torch.zeros_like(p) for p in self.of_route(self.route)]
        self.weights = [p.detach().clone() for p in self.of_route(self.route)]
        self.weight = 0.0

    def step(self, model: nn.Module, share: WithImages) -> Tensor:
        """The loss of the anchor and of the route on a share, its gradient already known."""
        assert model is self.model
        found: list[tuple[Tensor, list[Tensor | None]]] = []
        taken: Tensor | None = None
        if self.teacher:
            logits = self.call(self.model.set_route_(self.largest), share)
            found.append(differentiated(self.loss(logits, share), self.parameters.values()))
            taken = logits.detach()
        if taken is None or self.route != self.largest:
            logits = self.call(self.model.set_route_(self.route), share)
            loss = self.loss(logits, share)
            if taken is not None:
                loss = (1 - self.distil) * loss + self.distil * self.learn(logits, taken, share)
            found.append(differentiated(loss, self.parameters.values()))
        self.note(found[-1][1], self.weigh(share))
        total = torch.stack([value for value, _ in found]).sum()
        gradients = [summed(parts) for parts in zip(*(each for _, each in found), strict=True)]
        return known(total, gradients, self.parameters.values())

    def note(self, gradients: list[Tensor | None], weight: float) -> None:
        """Add up the route's own gradient over the pieces of an update."""
        by_id = {id(p): g for p, g in zip(self.parameters.values(), gradients, strict=True)}
        for kept, parameter in zip(self.gradients, self.of_route(self.route), strict=True):
            gradient = by_id[id(parameter)]
            if gradient is not None:
                kept.add_(gradient, alpha=weight)
        self.weight += weight

    def after(self, update: int) -> None:
        """Score the route of the update by its gradient on the whole batch and the weights it was taken at."""
        flat = [g.double().flatten() for g in self.gradients]
        count = torch.tensor([float(self.weight)], dtype=torch.float64, device=flat[0].device if flat else None)
        *parts, weight = self.reduce(torch.cat([*flat, count])).split([*(len(g) for g in flat), 1])
        if not float(weight):
            return
        products = zip(parts, self.weights, strict=True)
        saliency = sum(float((g * w.double().flatten()).abs().sum()) for g, w in products) / float(weight)
        self.sampler.visit(self.route, saliency)
        self.gradients, self.weights = [], []

    def of_route(self, route: int) -> list[nn.Parameter]:
        """What of the route is judged: all that trains along it but heads."""
        if route not in self.crossed:
            mine = {id(p) for p in self.model.view(route).parameters()}
            own = self.model.biases[str(route)] if route in self.model.spans else None
            self.crossed[route] = [p for p in self.judged.values() if id(p) in mine or p is own]
        return self.crossed[route]

    def state(self) -> dict[str, Tensor]:
        """The sampler's."""
        return self.sampler.state()

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Undo `state`."""
        self.sampler.load(tensors)


def differentiated(loss: Tensor, parameters: Iterable[nn.Parameter]) -> tuple[Tensor, list[Tensor | None]]:
    """The value and the gradient of a loss, whose graph is freed."""
    gradient = torch.autograd.grad(loss, list(parameters), allow_unused=True)
    return loss.detach(), list(gradient)


def known(value: Tensor, gradients: list[Tensor | None], parameters: Iterable[nn.Parameter]) -> Tensor:
    """`value` as a loss whose gradient was computed before."""
    return _Known.apply(value, gradients, *parameters)  # type: ignore[no-any-return, no-untyped-call]


class _Known(torch.autograd.Function):
    """A value whose gradient with respect to the parameters was computed before."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor | None], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        return (None, None, *(None if g is None else g * outer[0].to(g.dtype) for g in ctx.gradients))


def summed(parts: tuple[Tensor | None, ...]) -> Tensor | None:
    """The sum of gradients, None where there is none."""
    found = [part for part in parts if part is not None]
    return None if not found else found[0] if len(found) == 1 else torch.stack(found).sum(0)
