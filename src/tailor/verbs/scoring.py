"""Scores for the verb `prune`: of a model's units, and of its blocks, by one criterion on one draw of images."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tailor.data.images import ImageData
from tailor.data.loading import Batch
from tailor.data.records import Split
from tailor.events import Event, Report
from tailor.preprocessing import Preprocessing
from tailor.pruning.blocks import block_scores, keep_blocks, resizing
from tailor.pruning.elements import DATA, Pairs, element_scores
from tailor.pruning.layers import LayerPlan
from tailor.pruning.salience import salience_scores
from tailor.pruning.settings import Widths
from tailor.pruning.width import random_scores, unit_scores
from tailor.tracing import Groups, WidthPlan
from tailor.tuning.beside import names_of
from tailor.verbs.beside import Adapters
from tailor.verbs.dense import Dense
from tailor.verbs.images import in_order
from tailor.verbs.shorten import drawn


@dataclass(frozen=True)
class Scoring:
    """The criterion, and what it is asked on: `samples` of the training images."""

    criterion: str
    images: ImageData | None
    samples: int
    seed: int
    report: Report

    def pairs(self, dense: Dense) -> Pairs | None:
        """Labelled images as the model wants them, where the criterion needs any and there are any."""
        if self.images is None or self.criterion not in DATA:
            return None
        (part,) = drawn([self.images.splits["train"]], self.samples, self.seed)
        return Pairs(lambda: self._watched(part, dense.spec.preprocessing))

    def _watched(self, part: Split, preprocessing: Preprocessing) -> Iterator[Batch]:
        """The batches of a part, each reported once it was used."""
        text, done = f"{self.criterion} on {len(part)} images", 0
        self.report(Event("scoring", done, len(part), text))
        for batch in in_order(part, preprocessing):
            yield batch
            done += len(batch.targets)
            self.report(Event("scoring", done, len(part), text))


@dataclass(frozen=True)
class Scores:
    """Of units by group, and of single weights by parameter (none where units are drawn)."""

    units: Mapping[str, Tensor]
    elements: Mapping[str, Tensor]


def score_units(dense: Dense, groups: Groups, scoring: Scoring, settings: Widths, adapters: Adapters) -> Scores:
    """Scores of all units; where blocks are to be ranked too, of all their weights."""
    if scoring.criterion == "random":
        return Scores(random_scores(groups, scoring.seed), {})
    names = [member.tensor for group in groups.groups for member in group.members]
    if adapters == "keep":
        names = [name for name in names if names_of(dense.spec.tuning).place(name).stock is not None]
    if settings.blocks:
        inside = tuple(f"{block.path}." for block in dense.anatomy.blocks)
        names += [name for name, _ in dense.model.named_parameters() if name.startswith(inside)]
    pairs = scoring.pairs(dense)
    salient = scoring.criterion == "salience"
    elements = element_scores(dense.model, dict.fromkeys(names), "l1" if salient else scoring.criterion, pairs)
    if salient:
        assert pairs is not None  # checked before anything was opened
        return Scores(salience_scores(dense.model, groups, pairs, settings.normaliser, settings.everything), elements)
    return Scores(unit_scores(groups, elements, settings.normaliser, settings.everything), elements)


def choose_blocks(
    dense: Dense, cut: WidthPlan, elements: Mapping[str, Tensor], keep: Mapping[str, int], example: Tensor, seed: int
) -> LayerPlan:
    """The blocks that stay after the cut, so many of each list in `keep`; drawn where weights have no scores."""
    blocks = [block.path for block in dense.anatomy.blocks]
    if elements:
        scores = block_scores(dense.model, elements, cut, blocks)
    else:
        drawn_ = torch.rand(len(blocks), generator=torch.Generator().manual_seed(seed)).tolist()
        scores = dict(zip(blocks, drawn_, strict=True))
    return keep_blocks(blocks, scores, keep, resizing(dense.model, blocks, example))
