"""Where the layers of a cut model stood in the dense one: which of its outputs and inputs are left, and how scaled.

The plans say it all: a layer that reads a cut axis is one whose weight lost columns, which the groups knew when the
plan was made. Nothing is traced here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tailor.backbones.walk import within
from tailor.pruning.blocks import number_after
from tailor.pruning.bypass import Bypass
from tailor.pruning.layers import LayerPlan
from tailor.tracing import WidthPlan
from tailor.tracing.widths.cut import keep_vectors
from tailor.tracing.widths.layout import extent, keep_index


@dataclass(frozen=True)
class RepairPlace:
    """A linear layer, convolution or batch norm: `path` in the cut model, `source` in the dense one.

    `outputs` and `inputs` are the positions left of the dense weight's rows and columns (None: all), `factor` what the
    cut multiplied the rows left with. `reads` says that it reads an axis that was cut. A `bypass` stands for dropped
    blocks, the last of which is its source.
    """

    path: str
    source: str
    outputs: Tensor | None = None
    inputs: Tensor | None = None
    factor: Tensor | None = None
    reads: bool = False
    bypass: bool = False

    def target(self, made: Tensor) -> Tensor:
        """Of what the dense layer made (..., M), channels last, what the cut layer is to make (..., m)."""
        left = made if self.outputs is None else made.index_select(-1, self.outputs.to(made.device))
        return left if self.factor is None else left * self.factor.to(left)

    def kept(self, layer: nn.Module, given: Tensor) -> Tensor:
        """Of what the dense layer was given, what the cut layer reads."""
        if self.inputs is None:
            return given
        return given.index_select(1 if isinstance(layer, nn.Conv2d) else -1, self.inputs.to(given.device))


Places = tuple[RepairPlace, ...]


def places(dense: nn.Module, plans: Iterable[Any], kinds: Any = nn.Linear | nn.Conv2d) -> Places:
    """Every linear layer and 2-d convolution of the dense model that is left once the plans are carried out.

    Of other `kinds`, such as batch norms, those whose weight has a row for every output.
    """
    found = tuple(RepairPlace(path, path) for path, module in dense.named_modules() if isinstance(module, kinds))
    for plan in plans:
        found = _FOLLOW.get(plan.kind, lambda places, plan: places)(found, plan)
    return found


def left_as(path: str, plans: Iterable[Any]) -> str | None:
    """The path of a dense model's module once the plans are carried out, None where its block was dropped."""
    for plan in plans:
        ends = [bypass.path for bypass in getattr(plan, "bypasses", ())]
        if path not in ends and within(path, getattr(plan, "dropped", ())):
            return None
        path = _moved(path, getattr(plan, "gone", ()))
    return path


def _moved(path: str, gone: Sequence[str]) -> str:
    """The path once the blocks have gone from their lists."""
    return number_after(f"{path}.weight", gone).removesuffix(".weight")


def _without_blocks(found: Places, plan: LayerPlan) -> Places:
    left = (replace(p, path=_moved(p.path, plan.gone)) for p in found if not within(p.path, plan.dropped))
    return (*left, *(_bypass(found, plan, bypass) for bypass in plan.bypasses))


def _bypass(found: Places, plan: LayerPlan, bypass: Bypass) -> RepairPlace:
    """The place of a linear map: it is to make what is left of what the last of its blocks made."""
    inside = [place for place in found if within(place.path, (bypass.path,)) and place.outputs is not None]
    last = next((p.outputs for p in reversed(inside) if p.outputs is not None and len(p.outputs) == bypass.width), None)
    source = next(p.source for p in found if within(p.path, (bypass.path,)))
    depth = bypass.path.count(".") + 1
    return RepairPlace(_moved(bypass.path, plan.gone), ".".join(source.split(".")[:depth]), outputs=last, bypass=True)


def _narrowed(found: Places, plan: WidthPlan) -> Places:
    layouts = {piece.tensor: piece.layouts for piece in plan.slices}
    scaled = {rescale.tensor: rescale for rescale in plan.rescales}
    sizes, kept = {cut.group: cut.size for cut in plan.cuts}, keep_vectors(plan)
    made = []
    for place in found:
        name = f"{place.path}.weight"
        if name not in layouts:
            made.append(place)
            continue
        rows, *columns = layouts[name][:2]
        cut = [layout for layout in columns if not layout.isdigit()]
        factor = place.factor
        if name in scaled:
            factor = torch.ones(extent(rows, sizes)) if factor is None else factor.clone()
            for start, stop in scaled[name].ranges:
                factor[start:stop] *= scaled[name].factor
        index = None if rows.isdigit() else keep_index(rows, kept)
        made.append(
            replace(
                place,
                outputs=_composed(place.outputs, index),
                inputs=_composed(place.inputs, keep_index(cut[0], kept) if cut else None),
                factor=factor if factor is None or index is None else factor[index],
                reads=place.reads or bool(cut),
            )
        )
    return tuple(made)


def _composed(before: Tensor | None, index: Tensor | None) -> Tensor | None:
    if before is None or index is None:
        return index if before is None else before
    return before[index]


_FOLLOW: Mapping[str, Callable[[Places, Any], Places]] = {"layers": _without_blocks, "width": _narrowed}
"""By kind of plan; the other kinds rename and cut no layer that they leave."""
