"""Classification: one of the head's classes an image; the head is one linear layer over the pooled features."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from tailor import backbones
from tailor.anatomy import Anatomy
from tailor.errors import PlanError, TrainingError
from tailor.settings import STRICT
from tailor.tasks.task import Labelled


@dataclass(frozen=True, config=STRICT)
class ClassifierHead:
    """A fresh linear classifier over `classes`, its start drawn from `seed`."""

    classes: tuple[str, ...]
    seed: int = 0
    kind: Literal["classifier"] = "classifier"

    def __post_init__(self) -> None:
        if len(self.classes) < 2:
            raise PlanError(
                f"a classifier needs two classes or more, found {len(self.classes)}", hint="name more classes"
            )


@dataclass(frozen=True, config=STRICT)
class Classification:
    """Cross-entropy; `label_smoothing` is spread over all classes."""

    label_smoothing: float = 0.0
    kind: Literal["classification"] = "classification"

    head_type: ClassVar[type] = ClassifierHead
    targets: ClassVar[str] = "classes"
    groups: ClassVar[bool] = True
    metric: ClassVar[str] = "accuracy"
    larger: ClassVar[bool] = True
    counted: ClassVar[bool] = True
    hub: ClassVar[str] = "image-classification"

    def head(self, data: Labelled, seed: int) -> ClassifierHead:
        """A classifier of the data's classes."""
        return ClassifierHead(data.classes, seed)

    def attach_(self, model: nn.Module, head: ClassifierHead, anatomy: Anatomy | None = None) -> nn.Module:
        """Replace the backbone's classifier by a fresh one."""
        return backbones.attach_head_(model, len(head.classes), head.seed)

    def size(self, head: Any, own: tuple[int, int], asked: int | None) -> tuple[int, int]:
        """The backbone's own."""
        return own

    def collate(self, images: Sequence[Tensor], targets: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(B, C, H, W), and (B,) int64."""
        return torch.stack(list(images)), torch.tensor(targets, dtype=torch.int64)

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy (B,) of logits (B, K) with class numbers (B,)."""
        return F.cross_entropy(_full(output), targets, label_smoothing=self.label_smoothing, reduction="none")

    def weight(self, targets: Tensor) -> int:
        """Images."""
        return len(targets)

    def learn(self, output: Tensor, taught: Tensor, targets: Tensor, hard: bool, temperature: float) -> Tensor:
        """(B,): how far logits (B, K) are from a teacher's: cross-entropy with its choice, or KL divergence.

        What the images really show, `targets`, makes no difference.

        TrainingError where the teacher tells another number of classes apart.
        """
        if output.shape[1:] != taught.shape[1:]:
            raise TrainingError(
                f"the teacher has {taught.shape[-1]} classes, the model {output.shape[-1]}",
                hint="distil from a bundle that was adapted to the same data",
            )
        output, taught = _full(output), _full(taught)
        if hard:
            return self.loss(output, taught.argmax(dim=-1))
        ours, theirs = F.log_softmax(output / temperature, -1), F.log_softmax(taught / temperature, -1)
        return F.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1) * temperature**2

    def metrics(self, head: ClassifierHead) -> MetricCollection:
        """Top-1 accuracy and the confusion matrix, from which all else is reckoned."""
        classes = len(head.classes)
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(classes, average="micro", validate_args=False),
                "confusion": MulticlassConfusionMatrix(classes, validate_args=False),
            },
            compute_groups=False,
        )

    def update_(self, metrics: MetricCollection, output: Tensor, targets: Tensor) -> None:
        """Count a batch of logits (B, K); TrainingError for a label that is not one of the K."""
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= output.shape[-1]:
            raise TrainingError(
                f"the labels reach from {low} to {high}, the model has {output.shape[-1]} classes",
                hint="evaluate on data with the classes that the model was adapted to",
            )
        metrics.update(output.argmax(dim=-1), targets)

    def figures(self, found: Mapping[str, Tensor], head: ClassifierHead) -> dict[str, Any]:
        """Accuracy; recall (`per_class`) and precision of every class that was seen; the confusion matrix."""
        confusion = found["confusion"].to(torch.int64)
        right, of, called = confusion.diagonal().tolist(), confusion.sum(1).tolist(), confusion.sum(0).tolist()
        seen = [i for i, count in enumerate(of) if count]
        return {
            "accuracy": sum(right) / max(sum(of), 1),
            "per_class": {head.classes[i]: right[i] / of[i] for i in seen},
            "precision": {head.classes[i]: right[i] / called[i] if called[i] else 0.0 for i in seen},
            "n": sum(of),
            "confusion": confusion.tolist(),
            "classes": list(head.classes),
        }

    def decode(self, output: Tensor, head: ClassifierHead, top: int) -> list[dict[str, Any]]:
        """The likeliest class, its probability, and the `top` likeliest with theirs."""
        values, classes = output.softmax(dim=-1).cpu().topk(min(top, len(head.classes)))
        ranked = [
            tuple((head.classes[c], float(v)) for c, v in zip(row, scores, strict=True))
            for row, scores in zip(classes.tolist(), values, strict=True)
        ]
        return [{"label": one[0][0], "score": one[0][1], "top": one} for one in ranked]


def _full(logits: Tensor) -> Tensor:
    """Half precision is too coarse for a softmax over many classes."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
