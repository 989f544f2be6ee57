"""The module of a palette: anchors, stitching layers, and every route through them as a model of its own.

A route is run by a view, an ordinary model that shares all its modules with the anchors (`join`); so what a route
computes here and what it computes once it is picked is the same code. Switching costs a lookup.
"""

import importlib
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from tailor.anatomy import Anatomy
from tailor.errors import PlanError
from tailor.stitching.biases import Current, wrap_
from tailor.stitching.join import along, stitching_layer
from tailor.stitching.plan import RouteBiasPlan, StitchPlan
from tailor.surgery import get_module, split_range
from tailor.tuning.layers import matrix_shape

JOINS = {"llama": "tailor.stitching.language.join"}
"""Families whose models are joined in a way of their own: the module with their `along`."""


class Routed(nn.Module):
    """Anchors with their heads, and the routes of `plan` through them; it starts on the largest anchor.

    `biases` hold one vector a route: what it adds at each of its sites, one after the other (`biases.wrap_`).
    """

    def __init__(self, anchors: Sequence[nn.Module], anatomies: Sequence[Anatomy], plan: StitchPlan) -> None:
        super().__init__()
        self.anchors = nn.ModuleList(anchors)
        self.anatomies, self.plan = tuple(anatomies), plan
        self.layers = nn.ModuleList(stitching_layer(layer) for layer in plan.layers)
        self.biases = nn.ParameterDict()
        self.spans: dict[int, dict[str, int]] = {}
        self.current = Current()
        self.route = len(self.anchors) - 1
        self._views: dict[int, nn.Module] = {}

    def set_route_(self, route: int) -> "Routed":
        """From now on `forward` takes that route."""
        self.route = route
        return self

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """What the anchors take, (B, C, H, W) of images, to what the route that is set makes of it: (B, K)."""
        self.current.biases = self.biases_of(self.route)
        return self.view(self.route)(*inputs, **named)

    def biases_of(self, route: int) -> dict[str, Tensor]:
        """The route's own bias at each of its sites."""
        spans = self.spans.get(route)
        if spans is None:
            return {}
        return dict(zip(spans, self.biases[str(route)].split(list(spans.values())), strict=True))

    def view(self, route: int) -> nn.Module:
        """The route as an ordinary model that shares everything with this one. Its biases are added by `forward`."""
        if route not in self._views:
            legs = self.plan.routes[route].legs
            anchors = [self.anchors[leg.anchor] for leg in legs]
            blocks = [[self.block(leg.anchor, n) for n in range(leg.start, leg.stop)] for leg in legs]
            stitches = [self.layers[layer] for layer in self.plan.routes[route].layers]
            own = self.anatomies[legs[0].anchor].family
            join = along if own not in JOINS else importlib.import_module(JOINS[own]).along
            self._views[route] = anchors[0] if len(legs) == 1 else join(anchors, blocks, stitches)
        return self._views[route]

    def block(self, anchor: int, number: int) -> nn.Module:
        """A block of an anchor."""
        return self.anchors[anchor].get_submodule(self.anatomies[anchor].blocks[number].path)

    def forget_(self) -> "Routed":
        """Make the views anew when they are needed: for after modules were put in the place of others."""
        self._views.clear()
        return self

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Of every anchor, as timm's models call it; views are made anew."""
        for anchor in self.anchors:
            anchor.set_grad_checkpointing(enable)  # type: ignore[operator]
        self.forget_()

    def train(self, mode: bool = True) -> "Routed":
        """Set the mode of every module, those that only a view has included."""
        super().train(mode)
        for view in self._views.values():
            view.train(mode)
        return self


def give_biases_(model: Routed, plan: RouteBiasPlan) -> Routed:
    """Give every route that joins anchors a vector of zeros: its biases at the sites in blocks that it crosses."""
    model.spans = spans_of(model, plan)
    for number, spans in model.spans.items():
        like = next(p for p in model.layers.parameters())
        model.biases[str(number)] = nn.Parameter(like.new_zeros(sum(spans.values())))
    wrap_(model, plan.sites, model.current)
    return model.forget_()


def spans_of(model: Routed, plan: RouteBiasPlan) -> dict[int, dict[str, int]]:
    """For each route that joins anchors, the sites with a bias of its own and how many numbers that has there."""
    places = [(site, *place_of(model, site)) for site in plan.sites]
    found = {}
    for number, route in enumerate(model.plan.routes):
        spans = {site: size for site, anchor, block, size in places if route.crosses(anchor, block)}
        if len(route.legs) > 1 and spans:
            found[number] = spans
    return found


def sites_of_blocks(model: Routed) -> dict[tuple[int, int], dict[str, int]]:
    """For each anchor and block the sites in it where some route has a bias, and how many numbers that has."""
    found: dict[tuple[int, int], dict[str, int]] = {}
    for site in dict.fromkeys(site for spans in model.spans.values() for site in spans):
        anchor, block, size = place_of(model, site)
        found.setdefault((anchor, block), {})[site] = size
    return found


def place_of(model: Routed, site: str) -> tuple[int, int, int]:
    """The anchor and the block that a site lies in, and its outputs; PlanError where it lies in none."""
    path, rows = split_range(site)
    layer = get_module(model, path)
    for anchor, anatomy in enumerate(model.anatomies):
        for number, block in enumerate(anatomy.blocks):
            if path.startswith(f"anchors.{anchor}.{block.path}."):
                return anchor, number, rows[1] - rows[0] if rows else matrix_shape(layer)[0]
    raise PlanError(f"`{site}` lies in no block of an anchor", hint="make the palette again")
