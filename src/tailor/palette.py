"""A palette as data, several specs and the plan that joins them, and from it to its module.

The anchors' specs have one head and one preprocessing; their plans take things away, what was tuned in them is merged.
Paths in the palette's own plans are those of the routed model: `anchors.0.blocks.3.attn.qkv`, `layers.5`.
"""

from collections.abc import Callable
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from itertools import chain
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter
from pydantic.dataclasses import dataclass
from torch import nn

from tailor import backbones
from tailor.backbones import causal
from tailor.build import build
from tailor.errors import BundleError, PlanError
from tailor.settings import STRICT
from tailor.spec import BackboneRef, Spec
from tailor.stitching.nested import Nested, NestedPlan
from tailor.stitching.plan import RouteBiasPlan, StitchPlan
from tailor.stitching.route import Continuation
from tailor.stitching.routed import Routed
from tailor.surgery import split_range
from tailor.tuning.apply import apply_, cost
from tailor.tuning.plan import TunePlan


@dataclass(frozen=True, config=STRICT)
class Palette:
    """The anchors in order of cost, the routes through them, and what trains.

    `stored` says of each anchor whether its tensors lie in the palette's base, because no name gives them.
    """

    anchors: tuple[Spec, ...]
    stored: tuple[bool, ...]
    plan: StitchPlan
    tune: TunePlan
    biases: RouteBiasPlan
    kind: Literal["palette"] = "palette"

    def __post_init__(self) -> None:
        if not self.anchors or len(self.stored) != len(self.anchors):
            raise PlanError("a palette has no anchors, or does not say of each where it is", hint="make it again")
        first = self.anchors[0]
        for anchor in self.anchors[1:]:
            if anchor.head != first.head or anchor.preprocessing != first.preprocessing:
                raise PlanError(
                    f"the anchors `{first.backbone.name}` and `{anchor.backbone.name}` have other classes or images",
                    hint="take anchors of one family, and give `--image-size`",
                )
        numbers = [leg.anchor for route in self.plan.routes for leg in route.legs]
        if max(numbers) >= len(self.anchors):
            raise PlanError(f"a route goes through anchor {max(numbers)} of {len(self.anchors)}", hint="make it again")

    def continuation(self, anchor: int) -> Continuation:
        """An anchor as a picked route's plan names it."""
        spec = self.anchors[anchor]
        return Continuation(spec.backbone.name, spec.backbone.image_size, spec.plans)  # type: ignore[arg-type]


@dataclass(frozen=True, config=STRICT)
class NestedPalette:
    """One anchor, the sizes that it is cut to, and what trains in it; paths in `tune` are the anchor's own."""

    anchors: tuple[Spec, ...]
    stored: tuple[bool, ...]
    plan: NestedPlan
    tune: TunePlan
    kind: Literal["nested"] = "nested"

    def __post_init__(self) -> None:
        if len(self.anchors) != 1 or len(self.stored) != 1:
            raise PlanError(f"a nested palette has one anchor, found {len(self.anchors)}", hint="make it again")


@dataclass(frozen=True, config=STRICT)
class LanguageAnchor:
    """A causal language model by its name, with the digest its weights had."""

    backbone: BackboneRef


@dataclass(frozen=True, config=STRICT)
class LanguagePalette:
    """Causal language models in order of size, the routes through them, and what trains; they keep their heads."""

    anchors: tuple[LanguageAnchor, ...]
    plan: StitchPlan
    tune: TunePlan
    biases: RouteBiasPlan
    kind: Literal["language"] = "language"


AnyPalette = Annotated[Palette | NestedPalette | LanguagePalette, Field(discriminator="kind")]
PALETTE: TypeAdapter[Palette | NestedPalette | LanguagePalette] = TypeAdapter(AnyPalette)
"""Reads and writes a palette of any kind as JSON, strictly."""

Fill = Callable[[int, nn.Module], nn.Module]
"""Gives the anchor of that number its tensors, where they are stored."""


def routed(palette: Palette, fill: Fill, check: bool = True, download: bool = False) -> Routed:
    """The anchors joined, in eval mode, nothing wrapped yet; with `download` what they lack on this machine is fetched.

    BundleError where an anchor's weights are not those that its spec records; PlanError where the plans do not fit.
    """
    anchors = [_anchor(palette, number, fill, check, download) for number in range(len(palette.anchors))]
    return Routed(anchors, [backbones.describe(anchor) for anchor in anchors], palette.plan).eval()


def build_nested(palette: NestedPalette, fill: Fill, most: int, check: bool = True, download: bool = False) -> Nested:
    """The nested model, in eval mode, what trains at its start; errors as in `routed`.

    PlanError also before modules of more than `most` parameters are made.
    """
    spec = palette.anchors[0]
    anchor = _anchor(palette, 0, fill, check, download)
    asked = cost(anchor, replace(palette.tune, full=(), entries=()))
    if asked > most:
        raise PlanError(f"{most:,} stored numbers do not fit the plan, whose modules have {asked:,} parameters")
    apply_(anchor, palette.tune, backbones.describe(anchor).heads, spec.head.seed)
    return Nested(anchor, palette.plan).eval()


def _anchor(
    palette: Palette | NestedPalette, number: int, fill: Fill, check: bool, download: bool = False
) -> nn.Module:
    """An anchor with its tensors: from where its name says, on this machine unless `download`, or those stored."""
    spec, stored = palette.anchors[number], palette.stored[number]
    name, weights = spec.backbone.name, "random" if stored else spec.backbone.weights
    if not download:
        name, weights = backbones.local(name, weights)
    here = replace(spec, backbone=replace(spec.backbone, name=name, weights=weights))
    return fill(number, build(here, check=False)) if stored else build(here, check)


def build_language(palette: LanguagePalette) -> Routed:
    """The routed language model, nothing wrapped; BundleError where an anchor's weights are others than recorded."""
    anchors = []
    for anchor in palette.anchors:
        model = causal.create(anchor.backbone.name)
        digest = backbones.digest(model)
        if anchor.backbone.digest and digest != anchor.backbone.digest:
            raise BundleError(
                f"the weights of `{anchor.backbone.name}` are not those the palette was trained on: {digest[:19]}...",
                hint="get the same file again",
            )
        anchors.append(model)
    return Routed(anchors, [backbones.describe(anchor) for anchor in anchors], palette.plan).eval()


@plain_dataclass(frozen=True)
class Excerpt:
    """The palette of some routes only: the least that builds them.

    `anchors` and `layers` give the number in the whole palette of each that is left, `routes` that of each route.
    """

    palette: Palette
    anchors: tuple[int, ...]
    layers: tuple[int, ...]
    routes: tuple[int, ...]

    def whole(self, name: str) -> str:
        """What a tensor of the excerpt's module is called in the whole palette."""
        root, number, *rest = name.split(".", 2)
        numbers = {"anchors": self.anchors, "layers": self.layers, "biases": self.routes}[root]
        return ".".join([root, str(numbers[int(number)]), *rest])


def excerpt(palette: Palette, routes: tuple[int, ...]) -> Excerpt:
    """What of the palette these routes need."""
    chosen = [palette.plan.routes[route] for route in routes]
    anchors = tuple(sorted({leg.anchor for route in chosen for leg in route.legs}))
    layers = tuple(sorted(set(chain.from_iterable(route.layers for route in chosen))))
    plan = StitchPlan(
        tuple(
            replace(layer, front=anchors.index(layer.front), tail=anchors.index(layer.tail))
            for layer in (palette.plan.layers[number] for number in layers)
        ),
        tuple(
            replace(
                route,
                legs=tuple(replace(leg, anchor=anchors.index(leg.anchor)) for leg in route.legs),
                layers=tuple(layers.index(number) for number in route.layers),
            )
            for route in chosen
        ),
    )
    numbers = {"anchors": anchors, "layers": layers}

    def renamed(name: str) -> str | None:
        """A path in the routed model as the excerpt has it; None where it is left out."""
        root, number = split_range(name)[0].split(".", 2)[:2]
        if int(number) not in numbers[root]:
            return None
        return name.replace(f"{root}.{number}", f"{root}.{numbers[root].index(int(number))}", 1)

    tunes = ((tune, renamed(tune.site)) for tune in palette.tune.tunes)
    tune_plan = replace(
        palette.tune,
        full=tuple(name for name in map(renamed, palette.tune.full) if name is not None),
        tunes=tuple(replace(tune, site=site) for tune, site in tunes if site is not None),
    )
    sites = tuple(name for name in map(renamed, palette.biases.sites) if name is not None)
    left = Palette(
        tuple(palette.anchors[number] for number in anchors),
        tuple(palette.stored[number] for number in anchors),
        plan,
        tune_plan,
        replace(palette.biases, sites=sites),
    )
    return Excerpt(left, anchors, layers, routes)
