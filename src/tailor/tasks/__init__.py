"""What a head is for: one file and one row a task. Engine, criteria, pruners, bundles and verbs ask the row.

A task gives the head that a spec stores, how targets become a batch, the loss, the metrics and what is predicted. No
other file knows what a label is.
"""

from tailor.errors import UsageError, nearest
from tailor.settings import Rows
from tailor.tasks.task import Head, Task

TASKS: Rows[type[Task]] = Rows(
    {
        "classification": "tailor.tasks.classification.Classification",
        "regression": "tailor.tasks.regression.Regression",
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


def check(named: str | None) -> None:
    """UsageError for a name that is no task's."""
    if named is not None and named not in TASKS:
        raise UsageError(f"task `{named}` is not supported", hint=nearest(named, [*TASKS]))


def task_of_kind(kind: str) -> Task:
    """The task whose heads are of that kind in JSON."""
    return next(task for task in TASKS.values() if getattr(task.head_type, "kind", "") == kind)()


__all__ = ["TASKS", "Head", "Task", "check", "task_for", "task_of", "task_of_kind"]
