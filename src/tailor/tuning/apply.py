"""Doing what a TunePlan says, undoing the wrapping afterwards, and counting what it costs. Decides nothing."""

from collections.abc import Iterator

import torch
from torch import nn

from tailor.errors import PlanError
from tailor.surgery import freeze_, get_module, get_parameter, set_module_, split_range, write_through_
from tailor.tuning.layers import innermost, matrix_shape
from tailor.tuning.method import Module
from tailor.tuning.plan import Tune, TunePlan
from tailor.tuning.sparse import merge_entries_, tune_entries_


def apply_(model: nn.Module, plan: TunePlan, heads: tuple[str, ...], seed: int = 0) -> nn.Module:
    """Freeze the model, then make exactly the plan's parameters and the `heads` train. New modules draw from `seed`."""
    freeze_(model)
    _check(model, plan)
    ranges = []
    for name in plan.full:
        tensor, span = split_range(name)
        if span is None:
            get_parameter(model, tensor).requires_grad_(True)
        else:
            ranges.append((tensor, torch.arange(*span)))
    for path in heads:
        get_module(model, path).requires_grad_(True)
    for tensor, indices in _joined(ranges + [(e.tensor, torch.tensor(e.indices)) for e in plan.entries]):
        tune_entries_(model, tensor, indices)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for group in _groups(plan):
            first = group[0]
            rows = tuple(t.rows for t in group if t.rows is not None)
            layer = get_module(model, first.path)
            mode = layer.training
            set_module_(model, first.path, first.method.wrap(layer, rows, first.geometry).train(mode))
    return model


def merge_(model: nn.Module, plan: TunePlan) -> nn.Module:
    """Fold every tune back into the plain layers; PlanError naming the first method that cannot be folded exactly."""
    for tune in plan.tunes:
        method = tune.method
        if not method.merges:
            raise PlanError(
                f"`{method.kind}` cannot be merged: it is not a linear map of the layer beside it",
                hint="export the bundle as it is; `lora`, `repadapter`, `ssf`, `bias` and sparse entries do merge",
            )
    write_through_(model)
    merge_entries_(model)  # first: a sparse layer below a wrapper writes its entries anew and would undo the folding
    at_path: dict[str, list[Module]] = {}
    for group in _groups(plan):
        at_path.setdefault(group[0].path, []).append(group[0].method)
    for path, methods in at_path.items():
        wrapped = get_module(model, path)
        set_module_(model, path, _folded(wrapped, methods).train(wrapped.training))
    return model


def _folded(wrapped: nn.Module, methods: list[Module]) -> nn.Module:
    """The layer under one wrapper a method (the first innermost), every method folded in, innermost first."""
    chain = [wrapped]
    while len(chain) < len(methods):
        chain.append(chain[-1].base)  # type: ignore[arg-type]
    folded = chain[-1].base
    for wrapper, method in zip(reversed(chain), methods, strict=True):
        wrapper.base = folded
        folded = method.merge(wrapper)  # type: ignore[attr-defined]
    return folded  # type: ignore[return-value]


def merges(plan: TunePlan) -> bool:
    """Whether every method of the plan folds back exactly."""
    return all(tune.method.merges for tune in plan.tunes)


def cost(model: nn.Module, plan: TunePlan, heads: tuple[str, ...] = ()) -> int:
    """Trainable parameters of the plan on the (unwrapped) model, the classifier left out."""
    total = sum(len(e.indices) for e in plan.entries)
    for name in plan.full:
        tensor, span = split_range(name)
        if not any(tensor.startswith(head + ".") for head in heads):
            total += span[1] - span[0] if span else get_parameter(model, tensor).numel()
    for tune in plan.tunes:
        total += tune.method.cost(get_module(model, tune.path), tune.rows, tune.geometry)
    return total


def wrapped_paths(plan: TunePlan) -> list[str]:
    """The path of every module that the plan puts another around, once for each that it puts there."""
    return [group[0].path for group in _groups(plan)]


def _groups(plan: TunePlan) -> Iterator[list[Tune]]:
    """Tunes of the same method at the same path together (parts of a fused layer), deepest paths first."""
    groups: dict[tuple[str, object], list[Tune]] = {}
    for tune in plan.tunes:
        groups.setdefault((tune.path, tune.method), []).append(tune)
    yield from sorted(groups.values(), key=lambda group: -group[0].path.count("."))


def _joined(pieces: list[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """All indices of a tensor in one sorted list; weights last, because wrapping a layer hides its bias."""
    by_tensor: dict[str, list[torch.Tensor]] = {}
    for tensor, indices in pieces:
        by_tensor.setdefault(tensor, []).append(indices)
    for tensor, parts in sorted(by_tensor.items(), key=lambda item: item[0].endswith(".weight")):
        yield tensor, torch.unique(torch.cat(parts))


def _check(model: nn.Module, plan: TunePlan) -> None:
    """Every index and range lies inside its tensor."""
    for entries in plan.entries:
        size = get_parameter(model, entries.tensor).numel()
        if entries.indices[-1] >= size:
            raise PlanError(
                f"the plan tunes entry {entries.indices[-1]} of `{entries.tensor}`, which has {size}",
                hint="the plan was made for another backbone; make it again with `tailor adapt --plan-only`",
            )
    for name in plan.full:
        tensor, span = split_range(name)
        if span and not 0 <= span[0] < span[1] <= get_parameter(model, tensor).numel():
            raise PlanError(f"the plan tunes `{name}`, which is not a range of it", hint="make the plan again")
    for group in _groups(plan):
        rows = sorted(tune.rows for tune in group if tune.rows is not None)
        outputs = matrix_shape(innermost(get_module(model, group[0].path)))[0] if rows else 0
        ends = [0, *(end for pair in rows for end in pair), outputs]
        if rows and (ends != sorted(ends) or any(a == b for a, b in rows)):
            raise PlanError(
                f"the rows {rows} of `{group[0].path}`, which has {outputs}, overlap or are not there",
                hint="make the plan again",
            )
