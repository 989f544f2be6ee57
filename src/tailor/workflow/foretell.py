"""How long a training will take, told by a few updates of a copy before it begins: for trainings that have a time."""

import copy
import math
import time
from dataclasses import replace

import torch

from tailor.build import Opened
from tailor.data.images import ImageData
from tailor.surgery import trainable
from tailor.tasks import task_of
from tailor.training import Recipe, processes_here
from tailor.workflow.data import in_order

PROBED = 3
"""Updates that are timed, after one that is not."""
MORE = 1.2
"""What an epoch takes for each second of its forward and backward passes: loading, the optimiser, checkpoints."""


def seconds_an_epoch(opened: Opened, images: ImageData, recipe: Recipe) -> float:
    """Seconds of a pass over the training images, and of the validation behind it; the model stays as it was."""
    task, spec, place = task_of(opened.spec.head), opened.spec, processes_here().device
    model = copy.deepcopy(opened.model).to(place).train()
    train, val = images.splits["train"], images.splits["val"]
    few = replace(train, records=train.records[: recipe.batch_size])
    batch = next(iter(in_order(few, spec.preprocessing, spec.head, batch_size=recipe.batch_size)))
    pixels = batch.images.to(place)
    times = []
    for _ in range(PROBED + 1):
        began = time.perf_counter()
        loss = task.loss(model(pixels), batch.targets).sum()
        if trainable(model):
            loss.backward()
        times.append(time.perf_counter() - began)
    began = time.perf_counter()
    with torch.no_grad():
        model.eval()(pixels)
    forward = time.perf_counter() - began
    return MORE * (math.ceil(len(train) / len(pixels)) * min(times[1:]) + len(val) / len(pixels) * forward)
