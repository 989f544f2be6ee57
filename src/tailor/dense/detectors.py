"""One loss and one choice of boxes for whatever a detector gives."""

from collections.abc import Sequence
from functools import singledispatch

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxLinearCoder

from tailor.dense import faster_rcnn, fcos
from tailor.dense.boxes import Detections
from tailor.dense.faster_rcnn import RegionPredictions
from tailor.dense.fcos import CellPredictions


@singledispatch
def loss(found: object, targets: Sequence[dict[str, Tensor]]) -> Tensor:
    """(B,) of targets in pixels of the input."""
    raise AssertionError(f"no loss for {type(found).__name__}")


@singledispatch
def chosen(found: object) -> list[Detections]:
    """The boxes that are given for each image, best first."""
    raise AssertionError(f"no boxes of {type(found).__name__}")


loss.register(CellPredictions, fcos.loss)
loss.register(RegionPredictions, faster_rcnn.loss)
chosen.register(CellPredictions, fcos.chosen_boxes)
chosen.register(RegionPredictions, faster_rcnn.chosen_boxes)


class Cells(nn.Module):
    """FCOS as plain tensors: `boxes` (B, A, 4) in pixels of the input, and `scores` (B, A, C)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.coder = BoxLinearCoder(normalize_by_size=True)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Of images (B, 3, H, W)."""
        found: CellPredictions = self.model(images)
        boxes = self.coder.decode(found.boxes, found.anchors)
        return boxes, torch.sqrt(found.logits.sigmoid() * found.centres.sigmoid())
