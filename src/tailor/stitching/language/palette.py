"""A palette of causal language models in memory: anchors joined, joints started, what trains wrapped."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tailor import backbones
from tailor.errors import PlanError
from tailor.ridge import Fit
from tailor.stitching.adapt import Adapt, adapt_, bias_plan, tune_plan
from tailor.stitching.language.instructions import Batch
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


def started_(model: Routed, batches: Iterable[Batch]) -> dict[int, Fit]:
    """Start the stitching layers on the tokens that are there, by one least-squares problem each."""
    device = next(model.parameters()).device

    def run(anchor: nn.Module, batch: Batch) -> None:
        tokens = batch.images.to(device)
        anchor(input_ids=tokens.ids, attention_mask=tokens.mask)

    def there(batch: Batch) -> Tensor:
        return batch.images.mask.to(device).bool()

    return start_(model, sums_of(model, batches, run, there))


def adapted_(model: Routed, settings: Adapt | None = None, seed: int = 0) -> tuple[TunePlan, RouteBiasPlan]:
    """Wrap what trains: rank 16 on q, k, v and o of every anchor, a quarter of the front's width on the joints, and the
    routes' biases there, which these layers have not by themselves."""
    settings = settings or Adapt(ranks=(RANK,) * len(model.anchors))
    tune, biases = tune_plan(model, settings), bias_plan(model, settings)
    adapt_(model, tune, biases, seed)
    return tune, biases


def logits(model: nn.Module, tokens: Any) -> Tensor:
    """(B, N, V) of a routed model, or of any language model."""
    found: Tensor = model(input_ids=tokens.ids, attention_mask=tokens.mask).logits
    return found


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


@torch.no_grad()
def answers(model: Any, tokeniser: Any, prompts: Sequence[str], new: int = 32, **how: Any) -> list[str]:
    """What a language model says to each prompt, greedily unless told otherwise, in one batch padded on the left."""
    pad = tokeniser.pad_token_id if tokeniser.pad_token_id is not None else tokeniser.eos_token_id
    rows = [tokeniser(prompt)["input_ids"] for prompt in prompts]
    longest = max(len(row) for row in rows)
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    device = next(model.parameters()).device
    how = {
        "do_sample": False,
        "max_new_tokens": new,
        "pad_token_id": pad,
        "eos_token_id": tokeniser.eos_token_id,
        **how,
    }
    found = model.generate(ids.to(device), attention_mask=mask.to(device), **how)
    return [tokeniser.decode(row[longest:], skip_special_tokens=True).strip() for row in found]


def exact_match(said: Sequence[str], expected: Sequence[str]) -> float:
    """The share of answers that are the expected one, spaces at the ends aside."""
    return sum(a.strip() == b.strip() for a, b in zip(said, expected, strict=True)) / max(len(expected), 1)


def _checked(plan: StitchPlan) -> StitchPlan:
    if not plan.layers:
        raise PlanError("the anchors have too few layers to be joined", hint="take models of two layers or more")
    return plan
