"""One route as a model of its own: merged, plain, of the first anchor's class."""

import copy
from dataclasses import replace

from torch import nn

from tailor.stitching.biases import RouteBias
from tailor.stitching.routed import Routed
from tailor.surgery import freeze_, get_module, set_module_
from tailor.tuning.apply import merge_
from tailor.tuning.plan import TunePlan


def picked(model: Routed, plan: TunePlan, route: int) -> nn.Module:
    """A copy of the route with its biases and the tunes of `plan` (the routed model's) folded in, in eval mode."""
    view = model.view(route)
    paths = {id(module): path for path, module in view.named_modules()}
    tunes = []
    for tune in plan.tunes:
        here = paths.get(id(get_module(model, tune.path)))
        if here is not None:
            tunes.append(replace(tune, site=here + tune.site.removeprefix(tune.path)))
    biases = model.biases_of(route)
    plain = copy.deepcopy(view)
    for path, module in list(plain.named_modules()):
        if isinstance(module, RouteBias):
            set_module_(plain, path, module.fold(biases.get(module.site)))
    merge_(plain, TunePlan(plan.method, tunes=tuple(tunes)))
    return freeze_(plain).eval()
