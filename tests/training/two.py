"""Run by `test_processes.py` under `accelerate launch`: trains in float64 and writes what each process ends with."""

import atexit
import math
import os
import sys
from pathlib import Path

import timm
import torch
import toys
from safetensors.torch import save_file
from torch import nn

from tailor.dense.linear import LinearDecoder
from tailor.dense.masks import Masks
from tailor.dense.predictions import IGNORE
from tailor.errors import BundleError, TrainingError
from tailor.tasks.segmentation import Segmentation, SegmenterHead
from tailor.training import Recipe, by_main, fit
from tailor.training.processes import processes_here
from tailor.workflow.destination import Destination
from tailor.workflow.output import output


def vit():
    return timm.create_model(
        "vit_tiny_patch16_224",
        img_size=toys.SIZE,
        patch_size=2,
        depth=2,
        embed_dim=24,
        num_heads=2,
        num_classes=toys.CLASSES,
        drop_path_rate=0.0,
    )


class Fork(nn.Module):
    """Two branches and one that is never used; `by_number` takes one branch by the image numbers."""

    def __init__(self):
        super().__init__()
        inputs = 3 * toys.SIZE**2
        self.left, self.right, self.idle = (nn.Linear(inputs, toys.CLASSES) for _ in range(3))


def by_number():
    """The loss of a model some of whose parameters one process may not use in an update."""

    def step(model, share):
        flat = share.images.flatten(1)
        even = (share.indices % 5 == 0).to(flat.dtype).unsqueeze(1)
        logits = torch.zeros(len(flat), toys.CLASSES, dtype=flat.dtype)
        if even.any():
            logits = logits + even * model.left(flat)
        if not even.all():
            logits = logits + (1 - even) * model.right(flat)
        return share.loss(toys.TASK, logits)

    return step


LINEAR = LinearDecoder()
MASKS = Masks(width=16, queries=5, blocks=2, heads=2, hidden=16)
DECODERS = {"segmenter": LINEAR, "masks": MASKS}


class Scenes(toys.Data):
    """The same images with a map each, of which the brightness of a pixel tells the class; some pixels are unknown."""

    def __init__(self, batch_size, count):
        super().__init__(batch_size, count)
        bright = self.images.mean(1)
        self.labels = torch.where(bright.abs() < 0.05, IGNORE, (bright > 0).long())


def segmenter(decoder):
    model = Segmentation(decoder).attach_(vit(), SegmenterHead(("low", "high"), decoder))
    model.norm.requires_grad_(False)  # comes after the maps that a decoder reads
    return model


PLAIN = Recipe(epochs=5, batch_size=16, lr=0.01, drop_path=0.0, select="last")  # 20 updates, the last of an epoch of 2
CASES = {
    # name: model, recipe, batch size, images, own step
    "segmenter": (lambda: segmenter(LINEAR), PLAIN, 16, 50, None),
    # Masks are compared at points that are drawn.
    "masks": (lambda: segmenter(MASKS), PLAIN, 16, 50, None),
    "vit": (vit, PLAIN, 16, 50, None),
    "delta": (lambda: toys.model(dropout=0.0, norm=False), PLAIN, 16, 50, None),
    # The last batch of an epoch has one image, so one of two processes has none.
    "empty": (lambda: toys.model(dropout=0.0, norm=False), PLAIN, 16, 49, None),
    "accumulated": (vit, Recipe(epochs=5, batch_size=16, lr=0.01, accumulate=3, clip_norm=0.5, ema=0.8), 16, 50, None),
    "unused": (Fork, Recipe(epochs=5, batch_size=4, lr=0.01, weight_decay=0.1), 4, 18, by_number),
}


def begin(name):
    model = CASES[name][0]().double()
    torch.manual_seed(3 + processes_here().process_index)  # processes begin apart: the main one's weights must win
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def train(name, folder):
    _, recipe, batch_size, count, step = CASES[name]
    model = begin(name)
    decoder = DECODERS.get(name)
    data = (Scenes if decoder else toys.Data)(batch_size, count)
    task, head = toys.TASK, toys.HEAD
    if decoder:
        task, head = Segmentation(decoder), SegmenterHead(("low", "high"), decoder)
    fit(
        model,
        recipe,
        task,
        batches=data,
        steps_per_epoch=data.steps,
        run=folder / name,
        step=step and step(),
        validate=toys.validator(data, task, head) if name != "unused" else lambda _: {},
    )
    return toys.everything(model)


def fail(folder):
    """One process meets a loss that is not finite; what both are told."""
    data, state = toys.Data(), processes_here()
    last = next(batch.indices[-1] for batch in data(0))
    data.images[last] = math.nan
    try:
        model = toys.model(norm=False)
        fit(model, PLAIN, toys.TASK, batches=data, steps_per_epoch=data.steps, run=folder / "nan")
    except TrainingError as error:
        (folder / f"nan-{state.process_index}.txt").write_text(error.message)


def refused(folder):
    """A folder that is taken, and a mistake of the main process: what each process is told, though one looks."""
    number = processes_here().process_index
    (folder / "taken").mkdir(exist_ok=True)
    (folder / "taken" / "thesis.tex").touch()
    try:
        with output(Destination(folder / "taken")):
            pass
    except BundleError as error:
        (folder / f"taken-{number}.txt").write_text(str(error))
    try:
        by_main(lambda: 1 // 0)
    except (ZeroDivisionError, TrainingError) as error:
        (folder / f"mistake-{number}.txt").write_text(f"{type(error).__name__}: {error}")


def left(folder):
    """What still stands when the interpreter ends: threads of a group that outlive it abort the process."""
    (folder / f"left-{os.environ['RANK']}.txt").write_text(str(torch.distributed.is_initialized()))


def main(folder):
    atexit.register(left, folder)  # the first that registers runs last
    state = processes_here()
    fail(folder)
    refused(folder)
    for name in CASES:
        save_file(train(name, folder), folder / f"{name}-{state.process_index}-of-{state.num_processes}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
