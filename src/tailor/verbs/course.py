"""What the engine is given: batches of images, or, where only the head trains, features computed once per image."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tailor.data.images import ImageData
from tailor.data.loading import batches as order
from tailor.data.loading import loader
from tailor.data.transforms import train_transform
from tailor.events import Event, Report
from tailor.preprocessing import Preprocessing
from tailor.spec import Spec
from tailor.surgery import trainable
from tailor.training import Batch, Features, Progress, Recipe, accuracy, collect, head_only
from tailor.verbs.images import in_order, score

Batches = Callable[[int, int, int, int], Iterable[Any]]


@dataclass(frozen=True)
class Course:
    """The module to train, its batches by (epoch, start, process, processes), and how to validate it."""

    module: nn.Module
    batches: Batches
    validate: Callable[[nn.Module], Mapping[str, float]]


def course(
    model: nn.Module,
    head: str,
    spec: Spec,
    data: ImageData,
    recipe: Recipe,
    *,
    taught: bool,
    workers: int,
    report: Report,
) -> Course:
    """The cheapest course that trains exactly the same: on features where `model` is frozen in front of `head`.

    Not so where the model is `taught`: a teacher has to see the images.
    """
    still = not taught and recipe.augment == "none" and recipe.repeats == 1 and not recipe.mixup and not recipe.cutmix
    if still and all(name.startswith(head + ".") for name in trainable(model)):
        first = next(iter(in_order(data.splits["val"], spec.preprocessing, batch_size=2)))
        parts = head_only(model, head, first.images)
        if parts is not None:
            return _on_features(*parts, spec, data, recipe, report)
    return on_images(model, spec.preprocessing, data, recipe, workers)


def on_images(model: nn.Module, preprocessing: Preprocessing, data: ImageData, recipe: Recipe, workers: int) -> Course:
    """The ordinary course: every image through the whole model in every epoch."""
    transform = train_transform(preprocessing, recipe.augment)

    def batches(epoch: int, start: int, process: int, processes: int) -> Iterable[Batch]:
        return loader(
            data.splits["train"],
            transform,
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            epoch=epoch,
            shuffle=True,
            start=start,
            rank=process,
            world=processes,
            workers=workers,
            repeats=recipe.repeats,
        )

    def validate(module: nn.Module) -> Mapping[str, float]:
        return {"accuracy": score(module, data.splits["val"], preprocessing).accuracy}

    return Course(model, batches, validate)


def _on_features(
    frozen: nn.Module, head: nn.Module, spec: Spec, data: ImageData, recipe: Recipe, report: Report
) -> Course:
    made: dict[str, Features] = {}
    for name in ("train", "val"):
        report(Event("features", text=f"of {len(data.splits[name])} {name} images, once: only the classifier trains"))
        made[name] = collect(frozen, in_order(data.splits[name], spec.preprocessing), recipe.precision)
    counts = {name: len(features.values) for name, features in made.items()}

    def batches(epoch: int, start: int, process: int, processes: int) -> Iterable[Any]:
        plan = order(counts["train"], recipe.batch_size, seed=recipe.seed, epoch=epoch, shuffle=True)
        return made["train"].batches(plan, start, process, processes)

    def validate(module: nn.Module) -> Mapping[str, float]:
        everything = order(counts["val"], 1024, seed=0, epoch=0, shuffle=False)
        with torch.no_grad():
            return {"accuracy": accuracy(module, made["val"].batches(everything)).accuracy}

    return Course(head, batches, validate)


def training_report(report: Report, stage: str = "training") -> Callable[[Progress], None]:
    """The engine's progress as events of the verb."""

    def tell(p: Progress) -> None:
        text = f"epoch {p.epoch}/{p.epochs}  loss {p.loss:.3f}  {p.images_per_second:.0f} images/s"
        report(Event(stage, p.update, p.updates, text))

    return tell
