"""A palette of causal language models in memory: anchors joined, joints started, what trains wrapped."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from tailor import backbones
from tailor.backbones.prompts import IGNORED
from tailor.errors import PlanError
from tailor.ridge import Fit
from tailor.stitching.adapt import Adapt, adapt_, bias_plan, tune_plan
from tailor.stitching.language.join import check
from tailor.stitching.plan import RouteBiasPlan, StitchPlan
from tailor.stitching.routed import Routed
from tailor.stitching.space import Shape, Space, stitch_plan
from tailor.stitching.start import start_, sums_of
from tailor.tuning.plan import TunePlan

RANK = 16
"""LoRA's rank in every anchor."""
SPACE = Space(window=1)
"""Kernel and stride 1: of unequal depths each layer of the tail behind the nearest of the front."""


def joined(anchors: Sequence[Any], space: Space = SPACE) -> Routed:
    """The anchors, the cheapest first, and all routes between neighbours; PlanError where they read other tokens."""
    if len(anchors) < 2:
        raise PlanError("a palette needs two anchors or more", hint="name two sizes of one family")
    check([anchor.config for anchor in anchors])
    anatomies = [backbones.describe(anchor) for anchor in anchors]
    shapes = [
        Shape((0,) * len(a.blocks), tuple(block.width for block in a.blocks), ((1,),) * len(a.blocks))
        for a in anatomies
    ]
    return Routed(anchors, anatomies, _checked(stitch_plan(shapes, space))).eval()


def started_(model: Routed, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[int, Fit]:
    """Start the stitching layers on tokens (B, N) and their labels, by one least-squares problem each.

    What stands behind the last label of a row fills it up, and is left out.
    """
    device = next(model.parameters()).device

    def run(anchor: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
        anchor(input_ids=batch[0].to(device), use_cache=False)

    def there(batch: tuple[Tensor, Tensor]) -> Tensor:
        labelled = (batch[1].to(device) != IGNORED).flip(1).cumsum(1).flip(1)
        return labelled > 0

    return start_(model, sums_of(model, batches, run, there))


def adapted_(model: Routed, settings: Adapt | None = None, seed: int = 0) -> tuple[TunePlan, RouteBiasPlan]:
    """Wrap what trains: rank 16 on q, k, v and o of every anchor, a quarter of the front's width on the joints, and the
    routes' biases there, which these layers have not by themselves."""
    settings = settings or Adapt(ranks=(RANK,) * len(model.anchors))
    tune, biases = tune_plan(model, settings), bias_plan(model, settings)
    adapt_(model, tune, biases, seed)
    return tune, biases


def parameters(model: Routed) -> tuple[int, ...]:
    """The parameters of every route, a tied weight once."""
    return tuple(sum(p.numel() for p in model.view(n).parameters()) for n in range(len(model.plan.routes)))


def products(model: Routed) -> tuple[int, ...]:
    """The parameters of every route that a token is multiplied with: all but an embedding that is not the head as well.

    Its intervals go by these. By all parameters, as in the paper, a route through anchors whose head is their embedding
    would be dearer than any anchor, since it holds the two apart.
    """
    found = []
    for number, size in enumerate(parameters(model)):
        view: Any = model.view(number)
        embedding = view.model.embed_tokens.weight
        found.append(size if view.lm_head.weight is embedding else size - embedding.numel())
    return tuple(found)


def _checked(plan: StitchPlan) -> StitchPlan:
    if not plan.layers:
        raise PlanError("the anchors have too few layers to be joined", hint="take models of two layers or more")
    return plan
