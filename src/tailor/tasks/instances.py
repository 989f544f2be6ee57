"""Instance segmentation: a mask for each object; the head is a mask decoder of `tailor.dense`.

Trained as segmentation with masks is, each object being a mask of its own; ranked as Mask2Former does.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torchmetrics import MetricCollection

from tailor.anatomy import Anatomy
from tailor.dense import average_precision, decode, drawing, losses
from tailor.dense.attach import attach_
from tailor.dense.decoders import AnyDecoder
from tailor.dense.input import input_size
from tailor.dense.masks import Masks
from tailor.dense.predictions import MaskPredictions, Objects
from tailor.errors import PlanError
from tailor.settings import STRICT
from tailor.tasks.task import Labelled

Pictures = dict[str, Image.Image]
LEAST = 0.05
"""The score from which an object is drawn and told."""


@dataclass(frozen=True, config=STRICT)
class InstanceHead:
    """A mask decoder of `classes`, its start drawn from `seed`; `shape` (H, W) is that of the images."""

    classes: tuple[str, ...]
    decoder: AnyDecoder = Field(default_factory=Masks)
    shape: tuple[int, int] = (512, 512)
    seed: int = 0
    kind: Literal["instance-segmenter"] = "instance-segmenter"

    def __post_init__(self) -> None:
        if not self.classes:
            raise PlanError("an instance segmenter needs a class", hint="name one")
        if self.decoder.kind not in InstanceSegmentation.decoders:
            raise PlanError(f"`{self.decoder.kind}` gives no objects", hint="take `masks`")
        if min(self.shape) < 1:
            raise PlanError(f"images of {self.shape[0]} x {self.shape[1]} cannot be", hint="write `[512, 512]`")


@dataclass(frozen=True, config=STRICT)
class InstanceSegmentation:
    """Mask2Former's loss, each object a mask."""

    decoder: AnyDecoder = Field(default_factory=Masks)
    kind: Literal["instances"] = "instances"

    head_type: ClassVar[type] = InstanceHead
    targets: ClassVar[str] = "instances"
    groups: ClassVar[bool] = False
    metric: ClassVar[str] = "map"
    larger: ClassVar[bool] = True
    hub: ClassVar[str] = "image-segmentation"
    decoders: ClassVar[tuple[str, ...]] = ("masks", "mask2former", "faseg")

    def head(self, data: Labelled, seed: int) -> InstanceHead:
        """The decoder for the data's classes."""
        return InstanceHead(data.classes, self.decoder, data.shape, seed)

    def attach_(self, model: nn.Module, head: InstanceHead, anatomy: Anatomy | None = None) -> nn.Module:
        """Put the decoder in the place of the classifier; the model then gives the decoder's predictions."""
        return attach_(model, head.decoder, len(head.classes), head.seed)

    def size(self, head: InstanceHead, own: tuple[int, int], asked: int | None) -> tuple[int, int]:
        """The input: the data's shape, its shorter side as asked."""
        return input_size(head.shape, asked)

    def collate(self, images: Sequence[Tensor], targets: Sequence[Any]) -> tuple[Tensor, tuple[dict[str, Tensor], ...]]:
        """(B, C, H, W), and for each image its labels and masks (N, H, W)."""
        kept = [{name: target[name].as_subclass(Tensor) for name in ("labels", "masks")} for target in targets]
        return torch.stack(list(images)), tuple(kept)

    def loss(self, output: MaskPredictions, targets: Any) -> Tensor:
        """(B,) of the decoder's predictions and objects."""
        return losses.of_objects(output, _objects(targets))

    def weight(self, targets: Any) -> int:
        """Images."""
        return len(targets)

    def metrics(self, head: InstanceHead) -> MetricCollection:
        """Average precision of masks by COCO's rules; TailorError where its package is missing."""
        return MetricCollection({"masks": average_precision.metric("segm")})

    def update_(self, metrics: MetricCollection, output: MaskPredictions, targets: Any) -> None:
        """Count a batch, at the size of its masks."""
        found = []
        for one, target in zip(decode.single(output), targets, strict=True):
            objects = decode.instances(one, tuple(target["masks"].shape[-2:]))
            found.append({"scores": objects.scores, "labels": objects.labels, "masks": objects.masks})
        metrics.update(found, [{"labels": one["labels"], "masks": one["masks"].bool()} for one in targets])

    def figures(self, found: Mapping[str, Any], head: InstanceHead) -> dict[str, Any]:
        """mAP over IoU from 0.5 to 0.95, at 0.5 and at 0.75, and AP of each class."""
        return average_precision.figures(found, head.classes)

    def decode(self, output: MaskPredictions, head: InstanceHead, top: int) -> list[dict[str, Any]]:
        """The best object's class and score, and all objects: class, score, and share of the image."""
        told = []
        for one in decode.single(output):
            found = _kept(decode.instances(one, decode.seen_size(one)))
            rows = zip(found.labels.tolist(), found.scores.tolist(), found.masks.float().mean((1, 2)).tolist())
            objects = tuple((head.classes[label], score, share) for label, score, share in rows)
            first = objects[0] if objects else ("nothing", 0.0)
            shown = {"count": len(objects), "objects": objects[:top] if top == 1 else objects}
            told.append({"label": first[0], "score": first[1], **shown})
        return told

    def regions(self, targets: Any, size: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
        """For each image its objects' masks (n, H, W) at `size`, and their classes; objects too small to show go."""
        found = []
        for one in targets:
            masks = F.interpolate(one["masks"][:, None].float(), size=size)[:, 0] > 0
            shown = masks.flatten(1).any(1)
            found.append((masks[shown], one["labels"][shown]))
        return found

    def draw(
        self, output: MaskPredictions, head: InstanceHead, images: Sequence[Image.Image]
    ) -> list[dict[str, Image.Image]]:
        """Each image under the colours of its objects, `overlay`."""
        pictures = []
        for one, image in zip(decode.single(output), images, strict=True):
            found = _kept(decode.instances(one, (image.height, image.width)))
            masks = found.masks.cpu().numpy()
            picture = drawing.outlined(image, masks, found.labels.tolist(), found.scores.tolist(), head.classes)
            pictures.append({"overlay": picture})
        return pictures

    def exportable(self, model: nn.Module, head: InstanceHead) -> nn.Module:
        """The model as one that gives the classes and masks of all queries; ranking them is left to the caller."""
        return Queries(model)

    def agreement(self, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
        """The share of pixels of all masks that are inside, or outside, by both."""
        return float(((ours[1] > 0) == (theirs[1] > 0)).float().mean())


class Queries(nn.Module):
    """Class chances (B, N, C) and mask logits (B, N, H, W) at the size of the input."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Of images (B, 3, H, W)."""
        found: MaskPredictions = self.model(images)
        masks = F.interpolate(found.masks(), size=images.shape[-2:], mode="bilinear", align_corners=False)
        return found.classes[-1].softmax(-1)[..., :-1], masks


def _objects(targets: Sequence[Mapping[str, Tensor]]) -> list[Objects]:
    """Targets as the loss wants them, at the size of the first."""
    size = tuple(targets[0]["masks"].shape[-2:])
    found = []
    for one in targets:
        masks = one["masks"]
        if tuple(masks.shape[-2:]) != size:
            masks = F.interpolate(masks[:, None].float(), size=size)[:, 0]
        valid = torch.ones(size, dtype=torch.bool, device=masks.device)
        found.append(Objects(one["labels"], masks.bool(), valid))
    return found


def _kept(found: decode.Instances) -> decode.Instances:
    likely = found.scores >= LEAST
    return decode.Instances(found.scores[likely], found.labels[likely], found.masks[likely])
