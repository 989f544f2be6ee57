"""A picked route as a plan of an ordinary spec: its backbone, as it is, goes on in another behind one of its blocks.

The plan holds what the architecture follows from. The values are the bundle's, which holds every tensor: a route is
merged, so nothing in it is any backbone's.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import nn

from tailor import backbones
from tailor.errors import PlanError
from tailor.pruning.layers import LayerPlan, apply_layers_
from tailor.settings import STRICT
from tailor.stitching.join import joined, stitching_layer
from tailor.stitching.plan import Layer
from tailor.stitching.routed import Routed
from tailor.surgery import get_module
from tailor.tracing import WidthPlan, cut_

ShapePlan = Annotated[LayerPlan | WidthPlan, Field(discriminator="kind")]
_SHAPES: dict[str, Callable[..., nn.Module]] = {"layers": apply_layers_, "width": cut_}


@dataclass(frozen=True, config=STRICT)
class Continuation:
    """The backbone that a route goes on in: its name, the size of its images, and what was taken away from it."""

    name: str
    image_size: int | None = None
    plans: tuple[ShapePlan, ...] = ()


@dataclass(frozen=True, config=STRICT)
class RoutePlan:
    """The model leaves its backbone behind the block at path `leave`, passes `layer`, and goes on in `tail` at `enter`.

    `biased` are layers that get a bias, which they have not by themselves. `route` is its name in the palette.
    """

    tail: Continuation
    leave: str
    enter: str
    layer: Layer
    route: str = ""
    biased: tuple[str, ...] = ()
    kind: Literal["route"] = "route"


def route_plans(model: Routed, route: int, anchors: Sequence[Continuation]) -> tuple[RoutePlan, ...]:
    """One plan a joint: what makes the route, before anything was merged, out of the anchor it begins in."""
    chosen = model.plan.routes[route]
    view = model.view(route)
    paths = {id(module): path for path, module in view.named_modules()}
    along = [block.path for block in backbones.describe(view).blocks]
    made, done = [], 0
    for number, layer in enumerate(chosen.layers):
        before, behind = chosen.legs[number], chosen.legs[number + 1]
        done += before.stop - before.start
        last = id(model.block(before.anchor, before.stop - 1))
        made.append(
            RoutePlan(
                anchors[behind.anchor],
                paths.get(last) or along[done - 1],  # layers that are numbered are other modules along a route
                model.anatomies[behind.anchor].blocks[behind.start].path,
                model.plan.layers[layer],
                chosen.name,
            )
        )
    return tuple(made)


def go_on_(model: nn.Module, plan: RoutePlan, most: int | None = None) -> nn.Module:
    """Make the model the joined one, on fresh values, with as many classes as it has.

    PlanError where the two do not fit, or before a stitching layer of more than `most` parameters is made.
    """
    size = (plan.layer.inputs + 1) * plan.layer.outputs
    if most is not None and size > most:
        raise PlanError(f"{most:,} stored numbers do not fit the plan, whose joint has {size:,} parameters")
    tail = backbones.create(plan.tail.name, "random", plan.tail.image_size)
    own = hasattr(model, "generate")  # a language model keeps its head
    if not own:
        backbones.attach_head_(tail, int(getattr(model, "num_classes", 0)))
    for shape in plan.tail.plans:
        backbones.follow_(_SHAPES[shape.kind](tail, shape))
    view = (_spoken if own else _seen)(model, tail, plan)
    model.__dict__.update({name: value for name, value in vars(view).items() if name != "training"})
    for path in plan.biased:
        layer = get_module(model, path)
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            raise PlanError(f"`{path}` takes no bias", hint="pick the route again")
        layer.bias = nn.Parameter(torch.zeros(len(layer.weight), dtype=layer.weight.dtype))
    return model.eval()


def _seen(model: nn.Module, tail: nn.Module, plan: RoutePlan) -> nn.Module:
    leave, enter = get_module(model, plan.leave), get_module(tail, plan.enter)
    return joined(model, leave, stitching_layer(plan.layer), tail, enter)


def _spoken(model: nn.Module, tail: nn.Module, plan: RoutePlan) -> nn.Module:
    """Of language models, whose layers are told positions and have a slot of the cache each."""
    from tailor.stitching.language.join import along

    legs = [list(one.model.layers) for one in (model, tail)]  # type: ignore[union-attr, arg-type]
    at = (get_module(model, plan.leave), get_module(tail, plan.enter))
    before, behind = (next(i for i, layer in enumerate(leg) if layer is one) for leg, one in zip(legs, at, strict=True))
    return along((model, tail), (legs[0][: before + 1], legs[1][behind:]), (stitching_layer(plan.layer),))
