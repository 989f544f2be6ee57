"""What a head is for: one file and one row a task. Engine, criteria, pruners, bundles and verbs ask the row.

A task gives the head that a spec stores, how targets become a batch, the loss, the metrics and what is predicted. No
other file knows what a label is.
"""

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from tailor.dense import DECODERS
from tailor.dense.views import ONCE, Views
from tailor.errors import UsageError, nearest
from tailor.settings import Rows
from tailor.tasks.task import Head, Task

if TYPE_CHECKING:  # names of tasks are told before torch is loaded
    from torch import nn

    from tailor.preprocessing import Input

TASKS: Rows[type[Task]] = Rows(
    {
        "classification": "tailor.tasks.classification.Classification",
        "regression": "tailor.tasks.regression.Regression",
        "segmentation": "tailor.tasks.segmentation.Segmentation",
        "detection": "tailor.tasks.detection.Detection",
        "instances": "tailor.tasks.instances.InstanceSegmentation",
        "language": "tailor.tasks.language.Language",
    }
)
"""Every task by the name that `--task` knows."""


def task_of(head: Head) -> Task:
    """The task that a head is for."""
    return next(task for task in TASKS.values() if isinstance(head, task.head_type))()


def task_for(kind: str, named: str | None = None) -> Task:
    """The task `named`, or the usual one of data whose targets are of a kind: the first row that learns from them.

    UsageError for an unknown name, or where the task learns from other targets.
    """
    if named is None:
        return next(task for task in TASKS.values() if task.targets == kind)()
    check(named)
    return TASKS[named]()


def with_decoder(task: Task, name: str, settings: Mapping[str, Any]) -> Task:
    """The task with the decoder `name` (its own under no name), as `settings` of decoders by their names say.

    UsageError for a task that has none, for an unknown name or setting, or for a wrong value.
    """
    known = tuple(getattr(task, "decoders", ()))
    if not known:
        raise UsageError(f"{task.kind} has no decoder to choose", hint="leave `--decoder` out")
    for named in (name or known[0], *settings):
        if named not in known:
            raise UsageError(f"{task.kind} has no decoder `{named}`", hint=nearest(named, list(known)))
    kind = DECODERS[name or known[0]]
    given = settings.get(name or known[0]) or {}
    if not isinstance(given, Mapping):
        raise UsageError(f"the settings of `{name or known[0]}` are no section", hint="write `{NAME: VALUE}`")
    try:
        made = TypeAdapter(kind).validate_json(json.dumps(dict(given), default=str))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        hint = nearest(where, [field.name for field in fields(kind)])
        raise UsageError(f"`{where}` of the decoder `{name or known[0]}`: {first['msg'].lower()}", hint=hint) from None
    return replace(task, decoder=made)  # type: ignore[type-var]


def usual_recipe(chosen: Task | Head) -> Mapping[str, Any]:
    """What the decoder of a task or head is trained with, beyond the defaults, where nothing else is asked for."""
    return getattr(getattr(chosen, "decoder", None), "recipe", {})


def viewed(task: Task, model: "nn.Module", head: Head, pre: "Input", views: Views) -> "tuple[nn.Module, Input]":
    """The model as one that looks at an image as `views` says, and how images are read for it.

    UsageError for a task whose answers are no scores, of which there is a mean.
    """
    if views == ONCE:
        return model, pre
    several = getattr(task, "viewed", None)
    if several is None or pre.reads != "images":
        raise UsageError(f"{task.kind} looks at an image once", hint="leave `--scales`, `--flip` and `--windows` out")
    size = views.size(pre.size)
    return several(model, head, views, pre.size), replace(pre, size=size)  # type: ignore[arg-type]  # images, as seen


def check(named: str | None) -> None:
    """UsageError for a name that is no task's."""
    if named is not None and named not in TASKS:
        raise UsageError(f"`--task` knows no `{named}`", hint=nearest(named, [*TASKS]))


def task_of_kind(kind: str) -> Task:
    """The task whose heads are of that kind in JSON."""
    return next(task for task in TASKS.values() if getattr(task.head_type, "kind", "") == kind)()


__all__ = [
    "TASKS",
    "Head",
    "Task",
    "check",
    "task_for",
    "task_of",
    "task_of_kind",
    "usual_recipe",
    "viewed",
    "with_decoder",
]
