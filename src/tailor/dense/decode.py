"""From predictions to what is shown and counted: class scores of every pixel, and single objects.

Scores are resized to the size asked for before anything is decided. A score of masks is no probability: the sum over
queries of class times mask. Large images are combined in bands of rows, which changes nothing and needs less memory.
"""

from functools import singledispatch
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tailor.dense.predictions import MaskPredictions, PixelPredictions

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
    masks = F.interpolate(found.masks(), size=size, mode="bilinear", align_corners=False)
    rows = max(1, BAND // max(1, masks[:, :, 0].numel()))
    bands = [torch.einsum("bnc,bnhw->bchw", chance, band.sigmoid()) for band in masks.split(rows, 2)]
    return bands[0] if len(bands) == 1 else torch.cat(bands, 2)


def resized(values: Tensor, seen: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Scores (B, C, H, W) without the padding (right and below) of an image that was `seen` at that size, at `size`."""
    inside = values[..., : seen[0], : seen[1]]
    if (inside.shape[-2], inside.shape[-1]) == size:
        return inside
    return F.interpolate(inside, size=size, mode="bilinear", align_corners=False)


class Instances(NamedTuple):
    """The objects of one image, best first: `scores` and `labels` (K,), `masks` (K, H, W) bool."""

    scores: Tensor
    labels: Tensor
    masks: Tensor


def instances(
    found: MaskPredictions, seen: tuple[int, int], size: tuple[int, int], padded: tuple[int, int], most: int = 100
) -> list[Instances]:
    """The `most` best pairs of query and class of each image, as Mask2Former ranks them.

    Score: chance of the class times the mean chance of the mask's own pixels. Mask: logits above zero, resized from the
    `padded` input, cropped to what was `seen`, to `size`. A query without a pixel is no object.
    """
    chance = found.classes[-1].softmax(-1)[..., :-1]
    masks = F.interpolate(found.masks(), size=padded, mode="bilinear", align_corners=False)
    results = []
    for ranked, logits in zip(chance, masks):
        classes = ranked.shape[1]
        best, place = ranked.flatten().topk(min(most, ranked.numel()))
        query, label = place.div(classes, rounding_mode="floor"), place % classes
        maps = resized(logits[None], seen, size)[0]
        inside = maps > 0
        sure = (maps.sigmoid() * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)
        score = best * sure[query]
        order = score.argsort(descending=True, stable=True)
        order = order[inside.flatten(1).any(1)[query[order]]]
        results.append(Instances(score[order], label[order], inside[query[order]]))
    return results
