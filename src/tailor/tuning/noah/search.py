"""NOAH (Zhang et al. 2022): search, for one task, how much VPT, LoRA and adapter each block gets, as one TunePlan.

A supernet holds all three at full width; a sub-net is the supernet called with leading slices of its parameters.
Train it with `step`, `search` for a sub-net, and train the `plan` of that afresh, as any other. Deviations: the modules
are ours (prompts behind the class token, no position embedding of their own, LoRA and adapter start as the identity),
no dead prompts are counted, and a sub-net above the limit is never even drawn into the population.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tailor.anatomy import Anatomy
from tailor.criteria.samples import arguments, count, placed
from tailor.errors import PlanError
from tailor.surgery import eval_mode
from tailor.tuning.apply import cost
from tailor.tuning.method import Module, undefined
from tailor.tuning.methods.adapter import Adapter
from tailor.tuning.methods.lora import Lora
from tailor.tuning.methods.vpt_deep import VptDeep
from tailor.tuning.noah.settings import Noah
from tailor.tuning.plan import Tune, TunePlan

TYPES: tuple[Callable[[int], Module], ...] = (
    lambda width: VptDeep(prompts=width, dropout=0.1),
    lambda width: Lora(rank=width),
    lambda width: Adapter(width=width),
)
"""The three methods by their width: prompts, rank, bottleneck."""

_KINDS = tuple(make(1).kind for make in TYPES)

Subnet = tuple[tuple[int, ...], ...]
"""A sub-net: for each of `TYPES` the width in every block, zero where it has no module."""


@dataclass(frozen=True)
class BestSubnet:
    """The best sub-net, its value (accuracy on val), its parameters, and the best value after each generation."""

    widths: Subnet
    value: float
    cost: int
    history: tuple[float, ...]


def full(anatomy: Anatomy, settings: Noah) -> Subnet:
    """The whole supernet: every type at its greatest width in every block that the greatest depth reaches."""
    blocks = len(anatomy.blocks)
    if not blocks:
        raise undefined("noah", anatomy, "its blocks are not known")
    if max(settings.depths) > blocks:
        raise PlanError(
            f"NOAH's depths reach to {max(settings.depths)}, the backbone has {blocks} blocks",
            hint=f"set `depths` to for instance {[max(1, blocks * i // 4) for i in (1, 2, 3, 4)]}",
        )
    return tuple(_first([max(settings.widths)] * blocks, max(settings.depths)) for _ in TYPES)


def plan(model: nn.Module, anatomy: Anatomy, widths: Subnet) -> TunePlan:
    """The sub-net as an ordinary plan that mixes methods; with `full`, the supernet.

    `model` is the plain backbone. PlanError where one of the methods has no place.
    """
    tunes: list[Tune] = []
    for make, row in zip(TYPES, widths, strict=True):
        places = make(1).places(anatomy)
        for block, width in zip(anatomy.blocks, row, strict=True):
            here = [p for p in places if p.path == block.path or p.path.startswith(block.path + ".")]
            tunes += [Tune(p.path, make(width), p.rows, p.geometry) for p in here if width]
    made = TunePlan(method="noah", tunes=tuple(tunes))
    return replace(made, cost=cost(model, made, anatomy.heads))


def step(anatomy: Anatomy, settings: Noah, loss: Callable[[Tensor, Any], Tensor]) -> Callable[..., Tensor]:
    """A step for the engine that trains the supernet: each call one sub-net, drawn from torch's default generator.

    `loss(logits, share)` is the mean loss over a share, which has at least `images`: the engine's own type passes.
    """

    def of_a_subnet(model: nn.Module, share: Any) -> Tensor:
        parameters = sliced(model, anatomy, draw(anatomy, settings))
        return loss(functional_call(model, parameters, (share.images,)), share)

    return of_a_subnet


def correct(output: Tensor, targets: Tensor) -> Tensor:
    """Whether each image's highest score is that of its class, (B,): the mean is the accuracy."""
    return (output.argmax(-1) == targets).float()


def evaluator(
    model: nn.Module,
    anatomy: Anatomy,
    batches: Iterable[Sequence[Any]],
    value: Callable[[Any, Any], Tensor] = correct,
) -> Callable[[Subnet], float]:
    """What the search maximises: the mean `value` of a sub-net of the trained supernet on (inputs, targets, ...).

    `value(output, targets)` is one number a sample, (B,), and larger is better; for a loss, its negative.
    """

    @torch.inference_mode()
    def mean(widths: Subnet) -> float:
        total, seen = 0.0, 0
        device = next(model.parameters()).device
        parameters = sliced(model, anatomy, widths)
        for inputs, targets, *_ in batches:
            with eval_mode(model):
                output = functional_call(model, parameters, *arguments(placed(inputs, device)))
            total += float(value(output, placed(targets, device)).sum())
            seen += count(inputs)
        return total / max(seen, 1)

    return mean


def sliced(model: nn.Module, anatomy: Anatomy, widths: Subnet) -> dict[str, Tensor]:
    """The parameters that make the supernet `model` the sub-net, for `functional_call`.

    They are views, so gradients reach the supernet's own parameters; a type without a module in a block adds nothing.
    """
    parameters: dict[str, Tensor] = {}
    for path, module in model.named_modules():
        slices = vars(type(module)).get("slices")
        block = next((i for i, b in enumerate(anatomy.blocks) if f"{path}.".startswith(b.path + ".")), -1)
        if slices is None or block < 0:
            continue
        width = widths[_KINDS.index(vars(type(module))["kind"])][block]
        for name, dim in slices.items():
            whole = module.get_parameter(name)
            parameters[f"{path}.{name}"] = whole.narrow(dim, 0, width) if dim is not None else whole * bool(width)
    return parameters


def draw(anatomy: Anatomy, settings: Noah, generator: torch.Generator | None = None) -> Subnet:
    """A sub-net: for each type a depth, for each block within it a width, all equally likely.

    Without a generator torch's default one is drawn from.
    """
    return tuple(
        _first([_pick(settings.widths, generator) for _ in anatomy.blocks], _pick(settings.depths, generator))
        for _ in TYPES
    )


def search(
    evaluate: Callable[[Subnet], float],
    price: Callable[[Subnet], int],
    anatomy: Anatomy,
    settings: Noah,
    limit: int,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> BestSubnet:
    """The sub-net of at most `limit` parameters (`price`) with the largest value, by evolution; the same for a seed.

    `progress` hears (generations done, in all). PlanError where even the smallest sub-net is above the limit.
    """
    least = tuple(_first([min(settings.widths)] * len(anatomy.blocks), min(settings.depths)) for _ in TYPES)
    if price(least) > limit:
        raise PlanError(
            f"a budget of {limit:,} parameters is too small for `noah`: its smallest sub-net has {price(least):,}",
            hint=f"use `--budget {price(least)}` or more, or smaller `widths` and `depths`",
        )
    generator = torch.Generator().manual_seed(seed)
    values: dict[Subnet, float] = {}
    drawn = {least}
    history: list[float] = []

    def fresh(make: Callable[[], Subnet], count: int) -> list[Subnet]:
        """Up to `count` sub-nets within the limit, none drawn before; fewer where they are hard to come by."""
        made: list[Subnet] = []
        for _ in range(20 * count):
            if len(made) == count:
                break
            candidate = make()
            if candidate not in drawn and price(candidate) <= limit:
                drawn.add(candidate)
                made.append(candidate)
        return made

    best: list[Subnet] = []
    for number in range(settings.generations):
        if number == 0:
            generation = [least, *fresh(partial(draw, anatomy, settings, generator), settings.population - 1)]
        else:
            generation = fresh(partial(_mutant, best, settings, generator), settings.mutations)
            generation += fresh(partial(_child, best, generator), settings.crossovers)
        for widths in generation:
            values[widths] = evaluate(widths)
        best = sorted(values, key=lambda w: (-values[w], price(w), w))[: settings.top]
        history.append(values[best[0]])
        if progress is not None:
            progress(number + 1, settings.generations)
    return BestSubnet(best[0], values[best[0]], price(best[0]), tuple(history))


def _mutant(parents: Sequence[Subnet], settings: Noah, generator: torch.Generator) -> Subnet:
    """One of the parents with some widths, and some types' depths, drawn again."""
    rows = []
    for row in _pick(parents, generator):
        depth = _pick(settings.depths, generator) if _chance(settings.mutate_depth, generator) else _depth(row)
        kept = [width and not _chance(settings.mutate_width, generator) for width in row]
        widths = [w if keep else _pick(settings.widths, generator) for w, keep in zip(row, kept, strict=True)]
        rows.append(_first(widths, depth))
    return tuple(rows)


def _child(parents: Sequence[Subnet], generator: torch.Generator) -> Subnet:
    """Each type's depth, and each width within it, from either of two parents (where one has none, from the other)."""
    rows = []
    for a, b in zip(_pick(parents, generator), _pick(parents, generator), strict=True):
        depth = _depth(_pick((a, b), generator))
        widths = [_pick([w for w in pair if w] or [0], generator) for pair in zip(a, b, strict=True)]
        rows.append(_first(widths, depth))
    return tuple(rows)


def _first(widths: Sequence[int], depth: int) -> tuple[int, ...]:
    return tuple(width if block < depth else 0 for block, width in enumerate(widths))


def _depth(row: Sequence[int]) -> int:
    return sum(1 for width in row if width)


def _pick(options: Sequence[Any], generator: torch.Generator | None) -> Any:
    return options[int(torch.randint(len(options), (1,), generator=generator))]


def _chance(probability: float, generator: torch.Generator) -> bool:
    return float(torch.rand(1, generator=generator)) < probability
