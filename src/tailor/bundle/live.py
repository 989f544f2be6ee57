"""A palette in memory: the model of its kind, a route of it as an ordinary model and as a bundle."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from torch import nn

from tailor import backbones
from tailor.bundle.manifest import FORMAT, Bundle, Manifest, pack
from tailor.bundle.palette import Read, declared_of, load_base_, load_part_, read_palette, read_part
from tailor.bundle.verify import read_tensors
from tailor.bundle.write import state
from tailor.errors import BundleError, PlanError
from tailor.palette import (
    Fill,
    LanguagePalette,
    NestedPalette,
    Palette,
    build_language,
    build_nested,
    excerpt,
    routed,
)
from tailor.run_folder import TENSORS
from tailor.spec import Spec
from tailor.stitching.adapt import adapt_
from tailor.stitching.nested import cut_out
from tailor.stitching.picked import picked
from tailor.stitching.route import Continuation, route_plans
from tailor.stitching.routed import Routed
from tailor.strangers import AGAIN
from tailor.surgery import changed, load_changed_
from tailor.tasks.language import LanguageHead
from tailor.tuning.apply import cost


@plain_dataclass(frozen=True)
class Live:
    """A palette in memory. `model` runs the route that `set_route_(numbers[n])` sets, `plain` makes a model of route n,
    `spec` is what that model is in a bundle; n is the number in the whole palette.
    """

    model: Any
    numbers: Mapping[int, int]
    plain: Callable[[int], nn.Module]
    spec: Callable[[int], Spec]


def live(found: Read, routes: Sequence[int] | None = None, download: bool = False) -> Live:
    """The palette's model, or that of some of its routes alone: then only what they cross is read and made.

    With `download` what the anchors lack on this machine is fetched, else ModelError says what it is.
    """
    chosen = tuple(routes if routes is not None else range(len(found.manifest.routes)))
    return _LIVE[found.palette.kind](found, chosen, download)


def _stitched(found: Read, routes: tuple[int, ...], download: bool) -> Live:
    model, part = restore_palette(found, routes, download)
    numbers = {number: at for at, number in enumerate(routes)}
    continuations = [part.continuation(i) for i in range(len(part.anchors))]

    def spec(number: int) -> Spec:
        at = numbers[number]
        chosen = part.plan.routes[at]
        anchors = [continuations[leg.anchor] for leg in chosen.legs]
        anchor = part.anchors[chosen.front]
        return replace(anchor, plans=(*anchor.plans, *route_plans(model, at, anchors)))

    return Live(model, numbers, lambda number: picked(model, part.tune, numbers[number]), spec)


def _nested(found: Read, routes: tuple[int, ...], download: bool) -> Live:
    palette = found.palette
    assert isinstance(palette, NestedPalette)
    try:
        anchor = palette.anchors[0]
        model = build_nested(palette, _filler(found, (0,)), _numbers(found.manifest.tensors), download=download)
        load_changed_(model, read_tensors(found.path / TENSORS, found.manifest.tensors))
    except PlanError as error:
        raise BundleError(f"`{found.path}`: {error.message}", hint=error.hint) from None

    def spec(number: int) -> Spec:
        cut = palette.plan.routes[number].cut
        return replace(anchor, plans=anchor.plans if cut is None else (*anchor.plans, cut))

    numbers = {number: number for number in routes}
    return Live(model.eval(), numbers, lambda number: cut_out(model, palette.tune, number), spec)


def _language(found: Read, routes: tuple[int, ...], download: bool) -> Live:
    palette = found.palette
    assert isinstance(palette, LanguagePalette)
    model = build_language(palette)
    load_base_(model, found.base_path, found.base)
    adapt_(model, palette.tune, palette.biases)
    load_changed_(model, read_tensors(found.path / TENSORS, found.manifest.tensors))

    def spec(number: int) -> Spec:
        anchors = [anchor.backbone for anchor in palette.anchors]
        front = anchors[palette.plan.routes[number].front]
        plans = route_plans(model, number, [Continuation(one.name) for one in anchors])
        if plans:  # layers of this family have no bias by themselves
            plans = (*plans[:-1], replace(plans[-1], biased=_biased(picked(model, palette.tune, number))))
        return Spec(front, LanguageHead(), backbones.input_of(model.view(number), front.name), plans)

    numbers = {number: number for number in routes}
    return Live(model.eval(), numbers, lambda number: picked(model, palette.tune, number), spec)


def _biased(plain: nn.Module) -> tuple[str, ...]:
    """The layers in blocks that have a bias, stitching layers aside."""
    linear = ((path, m) for path, m in plain.named_modules() if isinstance(m, nn.Linear) and m.bias is not None)
    return tuple(path for path, _ in linear if not path.endswith(".stitch"))


_LIVE: dict[str, Callable[[Read, tuple[int, ...], bool], Live]] = {
    "palette": _stitched,
    "nested": _nested,
    "language": _language,
}
"""How a palette of each kind comes to life."""


def restore_palette(found: Read, routes: Sequence[int] | None = None, download: bool = False) -> tuple[Routed, Palette]:
    """The routed model of a stitched palette, or of these routes of it alone (in this order), and what it is then.

    Only tensors of what the routes cross are read, and only their anchors are made.
    """
    palette = found.palette
    assert isinstance(palette, Palette)
    part = excerpt(palette, tuple(routes if routes is not None else range(len(palette.plan.routes))))
    try:
        _bounded(found, palette)
        model = routed(part.palette, _filler(found, part.anchors), download=download)
        own = [f"layers.{n}.{name}" for n, layer in enumerate(model.layers) for name in layer.state_dict()]
        wanted = {part.whole(name): name for name in own}
        starts = read_part(found.base_path, found.base, list(wanted))
        load_part_(model.layers, {wanted[name]: tensor for name, tensor in starts.items()}, "layers.")
        asked, held = cost(model, replace(part.palette.tune, full=())), _numbers(found.manifest.tensors)
        if asked > held:
            raise PlanError(f"{held:,} stored numbers do not fit the plan, whose modules have {asked:,} parameters")
        adapt_(model, part.palette.tune, part.palette.biases, part.palette.anchors[0].head.seed)
        names = {part.whole(name): name for name in changed(model)}
        tensors = read_tensors(found.path / TENSORS, found.manifest.tensors, names)
        load_changed_(model, {names[name]: tensor for name, tensor in tensors.items()})
    except PlanError as error:
        raise BundleError(f"`{found.path}`: {error.message}", hint=error.hint) from None
    return model.eval(), part.palette


def _filler(found: Read, anchors: Sequence[int]) -> Fill:
    """Gives anchors their stored tensors; `anchors` are their numbers in the whole palette."""

    def fill(number: int, anchor: nn.Module) -> nn.Module:
        root = f"anchors.{anchors[number]}."
        own = [name for name in found.base.tensors if name.startswith(root)]
        return load_part_(anchor, read_part(found.base_path, found.base, own), root)

    return fill


def dearest(found: Read) -> int:
    """The route of a palette that stands for it: the dearest that is deployed."""
    records = found.manifest.routes
    return max(range(len(records)), key=lambda n: (records[n].deployed, records[n].macs))


def route_bundle(path: Path, route: str | None, download: bool = False) -> Bundle:
    """The route as the bundle that `pick` would write, in memory."""
    found = read_palette(path)
    number = dearest(found) if route is None else found.palette.plan.find(route)
    made = live(found, (number,), download)
    spec, tensors = made.spec(number), state(made.plain(number), complete=True)
    values, lists = pack(spec)
    record = found.manifest.routes[number]
    metrics = {"route": record.route, "macs": record.macs, "params": record.params}
    declared = declared_of({**tensors, **lists})
    manifest = Manifest(FORMAT, values, found.manifest.files, declared, True, metrics, found.manifest.provenance)
    return Bundle(path, manifest, spec, tensors)


def _bounded(found: Read, palette: Palette) -> None:
    """PlanError where the layers would have more numbers than the base holds."""
    asked = sum(layer.inputs * layer.outputs for layer in palette.plan.layers)
    if asked > _numbers(found.base.tensors):
        raise PlanError(f"the stitching layers have {asked:,} numbers, more than the base holds", AGAIN)


def _numbers(declared: Mapping[str, tuple[str, tuple[int, ...]]]) -> int:
    return sum(prod(shape) for _, shape in declared.values())
