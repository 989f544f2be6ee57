"""Faster R-CNN (Ren et al. 2015), torchvision's, on any backbone's maps: regions are proposed, then judged.

Deviation: the forward pass knows no targets, so true boxes are not added to the proposals that the second stage learns
from; of the proposals as they are, as many as torchvision takes are drawn for the loss.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import MultiScaleRoIAlign

from tailor.anatomy import Feature
from tailor.backbones.composition import Size
from tailor.dense import box_pyramid
from tailor.dense.box_pyramid import BoxPyramid
from tailor.dense.boxes import Detections
from tailor.dense.pyramid import chosen
from tailor.dense.recipes import BOXES
from tailor.dense.sizes import check_width
from tailor.settings import STRICT

RATIOS = (0.5, 1.0, 2.0)


class RegionPredictions(NamedTuple):
    """Of the first stage `objectness` (B, A, 1) and `deltas` (B, A, 4) of the `anchors` (A, 4); its `proposals`, and of
    the second stage their `logits` (R, C + 1; 0 is background) and `boxes` (R, 4 C + 4), image after image."""

    objectness: Tensor
    deltas: Tensor
    anchors: Tensor
    proposals: tuple[Tensor, ...]
    logits: Tensor
    boxes: Tensor
    size: Size

    def cut(self, seen: Size, padded: Size) -> "RegionPredictions":
        """The same for an image of which only the corner `seen` is no padding."""
        return self._replace(size=seen)


class _Nothing(nn.Module):
    """What torchvision's detector takes for its backbone, where only its parts are wanted."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_channels = width


def made(width: int, classes: int, strides: Sequence[int], hidden: int, least: float) -> FasterRCNN:
    """torchvision's detector around no backbone."""
    from torchvision.models.detection.faster_rcnn import TwoMLPHead

    generator = AnchorGenerator(tuple((4 * s,) for s in strides), (RATIOS,) * len(strides))
    names = [str(i) for i in range(len(strides) - 1)] + ["pool"]
    return FasterRCNN(
        _Nothing(width),
        None,
        rpn_anchor_generator=generator,
        box_roi_pool=MultiScaleRoIAlign(names, 7, 2),
        box_head=TwoMLPHead(width * 49, hidden),
        box_predictor=_Judge(hidden, classes + 1),
        box_score_thresh=least,
        rpn_post_nms_top_n_train=500,
        rpn_post_nms_top_n_test=300,
    )


class _Judge(nn.Module):
    """Class logits and box changes of each region."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.logits = nn.Linear(inputs, classes)
        self.boxes = nn.Linear(inputs, 4 * classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits(x), self.boxes(x)


class FasterRcnnHead(nn.Module):
    """Maps of a backbone to predictions; assignment and choice of boxes are torchvision's."""

    def __init__(self, pyramid: BoxPyramid, classes: int, hidden: int) -> None:
        super().__init__()
        self.pyramid = pyramid
        parts = made(pyramid.out_channels, classes, pyramid.strides, hidden, 0.05)
        self.regions, self.roi = parts.rpn, parts.roi_heads

    @property
    def stride(self) -> int:
        """Images are padded to a multiple of it."""
        return self.pyramid.stride

    def forward(self, maps: Sequence[Tensor]) -> RegionPredictions:
        """From the maps (B, C, H, W) of the chosen features."""
        four = self.pyramid(maps)
        size, batch = self.pyramid.size(four), four[0].shape[0]
        anchors = box_pyramid.anchors(self.regions.anchor_generator, four, size)
        objectness, deltas = self.regions.head(four)
        counts = [one[0].numel() for one in objectness]
        objectness, deltas = concat_box_prediction_layers(objectness, deltas)
        boxes = self.regions.box_coder.decode(deltas.detach(), [anchors] * batch).view(batch, -1, 4)
        proposals, _ = self.regions.filter_proposals(boxes, objectness, [size] * batch, counts)
        named = OrderedDict((name, one) for name, one in zip((*map(str, range(len(four) - 1)), "pool"), four))
        logits, changes = self.roi.box_predictor(
            self.roi.box_head(self.roi.box_roi_pool(named, proposals, [size] * batch))
        )
        first = (objectness.view(batch, -1, 1), deltas.view(batch, -1, 4))
        return RegionPredictions(*first, anchors, tuple(proposals), logits, changes, size)


@dataclass(frozen=True, config=STRICT)
class FasterRcnn:
    """Two stages; `least` is the score from which a box is given."""

    kind: Literal["faster-rcnn"] = "faster-rcnn"
    width: int = 128
    hidden: int = 512
    least: float = 0.05
    norm: bool = True

    recipe: ClassVar[Mapping[str, Any]] = BOXES

    def __post_init__(self) -> None:
        check_width(self.width)
        check_width(self.hidden)

    def select(self, features: Sequence[Feature]) -> tuple[Feature, ...]:
        """The features that `build`'s module reads, finest first."""
        return chosen(features)

    def build(self, features: Sequence[Feature], classes: int) -> FasterRcnnHead:
        """The module for the selected features, started from torch's default generator."""
        return FasterRcnnHead(BoxPyramid(features, self.width, self.norm), classes, self.hidden)


@lru_cache(maxsize=8)
def rules(classes: int, least: float = 0.05) -> FasterRCNN:
    """torchvision's detector for its rules."""
    with torch.random.fork_rng(devices=[]):
        return made(8, classes, (8, 16, 32, 64), 8, least)


def loss(found: RegionPredictions, targets: Sequence[dict[str, Tensor]]) -> Tensor:
    """(B,) of targets in pixels of the input: both stages."""
    judge = rules(found.logits.shape[-1] - 1)
    counts = [len(one) for one in found.proposals]
    each = []
    parts = zip(targets, found.logits.float().split(counts), found.boxes.float().split(counts), found.proposals)
    for i, (target, logits, boxes, proposals) in enumerate(parts):
        labels, matched = judge.rpn.assign_targets_to_anchors([found.anchors], [target])
        wanted = judge.rpn.box_coder.encode(matched, [found.anchors])
        first = judge.rpn.compute_loss(found.objectness[i].float(), found.deltas[i].float(), labels, wanted)
        each.append(sum(first) + _judged(judge, target, logits, boxes, proposals))
    return torch.stack(each)


def _judged(judge: FasterRCNN, target: dict[str, Tensor], logits: Tensor, boxes: Tensor, proposals: Tensor) -> Tensor:
    """The loss of an image's regions."""
    if not len(proposals):
        return logits.sum() * 0
    roi = judge.roi_heads
    matched, labels = roi.assign_targets_to_proposals([proposals], [target["boxes"]], [target["labels"] + 1])
    drawn = roi.subsample(labels)[0]
    true = target["boxes"] if len(target["boxes"]) else proposals.new_zeros(1, 4)
    wanted = roi.box_coder.encode([true[matched[0][drawn]]], [proposals[drawn]])
    return sum(fastrcnn_loss(logits[drawn], boxes[drawn], [labels[0][drawn]], wanted))


def chosen_boxes(found: RegionPredictions, least: float = 0.05) -> list[Detections]:
    """The best boxes of each image, after suppression of those that overlap a better one of their class."""
    judge = rules(found.logits.shape[-1] - 1, least)
    proposals = list(found.proposals)
    boxes, scores, labels = judge.roi_heads.postprocess_detections(
        found.logits.float(), found.boxes.float(), proposals, [found.size] * len(proposals)
    )
    return [Detections(*one[:2], one[2] - 1) for one in zip(boxes, scores, labels)]
