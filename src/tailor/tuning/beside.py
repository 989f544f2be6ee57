"""Tunes that stay beside layers whose widths are cut: the cut in the stock model's names, and the tune plan that fits.

A width plan made on the tuned model names `attn.qkv.base.weight` and `attn.qkv.up`. In a spec it stands before the
tunes and speaks of the stock model; the tunes are then made for the narrower layers, so that each has its own size.
Single entries whose row or column goes are gone, the others get new indices.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from tailor.errors import PlanError
from tailor.surgery import split_range
from tailor.tracing import Groups, WidthPlan
from tailor.tracing.widths.cut import keep_vectors
from tailor.tracing.widths.layout import keep_mask, names
from tailor.tuning.apply import wrapped_paths
from tailor.tuning.plan import Entries, Tune, TunePlan


@dataclass(frozen=True)
class Owner:
    """A name of the tuned model: the stock model's for it, or None where a tune put it there, and at which path."""

    stock: str | None
    tune: str = ""


@dataclass(frozen=True)
class Names:
    """The names of a model with `wrappers` modules around the module at each path."""

    wrappers: Mapping[str, int]

    def place(self, name: str) -> Owner:
        """Whose a parameter, buffer or module is."""
        path, around = "", 0
        for part in name.split("."):
            if around and part != "base":
                return Owner(None, path)
            if around:
                around -= 1
                continue
            path = f"{path}.{part}" if path else part
            around = self.wrappers.get(path, 0)
        return Owner(None, path) if around else Owner(path)

    def own(self, groups: Groups, heads: Collection[str]) -> dict[str, set[str]]:
        """The groups that live in tunes only (and the classifier), by the paths of the tunes."""
        roots = tuple(f"{head}." for head in heads)
        found: dict[str, set[str]] = {}
        for group in groups.groups:
            owners = [self.place(member.tensor) for member in group.members]
            if all(p.stock is None or p.stock.startswith(roots) for p in owners) and any(p.tune for p in owners):
                for owner in owners:
                    if owner.tune:
                        found.setdefault(owner.tune, set()).add(group.id)
        return found


def names_of(plans: Iterable[TunePlan]) -> Names:
    """The names of a model that the plans were applied to, its single entries folded in."""
    return Names(Counter(path for plan in plans for path in wrapped_paths(plan)))


@dataclass(frozen=True)
class Narrowing:
    """A cut of a tuned model: the width plan in that model's names, and what it means for the stock model."""

    plan: WidthPlan
    names: Names

    @cached_property
    def stock(self) -> WidthPlan:
        """The same cut of the stock model."""
        slices = [(self.names.place(s.tensor).stock, s) for s in self.plan.slices]
        settings = [(self.names.place(s.module).stock if s.module else "", s) for s in self.plan.settings]
        rescales = [(self.names.place(r.tensor).stock, r) for r in self.plan.rescales]
        used = {name for stock, s in slices if stock for layout in s.layouts for name in names(layout)}
        return WidthPlan(
            tuple(cut for cut in self.plan.cuts if cut.group in used),
            tuple(replace(s, tensor=stock) for stock, s in slices if stock),
            tuple(replace(s, module=stock) for stock, s in settings if stock is not None),
            tuple(replace(r, tensor=stock) for stock, r in rescales if stock),
        )

    @cached_property
    def masks(self) -> dict[str, tuple[Tensor, ...]]:
        """The positions that stay along each dimension of every tensor that loses some, by the tuned model's names."""
        kept = keep_vectors(self.plan)
        return {s.tensor: tuple(keep_mask(layout, kept) for layout in s.layouts) for s in self.plan.slices}

    @cached_property
    def _stock_masks(self) -> dict[str, tuple[Tensor, ...]]:
        return {stock: m for name, m in self.masks.items() if (stock := self.names.place(name).stock)}

    def fitted(self, plan: TunePlan) -> TunePlan:
        """The tune plan on the stock model after the cut. `cost` is not counted again."""
        entries = [Entries(e.tensor, left) for e in plan.entries if (left := self._indices(e.tensor, e.indices))]
        full = [name for name in map(self._range, plan.full) if name]
        return replace(
            plan, full=tuple(full), tunes=tuple(self._tune(tune) for tune in plan.tunes), entries=tuple(entries)
        )

    def _indices(self, tensor: str, indices: Sequence[int]) -> tuple[int, ...]:
        masks = self._stock_masks.get(tensor)
        if masks is None:
            return tuple(indices)
        stays, moved = renumbered(torch.tensor(indices), masks)
        return tuple(moved[stays].tolist())

    def _range(self, name: str) -> str:
        tensor, span = split_range(name)
        masks = self._stock_masks.get(tensor)
        if span is None or masks is None:
            return name
        start, stop = _moved(span, masks[0])
        return f"{tensor}[{start}:{stop}]" if stop > start else ""

    def _tune(self, tune: Tune) -> Tune:
        masks = self._stock_masks.get(f"{tune.path}.weight")
        rows = tune.rows if tune.rows is None or masks is None else _moved(tune.rows, masks[0])
        geometry = tune.geometry
        if geometry is not None:
            geometry = replace(geometry, width=self._width(tune.path, geometry.width))
        return replace(tune, rows=rows, geometry=geometry, method=self._resized(tune))

    def _width(self, path: str, width: int) -> int:
        """What a width of the activations at a tune has become: the length of the tune's axes of that width."""
        sizes = {
            int(mask.sum())
            for s in self.plan.slices
            if self.names.place(s.tensor) == Owner(None, path)
            for layout, mask in zip(s.layouts, self.masks[s.tensor], strict=True)
            if len(mask) == width and not names(layout) <= self._own
        }
        if len(sizes) > 1:
            raise PlanError(
                f"the tune at `{path}` would be {sorted(sizes)} wide at once", hint="use `--adapters merge`"
            )
        return sizes.pop() if sizes else width

    @cached_property
    def _own(self) -> set[str]:
        """Groups that occur in no tensor of the stock model, and numbers."""
        used = {n for s in self.stock.slices for layout in s.layouts for n in names(layout)}
        return {cut.group for cut in self.plan.cuts} - used

    def _resized(self, tune: Tune):  # type: ignore[no-untyped-def]  # one of the table's methods
        """The method at the width that its own axes have left; they are tied, so that one number says it."""
        inside = {
            name
            for s in self.plan.slices
            if self.names.place(s.tensor) == Owner(None, tune.path)
            for layout in s.layouts
            for name in names(layout) & self._own
        }
        cuts = [cut for cut in self.plan.cuts if cut.group in inside]
        if not cuts:
            return tune.method
        knob = tune.method.knob
        size = getattr(tune.method, knob) * len(cuts[0].keep) // cuts[0].size
        change = {knob: size}
        if any(f.name == "alpha" for f in fields(tune.method)):  # type: ignore[arg-type]
            change["alpha"] = tune.method.alpha * size / getattr(tune.method, knob)  # type: ignore[attr-defined]
        return replace(tune.method, **change)  # type: ignore[type-var]

    def deltas(self, tensor: str, indices: Tensor, delta: Tensor) -> Tensor:
        """What single entries (flat `indices` of `tensor`, in the tuned model's names) add to those that stay."""
        masks = self.masks.get(tensor)
        if masks is None:
            return delta
        factor = torch.ones_like(delta)
        row = indices // max(1, prod(len(m) for m in masks[1:]))
        for rescale in self.plan.rescales:
            if rescale.tensor == tensor:
                for start, stop in rescale.ranges:
                    factor[(row >= start) & (row < stop)] = rescale.factor
        stays, _ = renumbered(indices, masks)
        return (delta * factor)[stays]


def renumbered(indices: Tensor, masks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Which flat indices stay when `masks` (one a dimension) are kept, and every index in the smaller tensor."""
    stays = torch.ones(len(indices), dtype=torch.bool)
    moved, rest = torch.zeros(len(indices), dtype=torch.int64), indices.to("cpu", torch.int64)
    sizes = [len(mask) for mask in masks]
    for d, mask in enumerate(masks):
        below = prod(sizes[d + 1 :])
        at, rest = rest // below, rest % below
        stays &= mask[at]
        moved = moved * int(mask.sum()) + (mask.cumsum(0) - 1)[at]
    return stays, moved


def _moved(span: tuple[int, int], mask: Tensor) -> tuple[int, int]:
    return int(mask[: span[0]].sum()), int(mask[: span[1]].sum())
