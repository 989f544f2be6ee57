"""Batches of any kind, taken by the sample: what goes into a model, what its output is compared with, and the loss.

A tensor leads with the samples, a list has one entry a sample. What a model takes in several arguments is a tuple (by
position) or a dict (by name) of such. Nothing here knows images or classes, but for the default loss.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailor.errors import ModelError

Loss = Callable[[Any, Any], Tensor]
"""From the model's output and the targets to the loss of each sample, (B,)."""


def cross_entropy(output: Tensor, targets: Tensor) -> Tensor:
    """Each image's cross-entropy (B,) of class scores (B, K) and classes (B,), without smoothing."""
    return F.cross_entropy(output, targets, reduction="none")


def count(batch: Any) -> int:
    """How many samples a batch holds."""
    match batch:
        case dict():
            return count(next(iter(batch.values())))
        case tuple():
            return count(batch[0])
        case _:
            return len(batch)


def take(batch: Any, stop: int) -> Any:
    """The first `stop` samples."""
    match batch:
        case dict():
            return {name: take(part, stop) for name, part in batch.items()}
        case tuple():
            return tuple(take(part, stop) for part in batch)
        case _:
            return batch[:stop]


def placed(batch: Any, device: torch.device, dtype: torch.dtype | None = None) -> Any:
    """The batch with every tensor on the device, and numbers with a fraction in `dtype` where one is given."""
    match batch:
        case Tensor():
            return batch.to(device, dtype if batch.is_floating_point() else None)
        case dict():
            return {name: placed(part, device, dtype) for name, part in batch.items()}
        case tuple() | list():
            return type(batch)(placed(part, device, dtype) for part in batch)
        case _:
            return batch


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a model is called with, by position and by name."""
    match inputs:
        case dict():
            return (), inputs
        case tuple():
            return inputs, {}
        case _:
            return (inputs,), {}


def called(model: nn.Module, inputs: Any) -> Any:
    """The model's output."""
    positional, named = arguments(inputs)
    return model(*positional, **named)


def summed(loss: Loss, output: Any, targets: Any, samples: int) -> Tensor:
    """The losses of all samples, added up: they neither mix nor scale with the batch. ModelError for another shape."""
    values = loss(output, targets)
    if values.shape != (samples,):
        raise ModelError(
            f"the loss gives shape {tuple(values.shape)} for {samples} samples, expected ({samples},)",
            hint="give one number a sample, without a mean or sum over the batch",
        )
    return values.sum()
