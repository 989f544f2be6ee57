"""Every kind of plan, one row each: how it is carried out, described, added to others, and what names it leaves.

The only place where kinds of plans are told apart.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import Field
from torch import nn

from tailor import backbones
from tailor.errors import PlanError
from tailor.pruning.blocks import number_after
from tailor.pruning.convolve.convert import apply_swaps_
from tailor.pruning.convolve.plan import SwapPlan
from tailor.pruning.layers import LayerPlan, apply_layers_
from tailor.stitching.route import RoutePlan, go_on_
from tailor.tracing import WidthPlan, cut_
from tailor.tuning.apply import apply_, cost
from tailor.tuning.beside import Narrowing, names_of
from tailor.tuning.plan import TunePlan, renamed, without


@dataclass(frozen=True)
class Circumstances:
    """What carrying out a plan needs besides it: the classifier's paths, the seed of new modules, and the parameters
    that all new modules together may have (None: any number)."""

    heads: tuple[str, ...]
    seed: int = 0
    most: int | None = None


@dataclass(frozen=True)
class PlanKind:
    """One kind of plan.

    `apply_` carries it out; `line` says it in a sentence for people, `summary` from its JSON in plain values for
    programs; `add` gives the plans of a model once this one, made of that model, is added (with the paths of all its
    blocks); `name_after` is a parameter's name once it was carried out. `trains` says that it makes tensors train
    instead of taking some away, `narrows` that tunes beside the layers have to be cut with them.
    """

    plan: type
    apply_: Callable[[nn.Module, Any, Circumstances], nn.Module]
    line: Callable[[Any], str]
    summary: Callable[[dict[str, Any]], dict[str, Any]]
    add: Callable[[tuple[Any, ...], Any, Sequence[str]], tuple[Any, ...]]
    name_after: Callable[[Any, str], str] = lambda _, name: name
    trains: bool = False
    narrows: bool = False


def _tune_(model: nn.Module, plan: TunePlan, setting: Circumstances) -> nn.Module:
    asked = cost(model, replace(plan, full=(), entries=()))
    if setting.most is not None and asked > setting.most:
        raise PlanError(f"{setting.most:,} stored numbers do not fit the plan, whose modules have {asked:,} parameters")
    return apply_(model, plan, setting.heads, setting.seed)


def _tune_summary(values: dict[str, Any]) -> dict[str, Any]:
    kinds: dict[str, int] = {}
    for tune in values["tunes"]:
        kinds[tune["method"]["kind"]] = kinds.get(tune["method"]["kind"], 0) + 1
    return {
        "method": values["method"],
        "cost": values["cost"],
        "modules": kinds,
        "whole": len(values["full"]),
        "sparse_tensors": len(values["entries"]),
        "facts": values["facts"],
    }


def _layers_line(plan: LayerPlan) -> str:
    why = plan.facts.get("reason", "")
    maps = f", {len(plan.bypasses)} linear maps in place of others" if plan.bypasses else ""
    return f"layers: `{plan.method}`, {len(plan.kept)} of {plan.blocks} blocks{maps}" + (f"; {why}" if why else "")


def _layers_summary(values: dict[str, Any]) -> dict[str, Any]:
    kept = len(values["kept"])
    maps = {"bypasses": len(values["bypasses"])} if values.get("bypasses") else {}
    return {"kept": kept, "blocks": kept + len(values["dropped"]), **maps, **values["facts"]}


def _add_layers(plans: tuple["AnyPlan", ...], plan: LayerPlan, blocks: Sequence[str]) -> tuple["AnyPlan", ...]:
    """What was to train in the dropped blocks is left out.

    Where blocks go from the middle, those behind them get other numbers: then the cut comes before the tunes, which are
    told by the names that it leaves.
    """
    if not plan.dropped:
        return (*plans, plan)
    kept = retuned(plans, lambda one: without(one, blocks, plan.dropped))
    tunes = tuning(kept)
    stay = [path for path in blocks if path not in plan.dropped]
    moved = any(number_after(f"{path}.", plan.dropped) != f"{path}." for path in stay)
    if not moved or not any(one.tunes or one.entries for one in tunes):
        return (*kept, plan)
    return (*pruning(kept), plan, *(renamed(one, lambda name: number_after(name, plan.dropped)) for one in tunes))


def _width_line(plan: WidthPlan) -> str:
    kept, whole = (sum(sizes) for sizes in zip(*((len(c.keep), c.size) for c in plan.cuts)))
    return f"width: {kept:,} of {whole:,} units in {len(plan.cuts)} groups"


def _width_summary(values: dict[str, Any]) -> dict[str, Any]:
    return {"groups": len(values["cuts"]), "units": sum(cut["size"] for cut in values["cuts"])}


def _add_width(plans: tuple["AnyPlan", ...], plan: WidthPlan, blocks: Sequence[str]) -> tuple["AnyPlan", ...]:
    """Where tunes stand beside the layers, the cut of the stock model comes before them, and they are made to fit."""
    tunes = tuning(plans)
    if not any(one.tunes or one.entries for one in tunes):
        return (*plans, plan)
    narrowing = Narrowing(plan, names_of(tunes))
    return (*pruning(plans), narrowing.stock, *(narrowing.fitted(one) for one in tunes))


def _swap_line(plan: SwapPlan) -> str:
    counts: dict[str, int] = {}
    for swap in plan.swaps:
        counts[swap.operation] = counts.get(swap.operation, 0) + 1
    words = {"conv3": "3x3 convolution", "conv1": "1x1 convolution", "none": "nothing"}
    found = ", ".join(f"{counts[kind]} {text}" for kind, text in words.items() if kind in counts)
    return f"swap: `{plan.method}`, of the attentions {found}"


def _swap_summary(values: dict[str, Any]) -> dict[str, Any]:
    return {"method": values["method"], "swaps": len(values["swaps"]), **values["facts"]}


PLANS: dict[str, PlanKind] = {
    "tune": PlanKind(
        TunePlan,
        _tune_,
        lambda plan: f"tune: `{plan.method}`, {plan.cost:,} trainable parameters without the classifier",
        _tune_summary,
        lambda plans, plan, blocks: (*plans, plan),
        trains=True,
    ),
    "layers": PlanKind(
        LayerPlan,
        lambda model, plan, setting: backbones.follow_(apply_layers_(model, plan, setting.most)),
        _layers_line,
        _layers_summary,
        _add_layers,
        lambda plan, name: number_after(name, plan.gone),
    ),
    "width": PlanKind(
        WidthPlan,
        lambda model, plan, setting: backbones.follow_(cut_(model, plan)),
        _width_line,
        _width_summary,
        _add_width,
        narrows=True,
    ),
    "route": PlanKind(
        RoutePlan,
        lambda model, plan, setting: go_on_(model, plan, setting.most),
        lambda plan: f"route: `{plan.route}`, behind `{plan.leave}` on in `{plan.tail.name}` from `{plan.enter}`",
        lambda values: {"route": values["route"], "tail": values["tail"]["name"]},
        lambda plans, plan, blocks: (*plans, plan),
    ),
    "swap": PlanKind(
        SwapPlan,
        lambda model, plan, setting: apply_swaps_(model, plan),
        _swap_line,
        _swap_summary,
        lambda plans, plan, blocks: (*plans, plan),
    ),
}
"""Every kind of plan by the `kind` that its JSON carries."""

if TYPE_CHECKING:
    AnyPlan = TunePlan | LayerPlan | WidthPlan | RoutePlan | SwapPlan
else:
    AnyPlan = Annotated[Union[tuple(row.plan for row in PLANS.values())], Field(discriminator="kind")]  # noqa: UP007
    """One of `PLANS`, for specs read from JSON."""


def tuning(plans: Sequence["AnyPlan"]) -> tuple[TunePlan, ...]:
    """The plans that say what trains, in order."""
    return tuple(plan for plan in plans if PLANS[plan.kind].trains)  # type: ignore[misc]


def pruning(plans: Sequence["AnyPlan"]) -> tuple["AnyPlan", ...]:
    """The plans that take something away or put something else in its place, in order."""
    return tuple(plan for plan in plans if not PLANS[plan.kind].trains)


def retuned(plans: Sequence["AnyPlan"], change: Callable[[TunePlan], TunePlan]) -> tuple["AnyPlan", ...]:
    """The plans, each that says what trains changed."""
    return tuple(change(plan) if PLANS[plan.kind].trains else plan for plan in plans)  # type: ignore[arg-type]


def renumbered(plans: Sequence["AnyPlan"]) -> tuple["AnyPlan", ...]:
    """The same plans, tunes of whole tensors behind those that move names, in the names that these leave.

    Where a block goes from the middle of its list, those behind it get other numbers. Everything else that looks at a
    model reads what trains in it by the names that it has now.
    """
    found: list[AnyPlan] = []
    for plan in plans:
        whole = [p for p in tuning(found) if not p.tunes and not p.entries]
        after = PLANS[plan.kind].name_after
        moved = [replace(p, full=tuple(after(plan, name) for name in p.full)) for p in whole]
        found = [*(p for p in found if p not in whole), plan, *moved] if moved != whole else [*found, plan]
    return tuple(found)
