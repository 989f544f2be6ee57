"""From predictions to what is shown and counted: class scores of every pixel, and single objects.

Scores are resized to the size asked for before anything is decided. A score of masks is no probability: the sum over
queries of class times mask. Large images are combined in bands of rows, which changes nothing and needs less memory.
"""

from collections.abc import Sequence
from functools import singledispatch
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tailor.dense.predictions import MaskPredictions, PixelPredictions, ScorePredictions
from tailor.dense.pyramid import FINEST

BAND = 1 << 24
"""Mask values that are held at once."""


@singledispatch
def scores(found: object, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) at `size` (of the image as the model saw it, padding included); the best class is the argmax."""
    raise AssertionError(f"no scores of {type(found).__name__}")


@scores.register
def _pixels(found: PixelPredictions, size: tuple[int, int]) -> Tensor:
    return F.interpolate(found.logits, size=size, mode="bilinear", align_corners=False).softmax(1)


@scores.register
def _masks(found: MaskPredictions, size: tuple[int, int]) -> Tensor:
    chance = found.classes[-1].softmax(-1)[..., :-1]
    masks = found.masks()
    if masks.shape[1] * size[0] * size[1] <= BAND:
        whole = F.interpolate(masks, size=size, mode="bilinear", align_corners=False)
        return torch.einsum("bnc,bnhw->bchw", chance, whole.sigmoid())
    wide = F.interpolate(masks, size=(masks.shape[-2], size[1]), mode="bilinear", align_corners=False)
    place = ((torch.arange(size[0], device=wide.device) + 0.5) * (wide.shape[-2] / size[0]) - 0.5).clamp(min=0)
    above = place.long()
    share, below = (place - above)[:, None], (above + 1).clamp(max=wide.shape[-2] - 1)
    bands = []
    for rows in torch.arange(size[0], device=wide.device).split(max(1, BAND // max(1, wide[:, :, 0].numel()))):
        band = wide[:, :, above[rows]] * (1 - share[rows]) + wide[:, :, below[rows]] * share[rows]
        bands.append(torch.einsum("bnc,bnhw->bchw", chance, band.sigmoid()))
    return torch.cat(bands, 2)


@scores.register
def _values(found: ScorePredictions, size: tuple[int, int]) -> Tensor:
    if tuple(found.values.shape[-2:]) == size:
        return found.values
    return F.interpolate(found.values, size=size, mode="bilinear", align_corners=False)


@singledispatch
def single(found: object) -> list[Any]:
    """The predictions of each image alone; of depths the last."""
    raise AssertionError(f"no images of {type(found).__name__}")


@single.register
def _single_pixels(found: PixelPredictions) -> list[PixelPredictions]:
    return [PixelPredictions(logits) for logits in found.logits.split(1)]


@single.register
def _single_masks(found: MaskPredictions) -> list[MaskPredictions]:
    parts = zip(found.classes[-1:].split(1, 1), found.queries[-1:].split(1, 1), found.pixels.split(1))
    return [MaskPredictions(*part) for part in parts]


@single.register
def _single_scores(found: ScorePredictions) -> list[ScorePredictions]:
    return [ScorePredictions(values) for values in found.values.split(1)]


@singledispatch
def seen_size(found: object) -> tuple[int, int]:
    """(H, W) at which the scores of predictions are made: that of the model's input, or of a coarser map of logits."""
    raise AssertionError(f"no size of {type(found).__name__}")


@seen_size.register
def _size_of_pixels(found: PixelPredictions) -> tuple[int, int]:
    return (found.logits.shape[-2], found.logits.shape[-1])


@seen_size.register
def _size_of_masks(found: MaskPredictions) -> tuple[int, int]:
    return (FINEST * found.pixels.shape[-2], FINEST * found.pixels.shape[-1])


@seen_size.register
def _size_of_scores(found: ScorePredictions) -> tuple[int, int]:
    return (found.values.shape[-2], found.values.shape[-1])


def label_maps(found: object, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """The best class of every pixel of each image (H, W) int64, its scores resized to its size before the choice."""
    return [best(scores(one, seen_size(one)), size) for one, size in zip(single(found), sizes, strict=True)]


def best(values: Tensor, size: tuple[int, int]) -> Tensor:
    """(H, W): the class of the highest of scores (1, C, h, w) at `size`. Some classes at a time, for large images."""
    at_once = max(1, BAND // (size[0] * size[1]))
    top: Tensor | None = None
    chosen = values.new_zeros(size, dtype=torch.int64)
    for start in range(0, values.shape[1], at_once):
        part = values[:, start : start + at_once]
        if tuple(part.shape[-2:]) != size:
            part = F.interpolate(part, size=size, mode="bilinear", align_corners=False)
        highest, which = part[0].max(0)
        if top is None:
            top, chosen = highest, which
        else:
            better = highest > top
            top, chosen = torch.where(better, highest, top), torch.where(better, which + start, chosen)
    return chosen


class Instances(NamedTuple):
    """The objects of one image, best first: `scores` and `labels` (K,), `masks` (K, H, W) bool."""

    scores: Tensor
    labels: Tensor
    masks: Tensor


def instances(found: MaskPredictions, size: tuple[int, int], most: int = 100) -> Instances:
    """The `most` best pairs of query and class of the first image, as Mask2Former ranks them, its masks at `size`.

    Score: chance of the class times the mean chance of the mask's own pixels. Mask: logits above zero. A query without
    a pixel is no object.
    """
    chance = found.classes[-1, 0].softmax(-1)[..., :-1]
    classes = chance.shape[1]
    best, place = chance.flatten().topk(min(most, chance.numel()))
    query, label = place.div(classes, rounding_mode="floor"), place % classes
    maps = F.interpolate(found.masks()[:1], size=size, mode="bilinear", align_corners=False)[0]
    inside = maps > 0
    sure = (maps.sigmoid() * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)
    score = best * sure[query]
    order = score.argsort(descending=True, stable=True)
    order = order[inside.flatten(1).any(1)[query[order]]]
    return Instances(score[order], label[order], inside[query[order]])
