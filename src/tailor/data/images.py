"""The one entry to image data: `open_data` parses what the user calls DATA and asks the matching row of `SOURCES`.

The types are in `records`, the division in `splits`; both are offered here, so that callers import from one place.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from tailor.data.pixels import read_image
from tailor.data.records import ImageData, Record, Split
from tailor.data.sources import BUILTIN, SOURCES
from tailor.data.splits import ensure_validation, for_evaluation, for_training, with_classes
from tailor.errors import DataError, nearest

__all__ = [
    "ImageData",
    "Record",
    "Split",
    "ensure_validation",
    "for_evaluation",
    "for_training",
    "open_data",
    "read_image",
    "with_classes",
]

TASKS = ("classification",)


def open_data(
    where: str | Path, *, task: str | None = None, seed: int = 0, classes: Sequence[str] | None = None
) -> ImageData:
    """The data set that `where` names: a folder, a CSV file, or a name such as `builtin/digits` or `vtab/dtd@ROOT`.

    No pixel is read. `seed` draws what the source itself divides or renders. With `classes` (those of a bundle) the
    labels are matched to them by name. Raises DataError where the data are missing, incomplete or of another kind.
    """
    if task is not None and task not in TASKS:
        raise DataError(f"task `{task}` is not supported: {', '.join(TASKS)} is", hint=nearest(task, TASKS))
    name = str(where).strip()
    if not name:
        raise DataError("the name of the data is empty", hint="give a folder, a CSV file or `builtin/digits`")
    if name.lower().startswith("builtin/") and name.lower() not in BUILTIN:
        raise DataError(f"there is no `{name}`", hint=nearest(name.lower(), BUILTIN))
    load = next(load for pattern, load in SOURCES.items() if fnmatchcase(name.lower(), pattern))
    data = load(name, seed)
    return data if classes is None else with_classes(data, classes)
