"""What the engine is given: batches of images, or, where only the head trains, features computed once per image."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from tailor.data.loading import batches as order
from tailor.data.loading import loader
from tailor.data.targets import Collate
from tailor.data.transforms import train_transform
from tailor.errors import UsageError
from tailor.events import Event, Tell
from tailor.spec import Spec
from tailor.surgery import trainable
from tailor.tasks import Task, task_of
from tailor.training import (
    BatchLike,
    Features,
    Recipe,
    Result,
    Step,
    TrainingProgress,
    collect,
    evaluate,
    fit,
    head_only,
)
from tailor.training.engine import MakeBatches
from tailor.workflow.context import Run
from tailor.workflow.data import in_order, score


@dataclass(frozen=True)
class Course:
    """The module to train, its batches by (epoch, start, process, processes), and how to validate it."""

    module: nn.Module
    batches: MakeBatches
    validate: Callable[[nn.Module], Mapping[str, float]]


def course(model: nn.Module, head: str, spec: Spec, run: Run) -> Course:
    """The cheapest course that trains exactly the same: on features where `model` is frozen in front of `head`.

    Not so where the model is taught: a teacher has to see the images.
    """
    plain = run.teacher is None and still(run.recipe) and bool(head)
    if plain and all(name.startswith(head + ".") for name in trainable(model)):
        first = next(iter(in_order(run.images.splits["val"], spec.preprocessing, spec.head, batch_size=2)))
        parts = head_only(model, head, first.images)
        if parts is not None:
            return _on_features(*parts, spec, run)
    return on_images(model, spec, run)


def still(recipe: Recipe) -> bool:
    """Whether an image looks the same in every epoch."""
    return recipe.augment == "none" and unmixed(recipe)


def unmixed(recipe: Recipe) -> bool:
    """Whether a batch consists of its images, each once."""
    return recipe.repeats == 1 and not recipe.mixup and not recipe.cutmix


def on_images(model: nn.Module, spec: Spec, run: Run) -> Course:
    """The ordinary course: every image through the whole model in every epoch."""
    recipe, task = run.recipe, task_of(spec.head)
    transform = train_transform(spec.preprocessing, recipe.augment)

    def batches(epoch: int, start: int, process: int, processes: int) -> Iterable[BatchLike]:
        return loader(
            run.images.splits["train"],
            transform,
            batch_size=recipe.batch_size,
            seed=recipe.seed,
            epoch=epoch,
            shuffle=True,
            start=start,
            rank=process,
            world=processes,
            workers=run.workers,
            repeats=recipe.repeats,
            collate=_collate(task, recipe),
        )

    def validate(module: nn.Module) -> Mapping[str, float]:
        return leading(task, score(module, spec.head, run.images.splits["val"], spec.preprocessing))

    return Course(model, batches, validate)


def _collate(task: Task, recipe: Recipe) -> Collate:
    """The task's, or one that joins texts into rows of at most `longest` tokens; UsageError where there are none."""
    if not recipe.packing:
        return task.collate
    if not hasattr(task, "pack"):
        raise UsageError(f"{task.kind} has nothing to pack", hint="leave `packing` out of the recipe")
    return partial(task.pack, longest=recipe.longest)


def leading(task: Task, figures: Mapping[str, Any]) -> dict[str, float]:
    """The task's figures that are single numbers, the one that chooses the epoch first."""
    single = {name: float(value) for name, value in figures.items() if isinstance(value, float)}
    return {task.metric: single.pop(task.metric), **single}


def _on_features(frozen: nn.Module, head: nn.Module, spec: Spec, run: Run) -> Course:
    made: dict[str, Features] = {}
    task, recipe = task_of(spec.head), run.recipe
    for name in ("train", "val"):
        split = run.images.splits[name]
        run.tell(Event("features", text=f"of {len(split)} {name} images, once: only the head trains"))
        made[name] = collect(frozen, in_order(split, spec.preprocessing, spec.head), recipe.precision)
    counts = {name: len(features.values) for name, features in made.items()}

    def batches(epoch: int, start: int, process: int, processes: int) -> Iterable[Any]:
        plan = order(counts["train"], recipe.batch_size, seed=recipe.seed, epoch=epoch, shuffle=True)
        return made["train"].batches(plan, start, process, processes)

    def validate(module: nn.Module) -> Mapping[str, float]:
        everything = order(counts["val"], 1024, seed=0, epoch=0, shuffle=False)
        return leading(task, evaluate(module, made["val"].batches(everything), task, spec.head))

    return Course(head, batches, validate)


def train_(
    course: Course,
    run: Run,
    task: Task,
    *,
    step: Step | None = None,
    stage: str = "training",
    heard: Sequence[Any] = (),
    **more: Any,
) -> Result:
    """Train the course's module as the recipe says. `heard` are trackers; `more` goes to the engine."""
    return fit(
        course.module,
        run.recipe,
        task,
        batches=course.batches,
        steps_per_epoch=math.ceil(len(run.images.splits["train"]) / run.recipe.batch_size),
        run=run.folder,
        step=step,
        resume=run.resume,
        report=training_report(run.tell, task.metric, stage, heard),
        **more,
    )


def training_report(
    tell: Tell, metric: str, stage: str = "training", heard: Sequence[Any] = ()
) -> Callable[[TrainingProgress], None]:
    """The engine's progress as events, and to trackers: the loss, what the last validation found, the best of all."""

    def hear(p: TrainingProgress) -> None:
        text = f"epoch {p.epoch}/{p.epochs}  loss {p.loss:.3f}"
        if p.value is not None and p.best is not None:
            text += f"  val {metric} {p.value:.3f}, best {p.best:.3f}"
        for tracker in heard:
            found = {"loss": p.loss, "lr": p.lr} | ({} if p.value is None else {f"val_{metric}": p.value})
            tracker.log(found, step=p.update)
        tell(Event(stage, p.update, p.updates, f"{text}  {p.images_per_second:.0f} images/s"))

    return hear
