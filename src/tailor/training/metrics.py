"""How good a model is on labelled batches, by its task's metrics."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import nn

from tailor.criteria.samples import placed
from tailor.errors import TrainingError
from tailor.surgery import as_held, eval_mode
from tailor.tasks import Head, Task
from tailor.training.objective import BatchLike


def evaluate(model: nn.Module, batches: Iterable[BatchLike], task: Task, head: Head) -> dict[str, Any]:
    """The task's figures of `model(images)` over all batches, in eval mode, on the model's device, and `n` samples.

    The leading metric comes first. Every module keeps the mode it had. TrainingError where there are no images.
    """
    return evaluate_each(model, [lambda: model], batches, task, head)[0]


@torch.inference_mode()
def evaluate_each(
    model: nn.Module, routes: Sequence[Callable[[], nn.Module]], batches: Iterable[BatchLike], task: Task, head: Head
) -> list[dict[str, Any]]:
    """The figures of every route through one model, as `evaluate` gives them; an image is read once for all of them.

    A route is switched to by calling it.
    """
    first = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    metrics, seen = [task.metrics(head).to(first.device) for _ in routes], 0
    with eval_mode(model), as_held(model):
        for batch in batches:
            if len(batch.images) == 0:
                continue
            images = placed(batch.images, first.device, first.dtype)
            targets = send_to_device(batch.targets, first.device)
            for metric, route in zip(metrics, routes, strict=True):
                task.update_(metric, route()(images), targets)
            seen += len(images)
    if not seen:
        raise TrainingError("there are no images to evaluate on", hint="name data with a test or val split")
    return [{**task.figures(metric.compute(), head), "n": seen} for metric in metrics]
