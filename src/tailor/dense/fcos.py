"""FCOS (Tian et al. 2019), torchvision's, on any backbone's maps: each cell says class, box and how central it is."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torchvision.models.detection import FCOS
from torchvision.models.detection.anchor_utils import AnchorGenerator

from tailor.anatomy import Feature
from tailor.backbones.composition import Size
from tailor.dense import box_pyramid
from tailor.dense.box_pyramid import BoxPyramid
from tailor.dense.boxes import Detections
from tailor.dense.pyramid import chosen
from tailor.dense.recipes import BOXES
from tailor.dense.sizes import check_width
from tailor.settings import STRICT


class CellPredictions(NamedTuple):
    """`logits` (B, A, C), `boxes` (B, A, 4) as distances and `centres` (B, A, 1) of all cells; their `anchors` (A, 4),
    how many lie in each of the levels, and the `size` of the input."""

    logits: Tensor
    boxes: Tensor
    centres: Tensor
    anchors: Tensor
    levels: tuple[int, ...]
    size: Size

    def cut(self, seen: Size, padded: Size) -> "CellPredictions":
        """The same for an image of which only the corner `seen` is no padding."""
        return self._replace(size=seen)


class FcosHead(nn.Module):
    """Maps of a backbone to predictions; loss and choice of boxes are torchvision's."""

    def __init__(self, pyramid: BoxPyramid, classes: int) -> None:
        super().__init__()
        self.pyramid = pyramid
        generator = AnchorGenerator(tuple((s,) for s in pyramid.strides), ((1.0,),) * len(pyramid.strides))
        made = FCOS(_Nothing(pyramid.out_channels), classes, anchor_generator=generator)
        self.head, self.generator = made.head, made.anchor_generator

    @property
    def stride(self) -> int:
        """Images are padded to a multiple of it."""
        return self.pyramid.stride

    def forward(self, maps: Sequence[Tensor]) -> CellPredictions:
        """From the maps (B, C, H, W) of the chosen features."""
        four = self.pyramid(maps)
        size = self.pyramid.size(four)
        found = self.head(four)
        anchors = box_pyramid.anchors(self.generator, four, size)
        levels = tuple(int(one.shape[-2] * one.shape[-1]) for one in four)
        return CellPredictions(
            found["cls_logits"], found["bbox_regression"], found["bbox_ctrness"], anchors, levels, size
        )


class _Nothing(nn.Module):
    """What torchvision's detector takes for its backbone, where only its rules are wanted."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_channels = width


@dataclass(frozen=True, config=STRICT)
class Fcos:
    """Focal loss, generalised IoU and centredness; `least` is the score from which a box is given.

    Width 128 where torchvision has 256; group norm with 32 groups on a map of one cell asks for a multiple of 64.
    """

    kind: Literal["fcos"] = "fcos"
    width: int = 128
    least: float = 0.05
    norm: bool = True

    recipe: ClassVar[Mapping[str, Any]] = BOXES

    def __post_init__(self) -> None:
        check_width(self.width, multiple=64)

    def select(self, features: Sequence[Feature]) -> tuple[Feature, ...]:
        """The features that `build`'s module reads, finest first."""
        return chosen(features)

    def build(self, features: Sequence[Feature], classes: int) -> FcosHead:
        """The module for the selected features, started from torch's default generator."""
        return FcosHead(BoxPyramid(features, self.width, self.norm), classes)


@lru_cache(maxsize=8)
def rules(classes: int, least: float = 0.05) -> FCOS:
    """torchvision's detector for its rules: how cells are assigned, and which boxes are chosen."""
    with torch.random.fork_rng(devices=[]):
        return FCOS(_Nothing(32), classes, score_thresh=least)


def loss(found: CellPredictions, targets: Sequence[dict[str, Tensor]]) -> Tensor:
    """(B,) of targets in pixels of the input; an image is a mean over its own cells inside of boxes."""
    judge = rules(found.logits.shape[-1])
    each = []
    for i, target in enumerate(targets):
        rows = slice(i, i + 1)
        outputs = {
            "cls_logits": found.logits[rows].float(),
            "bbox_regression": found.boxes[rows].float(),
            "bbox_ctrness": found.centres[rows].float(),
        }
        parts = judge.compute_loss([target], outputs, [found.anchors], list(found.levels))
        each.append(sum(parts.values()))
    return torch.stack(each)


def chosen_boxes(found: CellPredictions, least: float = 0.05) -> list[Detections]:
    """The best boxes of each image, after suppression of those that overlap a better one of their class."""
    judge = rules(found.logits.shape[-1], least)
    levels = list(found.levels)
    outputs = {
        "cls_logits": list(found.logits.float().split(levels, 1)),
        "bbox_regression": list(found.boxes.float().split(levels, 1)),
        "bbox_ctrness": list(found.centres.float().split(levels, 1)),
    }
    count = found.logits.shape[0]
    places = [list(found.anchors.split(levels))] * count
    return [
        Detections(one["boxes"], one["scores"], one["labels"])
        for one in judge.postprocess_detections(outputs, places, [found.size] * count)
    ]
