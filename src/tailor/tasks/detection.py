"""Detection: boxes of the head's classes; the head is one of torchvision's detectors on the backbone's maps."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from PIL import Image
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torchmetrics import MetricCollection

from tailor.anatomy import Anatomy
from tailor.dense import average_precision, detectors, drawing
from tailor.dense.attach import attach_
from tailor.dense.boxes import Detections, at_input, plain, scaled
from tailor.dense.decoders import AnyDecoder
from tailor.dense.fcos import Fcos
from tailor.dense.input import input_size
from tailor.errors import ModelError, PlanError
from tailor.settings import STRICT
from tailor.tasks.task import Labelled


@dataclass(frozen=True, config=STRICT)
class DetectorHead:
    """A detector of `classes`, its start drawn from `seed`; `shape` (H, W) is that of the images."""

    classes: tuple[str, ...]
    decoder: AnyDecoder = Field(default_factory=Fcos)
    shape: tuple[int, int] = (512, 512)
    seed: int = 0
    kind: Literal["detector"] = "detector"

    def __post_init__(self) -> None:
        if not self.classes:
            raise PlanError("a detector needs a class", hint="name one")
        if self.decoder.kind not in Detection.decoders:
            raise PlanError(f"`{self.decoder.kind}` gives no boxes", hint="take `fcos`")
        if min(self.shape) < 1:
            raise PlanError(f"images of {self.shape[0]} x {self.shape[1]} cannot be", hint="write `[512, 512]`")


@dataclass(frozen=True, config=STRICT)
class Detection:
    """The detector's own loss."""

    decoder: AnyDecoder = Field(default_factory=Fcos)
    kind: Literal["detection"] = "detection"

    head_type: ClassVar[type] = DetectorHead
    targets: ClassVar[str] = "boxes"
    groups: ClassVar[bool] = False
    metric: ClassVar[str] = "map"
    larger: ClassVar[bool] = True
    hub: ClassVar[str] = "object-detection"
    decoders: ClassVar[tuple[str, ...]] = ("fcos", "faster-rcnn")

    def head(self, data: Labelled, seed: int) -> DetectorHead:
        """The detector for the data's classes."""
        return DetectorHead(data.classes, self.decoder, data.shape, seed)

    def attach_(self, model: nn.Module, head: DetectorHead, anatomy: Anatomy | None = None) -> nn.Module:
        """Put the detector in the place of the classifier; the model then gives the detector's predictions."""
        return attach_(model, head.decoder, len(head.classes), head.seed)

    def size(self, head: DetectorHead, own: tuple[int, int], asked: int | None) -> tuple[int, int]:
        """The input: the data's shape, its shorter side as asked."""
        return input_size(head.shape, asked)

    def collate(self, images: Sequence[Tensor], targets: Sequence[Any]) -> tuple[Tensor, tuple[dict[str, Tensor], ...]]:
        """(B, C, H, W), and for each image its boxes, labels, and the size that the boxes lie on."""
        return torch.stack(list(images)), tuple(plain(target) for target in targets)

    def loss(self, output: Any, targets: Any) -> Tensor:
        """(B,) of the detector's predictions and targets."""
        return detectors.loss(output, at_input(targets, output.size))

    def weight(self, targets: Any) -> int:
        """Images."""
        return len(targets)

    def metrics(self, head: DetectorHead) -> MetricCollection:
        """Average precision by COCO's rules; TailorError where its package is missing."""
        return MetricCollection({"boxes": average_precision.metric("bbox")})

    def update_(self, metrics: MetricCollection, output: Any, targets: Any) -> None:
        """Count a batch, in pixels of the images as they are stored."""
        found = [
            {"boxes": scaled(one.boxes, output.size, size_of(target)), "scores": one.scores, "labels": one.labels}
            for one, target in zip(detectors.chosen(output), targets, strict=True)
        ]
        metrics.update(found, [{"boxes": one["boxes"], "labels": one["labels"]} for one in targets])

    def figures(self, found: Mapping[str, Any], head: DetectorHead) -> dict[str, Any]:
        """mAP over IoU from 0.5 to 0.95, at 0.5 and at 0.75, and AP of each class."""
        return average_precision.figures(found, head.classes)

    def decode(self, output: Any, head: DetectorHead, top: int) -> list[dict[str, Any]]:
        """The best box's class and score, and all boxes: class, score, and corners as shares of the image."""
        return [_told(one, output.size, head.classes, top) for one in detectors.chosen(output)]

    def regions(self, targets: Any, size: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
        """For each image its boxes on an image of `size`, and their classes."""
        return [(one["boxes"], one["labels"]) for one in at_input(targets, size)]

    def draw(self, output: Any, head: DetectorHead, images: Sequence[Image.Image]) -> list[dict[str, Image.Image]]:
        """Each image with its boxes, `overlay`."""
        pictures = []
        for one, image in zip(detectors.chosen(output), images, strict=True):
            boxes = scaled(one.boxes, output.size, (image.height, image.width))
            pictures.append(
                {
                    "overlay": drawing.framed(
                        image, boxes.tolist(), one.labels.tolist(), one.scores.tolist(), head.classes
                    )
                }
            )
        return pictures

    def exportable(self, model: nn.Module, head: DetectorHead) -> nn.Module:
        """The model as one that gives boxes and scores of all cells; choosing among them is left to the caller."""
        if head.decoder.kind != "fcos":
            raise ModelError(
                f"`{head.decoder.kind}` gives another number of boxes for each image, which no file can hold",
                hint="adapt with `--decoder fcos` to export",
            )
        return detectors.Cells(model)

    def agreement(self, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
        """The share of cells whose boxes differ by less than half a pixel and scores by less than a hundredth."""
        boxes = (ours[0] - theirs[0]).abs().amax(-1) < 0.5
        scores = (ours[1] - theirs[1]).abs().amax(-1) < 0.01
        return float((boxes & scores).float().mean())


def size_of(target: Mapping[str, Tensor]) -> tuple[int, int]:
    """(H, W) that a target's boxes lie on."""
    height, width = target["size"].tolist()
    return int(height), int(width)


def _told(found: Detections, size: tuple[int, int], classes: Sequence[str], top: int) -> dict[str, Any]:
    rows = zip(found.labels.tolist(), found.scores.tolist(), scaled(found.boxes, size, (1, 1)).tolist())
    boxes = tuple((classes[label], score, *(round(side, 4) for side in box)) for label, score, box in rows)
    first = {"label": boxes[0][0], "score": boxes[0][1]} if boxes else {"label": "nothing", "score": 0.0}
    return {**first, "count": len(boxes), "boxes": boxes[:top] if top == 1 else boxes}
