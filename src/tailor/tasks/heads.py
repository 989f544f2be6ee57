"""Any task's head, for specs read from JSON."""

from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from tailor.tasks import TASKS
from tailor.tasks.task import Head

if TYPE_CHECKING:
    AnyHead = Head
else:
    AnyHead = Annotated[Union[tuple(task.head_type for task in TASKS.values())], Field(discriminator="kind")]  # noqa: UP007
    """One of the heads of `TASKS`."""
