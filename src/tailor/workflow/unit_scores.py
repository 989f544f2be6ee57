"""Scores for the width planner: of a model's units, and of its blocks, by one criterion on one draw of images."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tailor.build import Opened
from tailor.inputs import Example
from tailor.pruning.blocks import block_scores, keep_blocks, resizing
from tailor.pruning.elements import DATA, Pairs, element_scores
from tailor.pruning.layers import LayerPlan
from tailor.pruning.salience import salience_scores
from tailor.pruning.settings import Widths
from tailor.pruning.width import random_scores, unit_scores
from tailor.tracing import Groups, WidthPlan
from tailor.tuning.beside import names_of
from tailor.workflow.context import Context


@dataclass(frozen=True)
class UnitScores:
    """Of units by group, and of single weights by parameter (none where units are drawn)."""

    units: Mapping[str, Tensor]
    elements: Mapping[str, Tensor]


def score_units(
    context: Context, groups: Groups, criterion: str, samples: int, settings: Widths, adapters: str
) -> UnitScores:
    """Scores of all units; where blocks are to be ranked too, of all their weights."""
    opened = context.opened
    if criterion == "random":
        return UnitScores(random_scores(groups, context.recipe.seed), {})
    names = [member.tensor for group in groups.groups for member in group.members]
    if adapters == "keep":
        names = [name for name in names if names_of(opened.spec.tuning).place(name).stock is not None]
    if settings.blocks:
        inside = tuple(f"{block.path}." for block in opened.anatomy.blocks)
        names += [name for name, _ in opened.model.named_parameters() if name.startswith(inside)]
    pairs = _pairs(context, criterion, samples)
    salient = criterion == "salience"
    first = "l1" if salient else criterion
    elements = element_scores(opened.model, dict.fromkeys(names), first, pairs, context.task.loss)
    if salient:
        assert pairs is not None  # checked before anything was opened
        units = salience_scores(
            opened.model, groups, pairs, settings.normaliser, settings.everything, context.task.loss
        )
        return UnitScores(units, elements)
    return UnitScores(unit_scores(groups, elements, settings.normaliser, settings.everything), elements)


def _pairs(context: Context, criterion: str, samples: int) -> Pairs | None:
    """Labelled images as the model wants them, where the criterion needs any and there are any."""
    if context.images is None or criterion not in DATA:
        return None
    (part,) = context.sample(samples, "train")
    return Pairs(lambda: context.batches(part, "scoring", f"{criterion} on {len(part)} images"))


def choose_blocks(
    opened: Opened, cut: WidthPlan, elements: Mapping[str, Tensor], keep: Mapping[str, int], example: Example, seed: int
) -> LayerPlan:
    """The blocks that stay after the cut, so many of each list in `keep`; drawn where weights have no scores."""
    blocks = [block.path for block in opened.anatomy.blocks]
    if elements:
        scores = block_scores(opened.model, elements, cut, blocks)
    else:
        drawn = torch.rand(len(blocks), generator=torch.Generator().manual_seed(seed)).tolist()
        scores = dict(zip(blocks, drawn, strict=True))
    return keep_blocks(blocks, scores, keep, resizing(opened.model, blocks, example))
