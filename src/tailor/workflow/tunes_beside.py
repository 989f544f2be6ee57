"""Widths of a model whose tunes stay beside its layers, and the tensors that a cut leaves.

Single entries need no place beside a layer: they are folded into a copy, which is traced, scored and cut.
"""

import copy
import dataclasses
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from tailor.build import Opened, merged_
from tailor.errors import PlanError
from tailor.inputs import Example
from tailor.plans import PLANS, Circumstances
from tailor.pruning.settings import Adapters
from tailor.spec import Spec
from tailor.surgery import write_through_
from tailor.tracing import Traced, WidthPlan, settle, trace
from tailor.tracing.graph.analyse import Analysis, module_path, operator_name
from tailor.tracing.graph.axes import leaves, pin
from tailor.tracing.graph.rules.call import Value
from tailor.tracing.graph.traced import read_groups
from tailor.tuning.beside import Names, Narrowing, names_of
from tailor.tuning.sparse import held, merge_entries_
from tailor.workflow.context import Decision

KEPT = "an axis of the tunes' own, which stay as they are"


def folded(model: nn.Module) -> nn.Module:
    """A copy with its single entries folded in, other tunes still beside their layers."""
    return merge_entries_(write_through_(copy.deepcopy(model)))


def trace_beside(model: nn.Module, spec: Spec, heads: Collection[str], example: Example, adapters: Adapters) -> Traced:
    """The groups of a model with tunes beside its layers (`folded` before). Nothing is recorded: tunes need modules.

    With `keep` the tunes' own axes (ranks, bottlenecks, prompts) are pinned; with `prune` those of a tune are tied.
    """
    names = names_of(spec.tuning)
    traced = trace(model, example)
    _forget_residuals(traced.analysis, names)
    own = names.own(traced.groups, heads)
    pinned = [p for p in own if adapters == "keep" or p in heads or names.wrappers[p] > 1]
    for path in pinned:
        for atom, name in traced.names.items():
            if name in own[path]:
                pin(((atom,),), KEPT)
    traced = settle(model, read_groups(model, traced.analysis), example, record_modules=False)
    ties = _joined([*traced.groups.ties, *(tuple(sorted(ids)) for ids in names.own(traced.groups, heads).values())])
    return dataclasses.replace(traced, groups=dataclasses.replace(traced.groups, ties=ties))


def _joined(ties: list[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """Ties that share a group are one."""
    joined: list[tuple[str, ...]] = []
    for tie in ties:
        touching = [other for other in joined if set(other) & set(tie)]
        rest = [other for other in joined if other not in touching]
        joined = [*rest, tuple(dict.fromkeys((*(name for other in touching for name in other), *tie)))]
    return tuple(tie for tie in joined if len(tie) > 1)


def _forget_residuals(analysis: Analysis, names: Names) -> None:
    """What a tune adds to its layer's output is no residual stream."""
    atoms = {leaf for value in analysis.sources.values() for dim in value.dims for leaf in leaves(dim)}
    streams = set()
    for node in analysis.program.graph.nodes:
        value = analysis.values.get(node)
        if operator_name(node) in ("add", "__iadd__") and isinstance(value, Value):
            path = module_path(node).split("@")[0]
            if not path or names.place(path).stock is not None:
                streams |= {leaf for dim in value.dims for leaf in leaves(dim)}
    for atom in atoms - streams:
        atom.tags.discard("residual")


def as_merged(spec: Spec) -> dict[str, Any]:
    """How a model with tunes beside its layers is priced: `deployed` folds them in, nothing of theirs is `counted`."""
    names = names_of(spec.tuning)
    return {
        "deployed": lambda model: merged_(model, spec),
        "counted": lambda name: not name or names.place(name).stock is not None,
    }


def left(opened: Opened, decision: Decision, narrow: nn.Module) -> dict[str, Tensor]:
    """What a decision leaves of the model's tensors, by the names of `narrow`, built from the spec that it leads to.

    PlanError where a tune, made anew for narrower layers, has another shape than its cut tensors.
    """
    if decision.tensors is not None:
        return dict(decision.tensors)
    setting = Circumstances(opened.anatomy.heads)
    cut = next((plan for plan in decision.plans if PLANS[plan.kind].narrows), None)
    whole = copy.deepcopy(opened.model) if cut is None else folded(opened.model)
    for plan in decision.plans:
        PLANS[plan.kind].apply_(whole, plan, setting)
    values = whole.state_dict()
    return values if cut is None else _narrowed(opened, cut, values, narrow)  # type: ignore[arg-type]


def _narrowed(opened: Opened, cut: WidthPlan, values: dict[str, Tensor], narrow: nn.Module) -> dict[str, Tensor]:
    """The cut values, with the tunes' own and the single entries in the form that the narrow model stores them."""
    model, narrowing = opened.model, Narrowing(cut, names_of(opened.spec.tuning))
    state = model.state_dict()
    deltas = {
        one.name: narrowing.deltas(one.name, one.indices, state[name])
        for name, one in held(model).items()
        if one.indices is not None
    }
    shapes = {name: tensor.shape for name, tensor in narrow.state_dict().items()}
    found = {}
    for name, one in held(narrow).items():
        value = deltas[one.name] if one.part == "delta" else values[one.name]
        if value.shape != shapes[name]:
            raise PlanError(
                f"`{name}` cannot be cut beside its layer: {tuple(value.shape)} is left, a new one has "
                f"{tuple(shapes[name])}",
                hint="use `--adapters merge`, or `--method sls`",
            )
        found[name] = value
    entries = {one.name: one.indices for one in held(narrow).values() if one.indices is not None}
    for name, one in held(narrow).items():
        if one.part == "rest":  # stored without the deltas that are added to it
            found[name] = _without(found[name], entries[one.name], deltas[one.name])
    return found


def _without(value: Tensor, indices: Tensor, delta: Tensor) -> Tensor:
    with torch.no_grad():
        return value.flatten().index_add(0, indices, -delta).view(value.shape)
