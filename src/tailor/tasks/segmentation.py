"""Segmentation: one of the head's classes for each pixel; the head is a decoder of `tailor.dense`.

Label maps are compared at the size they are stored in: scores are resized to it before the class is chosen.
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
from tailor.dense import decode, drawing, losses, measures
from tailor.dense.attach import attach_
from tailor.dense.decoders import AnyDecoder
from tailor.dense.input import input_size
from tailor.dense.masks import Masks
from tailor.dense.predictions import IGNORE, objects
from tailor.dense.several import Several
from tailor.dense.views import Views
from tailor.errors import PlanError, TrainingError
from tailor.settings import STRICT
from tailor.tasks.task import Labelled


@dataclass(frozen=True, config=STRICT)
class SegmenterHead:
    """A decoder that tells `classes` apart, its start drawn from `seed`; `shape` (H, W) is that of the images."""

    classes: tuple[str, ...]
    decoder: AnyDecoder = Field(default_factory=Masks)
    shape: tuple[int, int] = (512, 512)
    seed: int = 0
    kind: Literal["segmenter"] = "segmenter"

    def __post_init__(self) -> None:
        if not self.classes or len(self.classes) >= IGNORE:
            raise PlanError(
                f"a segmenter tells 1 to {IGNORE - 1} classes apart, found {len(self.classes)}",
                hint="name other classes",
            )
        if self.decoder.kind not in Segmentation.decoders:
            raise PlanError(f"`{self.decoder.kind}` gives no masks", hint="take `masks`")
        if min(self.shape) < 1:
            raise PlanError(f"images of {self.shape[0]} x {self.shape[1]} cannot be", hint="write `[512, 512]`")


@dataclass(frozen=True, config=STRICT)
class Segmentation:
    """The decoder's own loss: masks with classes, or a class for each pixel."""

    decoder: AnyDecoder = Field(default_factory=Masks)
    kind: Literal["segmentation"] = "segmentation"

    head_type: ClassVar[type] = SegmenterHead
    targets: ClassVar[str] = "masks"
    groups: ClassVar[bool] = False
    metric: ClassVar[str] = "miou"
    larger: ClassVar[bool] = True
    hub: ClassVar[str] = "image-segmentation"
    decoders: ClassVar[tuple[str, ...]] = ("masks", "linear", "mlp", "mask2former", "faseg", "setr-pup")

    def head(self, data: Labelled, seed: int) -> SegmenterHead:
        """The decoder for the data's classes."""
        return SegmenterHead(data.classes, self.decoder, data.shape, seed)

    def attach_(self, model: nn.Module, head: SegmenterHead, anatomy: Anatomy | None = None) -> nn.Module:
        """Put the decoder in the place of the classifier; the model then gives the decoder's predictions."""
        return attach_(model, head.decoder, len(head.classes), head.seed)

    def size(self, head: SegmenterHead, own: tuple[int, int], asked: int | None) -> tuple[int, int]:
        """The input: the data's shape, its shorter side as asked."""
        return input_size(head.shape, asked)

    def collate(self, images: Sequence[Tensor], targets: Sequence[Tensor]) -> tuple[Tensor, Any]:
        """(B, C, H, W), and label maps (B, H, W) int64, or a tuple of them where their sizes differ."""
        maps = tuple(target.as_subclass(Tensor).long() for target in targets)
        same = len({one.shape for one in maps}) == 1
        return torch.stack(list(images)), torch.stack(maps) if same else maps

    def loss(self, output: Any, targets: Any) -> Tensor:
        """(B,) of the decoder's predictions and label maps."""
        return losses.loss(output, losses.of_one_size(targets))

    def weight(self, targets: Any) -> int:
        """Images."""
        return len(targets)

    def metrics(self, head: SegmenterHead) -> MetricCollection:
        """Pixels by class and class predicted, and borders."""
        return MetricCollection(
            {"confusion": measures.PixelConfusion(len(head.classes)), "borders": measures.Borders()},
            compute_groups=False,
        )

    def update_(self, metrics: MetricCollection, output: Any, targets: Any) -> None:
        """Count a batch at the size of its label maps; TrainingError for a label that is no class of the model."""
        known = int(metrics["confusion"].classes)  # type: ignore[arg-type]
        for guess, truth in zip(decode.label_maps(output, [tuple(one.shape) for one in targets]), targets):
            seen = truth[truth != IGNORE]
            if seen.numel() and int(seen.max()) >= known:
                raise TrainingError(
                    f"a label map has class {int(seen.max())}, the model has {known} classes",
                    hint="evaluate on data with the classes that the model was adapted to",
                )
            metrics.update(guess, truth)

    def figures(self, found: Mapping[str, Any], head: SegmenterHead) -> dict[str, Any]:
        """Mean IoU, that of each class, accuracy of pixels, and how well borders are met."""
        return measures.figures(found, head.classes)

    def decode(self, output: Any, head: SegmenterHead, top: int) -> list[dict[str, Any]]:
        """The class of most pixels, its share, and the `top` classes with theirs."""
        sizes = [decode.seen_size(one) for one in decode.single(output)]
        return [_shares(one, head.classes, top) for one in decode.label_maps(output, sizes)]

    def regions(self, targets: Any, size: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
        """For each image masks (n, H, W) at `size` of the classes that it shows, and their numbers."""
        found = []
        for one in targets:
            maps = F.interpolate(one[None, None].float(), size=size)[0, 0].long()
            shown = objects(maps[None])[0]
            found.append((shown.masks, shown.labels))
        return found

    def draw(self, output: Any, head: SegmenterHead, images: Sequence[Image.Image]) -> list[dict[str, Image.Image]]:
        """For each image its label map, called `mask`, and the image under the map's colours and names, `overlay`."""
        maps = decode.label_maps(output, [(image.height, image.width) for image in images])
        return [
            {"mask": drawing.stored(one), "overlay": drawing.overlay(image, one, head.classes)}
            for one, image in zip((m.cpu().numpy() for m in maps), images, strict=True)
        ]

    def viewed(self, model: nn.Module, head: SegmenterHead, views: Views, own: tuple[int, int]) -> nn.Module:
        """The model as one that looks as `views` says, where its own input is `own`."""
        return Several(model, views, own)

    def exportable(self, model: nn.Module, head: SegmenterHead) -> nn.Module:
        """The model as one that gives scores (B, C, H, W) at the size of its input."""
        return PixelScores(model)

    def agreement(self, ours: Tensor, theirs: Sequence[Tensor]) -> float:
        """The share of pixels whose class is the same by two models' exported outputs."""
        return float((ours.argmax(1) == theirs[0].argmax(1)).float().mean())


class PixelScores(nn.Module):
    """Class scores of every pixel, the resize to the input's size inside."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) for images (B, 3, H, W)."""
        return decode.scores(self.model(images), (images.shape[-2], images.shape[-1]))


def _shares(labels: Tensor, classes: Sequence[str], top: int) -> dict[str, Any]:
    counts = torch.bincount(labels.flatten(), minlength=len(classes))
    best = counts.argsort(descending=True, stable=True)[:top].tolist()
    ranked = tuple((classes[i], float(counts[i] / labels.numel())) for i in best if counts[i])
    return {"label": ranked[0][0], "share": ranked[0][1], "top": ranked}
