"""How good label maps are: counts over a whole set, so that a class is averaged once, not once an image.

The mean of IoU leaves out classes that the truth never shows (detectron2's convention); `miou_all` counts those that
are predicted all the same as 0 (mmsegmentation's). Pixels with no known label count nowhere.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from tailor.dense.predictions import IGNORE

TOLERANCE = 0.0075
"""Of an image's diagonal: how far apart two borders may be and count as one."""


class PixelConfusion(Metric):
    """Pixels by class of the truth and class predicted (C, C) int64, and each image's own mean IoU in order."""

    full_state_update = False
    pixels: Tensor
    images: list[Tensor]

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.add_state("pixels", torch.zeros(classes, classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("images", [], dist_reduce_fx="cat")

    def update(self, guess: Tensor, truth: Tensor) -> None:
        """Count an image: maps (H, W)."""
        known = truth != IGNORE
        pairs = truth[known].long() * self.classes + guess[known].long()
        own = torch.bincount(pairs, minlength=self.classes**2).view(self.classes, self.classes)
        self.pixels += own
        self.images.append(mean_iou(own)[None])

    def compute(self) -> dict[str, Tensor]:
        """Both."""
        return {"pixels": self.pixels, "images": dim_zero_cat(self.images) if len(self.images) else torch.zeros(0)}


class Borders(Metric):
    """How many pixels of predicted and true borders there are, and how many of each lie near one of the other."""

    full_state_update = False
    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("counts", torch.zeros(4, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, guess: Tensor, truth: Tensor) -> None:
        """Count an image: maps (H, W). Borders with what is not known are none."""
        height, width = truth.shape
        reach = max(1, round(TOLERANCE * (height**2 + width**2) ** 0.5))
        known = _eroded(truth != IGNORE)
        ours, theirs = _border(guess) & known, _border(truth) & known
        near = [_dilated(line, reach) for line in (theirs, ours)]
        counts = (ours & near[0], ours, theirs & near[1], theirs)
        self.counts += torch.stack([line.sum() for line in counts])

    def compute(self) -> Tensor:
        """The harmonic mean of the shares that are near; 0 where there is no border."""
        hit, ours, found, theirs = self.counts.double().unbind()
        precision, recall = hit / ours.clamp(min=1), found / theirs.clamp(min=1)
        return 2 * precision * recall / (precision + recall).clamp(min=1e-12)


def iou(pixels: Tensor) -> Tensor:
    """(C,) of counts (C, C); nan for a class that is neither shown nor predicted."""
    right, of, called = pixels.diagonal().double(), pixels.sum(1), pixels.sum(0)
    return right / (of + called - right)


def mean_iou(pixels: Tensor, absent: bool = False) -> Tensor:
    """The mean over the classes that the truth shows, or, with `absent`, also over those only predicted."""
    each = iou(pixels)
    return each[~each.isnan() if absent else pixels.sum(1) > 0].mean().nan_to_num(0.0)


def figures(found: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """What was counted, as plain values: the mean IoU first."""
    pixels = found["pixels"].cpu()
    each, of = iou(pixels), pixels.sum(1)
    shown = [i for i, count in enumerate(of.tolist()) if count]
    recall = pixels.diagonal().double() / of.clamp(min=1)
    return {
        "miou": float(mean_iou(pixels)),
        "miou_all": float(mean_iou(pixels, absent=True)),
        "pixel_accuracy": float(pixels.diagonal().sum() / pixels.sum().clamp(min=1)),
        "mean_accuracy": float(recall[shown].mean()) if shown else 0.0,
        "border_f": float(found["borders"]),
        "per_class": {classes[i]: float(each[i]) for i in shown},
        "images": found["images"].reshape(-1).tolist(),
    }


def _border(maps: Tensor) -> Tensor:
    """(H, W) bool: pixels with another class at the right or below, and those they border on."""
    line = torch.zeros_like(maps, dtype=torch.bool)
    across, down = maps[:, 1:] != maps[:, :-1], maps[1:] != maps[:-1]
    line[:, 1:] |= across
    line[:, :-1] |= across
    line[1:] |= down
    line[:-1] |= down
    return line


def _dilated(line: Tensor, reach: int) -> Tensor:
    """(H, W) bool: where a pixel of `line` is at most `reach` rows and columns away; its cost does not grow with it."""
    for axis in (0, 1):
        count = line.to(torch.int32).cumsum(axis, dtype=torch.int32)
        place = torch.arange(line.shape[axis], device=line.device)
        until = count.index_select(axis, (place + reach).clamp(max=len(place) - 1))
        before = count.index_select(axis, (place - reach - 1).clamp(min=0))
        first = (place <= reach).view(-1, *[1] * (1 - axis))
        line = until - before.masked_fill(first, 0) > 0
    return line


def _eroded(known: Tensor) -> Tensor:
    return ~_dilated(~known, 1)
