"""What a width plan must satisfy before any of it is carried out: a plan may come from a file that nobody made.

Numbers are compared with the model's own before memory is taken for them; names are looked up in the model's tables of
modules, parameters and buffers, operators in the table of rules; nothing else in a plan is ever called or imported.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from tailor.errors import PlanError
from tailor.tracing.graph.rules.call import parameters_of
from tailor.tracing.widths.layout import extent, names
from tailor.tracing.widths.plan import Recorded, Replay, Rescale, Setting, WidthPlan
from tailor.tracing.widths.replay import DTYPES, operator_of

_HINT = "the plan was made for another backbone, or was already applied; make it again with `tailor prune`"
_ENTRY = re.compile(r"(?P<list>\w+)\[(?P<index>\d{1,6})\]\.(?P<key>\w+)")
_MOST_STEPS = 20_000
_MOST_ELEMENTS = 1 << 30
_MOST_NESTED = 4
REFERENCES = frozenset({"value", "part", "tensor", "length", "training", "dtype", "device"})


def check_plan(model: nn.Module, plan: WidthPlan) -> None:
    """PlanError where the plan does not fit the model or asks for what no plan of ours asks."""
    modules = dict(model.named_modules())
    tensors = tensors_of(model)
    _once([cut.group for cut in plan.cuts], "group")
    _once([piece.tensor for piece in plan.slices], "tensor")
    _once([f"{one.module}.{one.attribute}" for one in plan.settings], "attribute")
    _once([replay.module for replay in plan.replays], "recorded module")
    _check_shapes(plan, tensors)
    for setting in plan.settings:
        _check_setting(modules, setting)
    for rescale in plan.rescales:
        _check_rescale(_known(rescale.tensor, tensors), rescale)
    for replay in plan.replays:
        check_replay(modules, replay)


def _check_rescale(tensor: Tensor, rescale: Rescale) -> None:
    rows, before = tensor.shape[0] if tensor.ndim else 0, 0
    for start, stop in rescale.ranges:
        if not before <= start < stop <= rows:
            raise PlanError(
                f"`{rescale.tensor}` has {rows} rows, the plan rescales {start} to {stop} after {before}", hint=_HINT
            )
        before = stop
    if not 0 < rescale.factor <= 1:
        raise PlanError(f"the factor of `{rescale.tensor}` is not between 0 and 1: {rescale.factor}", hint=_HINT)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by every name they have."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {**parameters, **dict(model.named_buffers(remove_duplicate=False))}


def _once(found: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for name in found:
        if name in seen:
            raise PlanError(f"the plan names the {what} `{name}` twice", hint=_HINT)
        seen.add(name)


def _known(name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    if name not in tensors:
        raise PlanError(f"the model has no tensor `{name}`", hint=_HINT)
    return tensors[name]


def _check_shapes(plan: WidthPlan, tensors: Mapping[str, Tensor]) -> None:
    """Dense shapes by arithmetic alone: a group that lies in no tensor, or is longer than one, gets no memory."""
    sizes = {cut.group: cut.size for cut in plan.cuts}
    placed: set[str] = set()
    for piece in plan.slices:
        tensor = _known(piece.tensor, tensors)
        used = set().union(*(names(layout) for layout in piece.layouts))
        if used - sizes.keys():
            unknown = sorted(used - sizes.keys())[0]
            raise PlanError(f"`{piece.tensor}` is laid out by a group that is not cut: `{unknown}`", hint=_HINT)
        expected = tuple(extent(layout, sizes) for layout in piece.layouts)
        if tuple(tensor.shape) != expected:
            raise PlanError(
                f"`{piece.tensor}` has shape {tuple(tensor.shape)}, the plan expects {expected}", hint=_HINT
            )
        for name in used:
            if all(
                sizes[name] > length or name not in names(layout) for layout, length in zip(piece.layouts, expected)
            ):
                raise PlanError(f"the group `{name}` does not fit into `{piece.tensor}`", hint=_HINT)
        placed |= used
    if sizes.keys() - placed:
        raise PlanError(f"no tensor holds the group `{sorted(sizes.keys() - placed)[0]}`", hint=_HINT)


def _check_setting(modules: Mapping[str, nn.Module], setting: Setting) -> None:
    """Only numbers that are there already change, and widths only shrink."""
    if setting.module not in modules:
        raise PlanError(f"the model has no module `{setting.module}`", hint=_HINT)
    where = f"`{setting.attribute}` of module `{setting.module}`"
    old = _present(modules[setting.module], setting.attribute)
    new = setting.value
    if isinstance(old, float) and isinstance(new, float):
        fits = math.isfinite(new) and new > 0
    elif type(old) is int and type(new) is int:
        fits = 1 <= new <= old
    elif isinstance(old, (tuple, list)) and isinstance(new, tuple) and all(type(n) is int for n in old):
        fits = len(old) == len(new) and all(b == a or 1 <= b <= a for a, b in zip(old, new, strict=True))
    else:
        found = "missing" if old is None else f"a {type(old).__name__}"
        raise PlanError(f"{where} is {found}, the plan sets it to: {str(new)[:40]}", hint=_HINT)
    if not fits:
        raise PlanError(f"{where} is {str(old)[:40]}, the plan sets it to: {str(new)[:40]}", hint=_HINT)


def _present(module: nn.Module, attribute: str) -> Any:
    """The instance's own attribute, or an entry of one of its lists of dictionaries; None for anything else."""
    entry = _ENTRY.fullmatch(attribute)
    if entry is None:
        return vars(module).get(attribute)
    levels, index = vars(module).get(entry["list"]), int(entry["index"])
    if not isinstance(levels, list) or index >= len(levels) or not isinstance(levels[index], dict):
        return None
    return levels[index].get(entry["key"])


def check_replay(modules: Mapping[str, nn.Module], replay: Replay) -> None:
    """The recorded calls name operators of the table, tensors of their module, and values that were made before."""
    if not replay.module or replay.module not in modules:
        raise PlanError(f"the model has no module `{replay.module}`", hint=_HINT)
    if len(replay.steps) > _MOST_STEPS:
        raise PlanError(f"`{replay.module}` is recorded in {len(replay.steps)} calls, more than {_MOST_STEPS}")
    own = tensors_of(modules[replay.module]).keys()
    for step in replay.steps:
        schema = parameters_of(operator_of(step.operator))
        if len(step.args) > len(schema) or not step.kwargs.keys() <= set(schema[len(step.args) :]):
            raise PlanError(f"a recorded call of `{step.operator}` has arguments it does not take", hint=_HINT)
        for argument in (*step.args, *step.kwargs.values()):
            _check_argument(argument, own, step)
    for reference in replay.outputs:
        _check_argument(reference, own, None)


def _check_argument(argument: Any, own: Iterable[str], step: Recorded | None, depth: int = 0) -> None:
    where = f"`{step.operator}`" if step else "the outputs"
    if depth > _MOST_NESTED:
        raise PlanError(f"a recorded call has arguments nested too deep, at {where}", hint=_HINT)
    if isinstance(argument, (list, tuple)):
        numbers = [n for n in argument if type(n) is int and n > 1]
        kind = step.operator.partition(".")[0] if step else ""
        asked = sum(numbers) if "split" in kind else math.prod(numbers)  # parts lie side by side
        if step and kind not in ("slice", "pad") and asked > _MOST_ELEMENTS:
            raise PlanError(f"a recorded call asks for {asked:,} numbers, at {where}", hint=_HINT)
        for item in argument:
            _check_argument(item, own, step, depth + 1)
    elif isinstance(argument, dict):
        _check_reference(argument, own, where)
    elif isinstance(argument, float) and math.isnan(argument):
        raise PlanError(f"a recorded call has a NaN among its arguments, at {where}", hint=_HINT)


def _check_reference(argument: Mapping[str, Any], own: Iterable[str], where: str) -> None:
    kind, content = next(iter(argument.items()), ("", None))
    if len(argument) != 1 or kind not in REFERENCES:
        raise PlanError(f"a recorded call has an argument of unknown kind: `{str(kind)[:40]}`", hint=_HINT)
    indices = {"value": [content], "part": content, "length": content}.get(kind)
    if indices is not None:
        right = isinstance(indices, (list, tuple)) and len(indices) == (1 if kind == "value" else 2)
        if not right or any(type(i) is not int or not 0 <= i < _MOST_STEPS for i in indices):
            raise PlanError(f"a recorded call refers to no value, at {where}: {str(argument)[:60]}", hint=_HINT)
    elif kind == "tensor" and (not isinstance(content, str) or content not in own):
        raise PlanError(f"a recorded call names no tensor of its module, at {where}: {str(content)[:60]}", hint=_HINT)
    elif kind == "dtype" and (not isinstance(content, str) or content not in DTYPES):
        raise PlanError(f"a recorded call names no type known here, at {where}: {str(content)[:60]}", hint=_HINT)
