"""Surgery: apply a width plan to a module in place. It decides nothing; the plan says what happens to each tensor.

Layouts may name groups that the plan does not cut; those count as whole. Parameters keep their identity, so tied
weights stay tied and an optimiser's references stay valid (their state does not: make the optimiser afterwards).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tailor.errors import PlanError
from tailor.surgery import forget_
from tailor.tracing.widths.checks import check_plan, tensors_of
from tailor.tracing.widths.layout import keep_index, keep_mask
from tailor.tracing.widths.plan import Rescale, Setting, Slice, WidthPlan
from tailor.tracing.widths.replay import replay_

_LEVEL = re.compile(r"(?P<list>\w+)\[(?P<index>\d+)\]\.(?P<key>\w+)")
_HINT = "the plan was made for another backbone, or was already applied; make it again with `tailor prune`"


def cut(model: nn.Module, plan: WidthPlan) -> nn.Module:
    """A cut copy. It shares the values of what the plan leaves whole with `model`: compare with it, train neither."""
    return cut_(sharing(model), plan)


def sharing(model: nn.Module) -> nn.Module:
    """A copy with parameters and buffers of its own, which hold the model's own values until they are set anew."""
    memo: dict[int, object] = {}
    for tensor in dict.fromkeys((*model.parameters(), *model.buffers())):
        values = tensor.detach()
        memo[id(tensor)] = nn.Parameter(values, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else values
    return copy.deepcopy(model, memo)


def cut_(model: nn.Module, plan: WidthPlan) -> nn.Module:
    """Remove the plan's units from `model`, which must have the widths that the plan was made for; return it."""
    check_plan(model, plan)
    forget_(model)
    tensors = tensors_of(model)
    modules = dict(model.named_modules())
    kept = keep_vectors(plan)
    indices = {piece.tensor: _indices(piece, tensors, kept) for piece in plan.slices}
    for setting in plan.settings:
        if setting.module not in modules:
            raise PlanError(f"the model has no module `{setting.module}`", hint=_HINT)
    with torch.no_grad():
        for rescale in plan.rescales:
            _rescale_(_find(rescale.tensor, tensors), rescale)
        done: set[int] = set()  # a tied weight has several names
        for name, dims in indices.items():
            if id(tensors[name]) not in done:
                done.add(id(tensors[name]))
                _select_(tensors[name], dims)
    for setting in plan.settings:
        _set_(modules[setting.module], setting)
    for replay in plan.replays:
        if replay.module not in modules:
            raise PlanError(f"the model has no module `{replay.module}`", hint=_HINT)
        replay_(model, replay)
    return model


def keep_vectors(plan: WidthPlan) -> dict[str, Tensor]:
    """A boolean vector over the units of every group that is cut."""
    vectors = {}
    for cut in plan.cuts:
        vector = torch.zeros(cut.size, dtype=torch.bool)
        vector[list(cut.keep)] = True
        vectors[cut.group] = vector
    return vectors


def remaining(plan: WidthPlan, tensor: str, dim: int) -> Tensor | None:
    """The positions of a tensor's dimension that stay, None where the plan does not cut it."""
    for piece in plan.slices:
        if piece.tensor == tensor and not piece.layouts[dim].isdigit():
            return keep_index(piece.layouts[dim], keep_vectors(plan))
    return None


def _find(name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    if name not in tensors:
        raise PlanError(f"the model has no tensor `{name}`", hint=_HINT)
    return tensors[name]


def _indices(piece: Slice, tensors: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> dict[int, Tensor]:
    """Positions to keep by dimension, after checking that the tensor has the plan's dense shape."""
    tensor = _find(piece.tensor, tensors)
    expected = tuple(len(keep_mask(layout, kept)) for layout in piece.layouts)
    if tuple(tensor.shape) != expected:
        raise PlanError(f"`{piece.tensor}` has shape {tuple(tensor.shape)}, the plan expects {expected}", hint=_HINT)
    return {dim: keep_index(layout, kept) for dim, layout in enumerate(piece.layouts) if not layout.isdigit()}


def _select_(tensor: Tensor, dims: Mapping[int, Tensor]) -> None:
    data = tensor.data
    for dim, index in dims.items():
        data = data.index_select(dim, index.to(data.device))
    tensor.grad = None
    tensor.data = data.contiguous()


def _rescale_(tensor: Tensor, rescale: Rescale) -> None:
    data = tensor.data.clone()
    for start, stop in rescale.ranges:
        data[start:stop] *= rescale.factor
    tensor.data = data


def _set_(module: nn.Module, setting: Setting) -> None:
    level = _LEVEL.fullmatch(setting.attribute)
    if level:
        levels = getattr(module, level["list"], None)
        if not isinstance(levels, list) or int(level["index"]) >= len(levels):
            raise PlanError(f"module `{setting.module}` has no `{setting.attribute}`", hint=_HINT)
        levels[int(level["index"])][level["key"]] = setting.value
        return
    if not hasattr(module, setting.attribute):
        raise PlanError(f"module `{setting.module}` has no attribute `{setting.attribute}`", hint=_HINT)
    old = getattr(module, setting.attribute)
    value = setting.value
    setattr(module, setting.attribute, type(old)(value) if isinstance(value, tuple) else value)  # type: ignore[call-arg]
