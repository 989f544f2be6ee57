"""From a method's name and a budget to a TunePlan, for every method that needs no data (SPT and NOAH: their files)."""

import dataclasses
import re
from functools import partial
from typing import Any

from torch import nn

from tailor.anatomy import Anatomy
from tailor.errors import PlanError, UsageError, nearest
from tailor.tuning.apply import cost
from tailor.tuning.method import Module, Selection
from tailor.tuning.methods import MODULES, SELECTIONS, VARIANTS
from tailor.tuning.plan import Tune, TunePlan

_LARGEST = 1 << 16
_NUMBERED = re.compile(r"^(?P<name>.+)-(?P<number>\d+)$")


def parse(name: str, extra: tuple[str, ...] = ()) -> Module | Selection:
    """`lora` or `lora-16` (the number sets the method's knob) -> the method; UsageError with the nearest name."""
    variants = {name: partial(MODULES[kind], **settings) for name, (kind, settings) in VARIANTS.items()}
    table: dict[str, Any] = {**SELECTIONS, **MODULES, **variants}
    match = _NUMBERED.match(name)
    plain = match["name"] if match and name not in table else name
    if plain not in table:
        raise UsageError(f"unknown method `{name}`", hint=nearest(plain, [*table, *extra]))
    make = table[plain]
    if match and name not in table:
        knob = make().knob
        if not knob:
            raise UsageError(f"`{plain}` takes no number, found `{name}`", hint=f"write `--method {plain}`")
        if not 1 <= int(match["number"]) <= _LARGEST:
            raise UsageError(
                f"the number in `{name}` must lie between 1 and {_LARGEST}", hint=f"write for instance `{plain}-8`"
            )
        return make(**{knob: int(match["number"])})  # type: ignore[no-any-return]
    return make()  # type: ignore[no-any-return]


def plan(model: nn.Module, anatomy: Anatomy, method: Module | Selection, budget: int | None = None) -> TunePlan:
    """The method at its usual places; with a budget, at the largest setting of its knob that does not exceed it.

    PlanError where the method is not defined on this backbone, or where its smallest setting is above the budget.
    """
    if budget is None:
        return _plan(model, anatomy, method)
    if not method.knob:
        made = _plan(model, anatomy, method)
        if made.cost > budget:
            raise _too_small(method.kind, made.cost, budget)
        return made
    step = _step(method)
    smallest = _plan(model, anatomy, _set(method, step))
    if smallest.cost > budget:
        raise _too_small(method.kind, smallest.cost, budget)
    low, high = 1, 2
    while high <= 4096 and _fits(model, anatomy, method, high * step, budget):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _fits(model, anatomy, method, middle * step, budget) else (low, middle)
    return _plan(model, anatomy, _set(method, low * step))


def _set(method: Module | Selection, number: int) -> Module | Selection:
    return dataclasses.replace(method, **{method.knob: number})  # type: ignore[type-var]


def _step(method: Module | Selection) -> int:
    """The smallest number that the knob takes; it takes its multiples (one, but for grouped bottlenecks)."""
    for number in range(1, 257):
        try:
            _set(method, number)
        except PlanError:
            continue
        return number
    raise AssertionError(f"`{method.kind}` takes no number at all")


def _too_small(kind: str, least: int, budget: int) -> PlanError:
    return PlanError(
        f"a budget of {budget:,} parameters is too small for `{kind}`: its smallest setting has {least:,}",
        hint=f"use `--budget {least}` or more, or `--method spt-lora`, which places single weights",
    )


def _fits(model: nn.Module, anatomy: Anatomy, method: Module | Selection, knob: int, budget: int) -> bool:
    try:
        return _plan(model, anatomy, _set(method, knob)).cost <= budget
    except PlanError:  # a knob beyond what the backbone has, as more blocks than there are
        return False


def _plan(model: nn.Module, anatomy: Anatomy, method: Module | Selection) -> TunePlan:
    parameters = {
        name: p for name, p in model.named_parameters() if not any(name.startswith(h + ".") for h in anatomy.heads)
    }
    if isinstance(method, Selection):
        made = TunePlan(method=label(method), full=method.names(anatomy, parameters))
    else:
        tunes = tuple(
            Tune(f"{p.path}[{p.part}]" if p.part else p.path, method, p.rows, p.geometry)
            for p in method.places(anatomy)
        )
        made = TunePlan(method=label(method), tunes=tunes)
    return dataclasses.replace(made, cost=cost(model, made, anatomy.heads))


def label(method: Module | Selection) -> str:
    """`lora-8`: how tables name a method with its setting."""
    name = getattr(method, "name", method.kind)
    return f"{name}-{getattr(method, method.knob)}" if method.knob else name
