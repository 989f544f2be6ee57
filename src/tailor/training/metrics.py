"""How good a classifier is on labelled batches: counts first, ratios from them."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from tailor.errors import TrainingError
from tailor.training.objective import Batch


@dataclass(frozen=True)
class Scores:
    """`confusion[i][j]` images of class i were called class j; a class without images has the accuracy 0."""

    accuracy: float
    per_class: tuple[float, ...]
    n: int
    confusion: tuple[tuple[int, ...], ...]


@torch.inference_mode()
def accuracy(model: nn.Module, batches: Iterable[Batch]) -> Scores:
    """The scores of `model(images) -> (B, K)` over all batches, in eval mode, on the model's device.

    Every module keeps the mode it had. TrainingError where there are no images, or a label is not one of the K.
    """
    modes = {module: module.training for module in model.modules()}
    first = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    confusion = torch.zeros(0, 0, dtype=torch.int64)
    try:
        model.eval()
        for batch in batches:
            if len(batch.images) == 0:
                continue
            logits = model(batch.images.to(first.device, first.dtype, non_blocking=True))
            classes = logits.shape[-1]
            if not len(confusion):
                confusion = torch.zeros(classes, classes, dtype=torch.int64)
            labels = batch.targets.cpu()
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= classes:
                raise TrainingError(
                    f"the labels reach from {low} to {high}, the model has {classes} classes",
                    hint="evaluate on data with the classes that the model was adapted to",
                )
            cells = labels * classes + logits.argmax(dim=-1).cpu()
            confusion += torch.bincount(cells, minlength=classes**2).view(classes, classes)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return scores(confusion)


def scores(confusion: torch.Tensor) -> Scores:
    """The ratios of a confusion matrix (K, K), rows the true classes."""
    n = int(confusion.sum())
    if n == 0:
        raise TrainingError("there are no images to evaluate on", hint="name data with a test or val split")
    right, of = confusion.diagonal().tolist(), confusion.sum(dim=1).tolist()
    return Scores(
        accuracy=sum(right) / n,
        per_class=tuple(r / max(o, 1) for r, o in zip(right, of, strict=True)),
        n=n,
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )
