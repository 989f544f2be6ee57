"""How good a model is on labelled batches, by its task's metrics."""

from collections.abc import Iterable
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import nn

from tailor.errors import TrainingError
from tailor.surgery import eval_mode
from tailor.tasks import Head, Task
from tailor.training.objective import Batch


@torch.inference_mode()
def evaluate(model: nn.Module, batches: Iterable[Batch], task: Task, head: Head) -> dict[str, Any]:
    """The task's figures of `model(images)` over all batches, in eval mode, on the model's device, and `n` samples.

    The leading metric comes first. Every module keeps the mode it had. TrainingError where there are no images.
    """
    first = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    metrics, seen = task.metrics(head).to(first.device), 0
    with eval_mode(model):
        for batch in batches:
            if len(batch.images) == 0:
                continue
            output = model(batch.images.to(first.device, first.dtype, non_blocking=True))
            task.update_(metrics, output, send_to_device(batch.targets, first.device))
            seen += len(batch.images)
    if not seen:
        raise TrainingError("there are no images to evaluate on", hint="name data with a test or val split")
    return {**task.figures(metrics.compute(), head), "n": seen}
