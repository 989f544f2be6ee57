"""The one entry to data: `open_data` parses what the user calls DATA and asks the row of its kind and its source.

The types are in `records`, the division in `splits`; both are offered here, so that callers import from one place.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from tailor.data.pixels import read_image
from tailor.data.recognise import recognise
from tailor.data.records import ImageData, Record, Split
from tailor.data.sources import BUILTIN, KINDS, PLACES, form, shapes_instances
from tailor.data.splits import ensure_validation, for_evaluation, for_training, with_classes
from tailor.errors import DataError, nearest

__all__ = [
    "ImageData",
    "Record",
    "Split",
    "ensure_validation",
    "for_evaluation",
    "for_training",
    "kind_of",
    "open_data",
    "read_image",
    "with_classes",
]

TASKS_OF = {"classes": "classification", "masks": "segmentation", "boxes": "detection", "instances": "detection"}
"""The task that data of each kind are usually for, where a folder's layout says it."""
LONGEST = 200
"""Characters of a name that an error shows."""


def open_data(
    where: str | Path, *, kind: str | None = None, seed: int = 0, classes: Sequence[str] | None = None
) -> ImageData:
    """The data set that `where` names: a folder, a CSV file, or a name such as `builtin/digits` or `vtab/dtd@ROOT`.

    `kind` says what its targets are, by a name in `KINDS`; without it that is recognised. No pixel is read. `seed`
    draws what the source itself divides or renders. With `classes` (those of a bundle) the labels are matched to them
    by name. Raises DataError where the data are missing, incomplete, of another kind or of two.
    """
    name = str(where).strip()
    if not name:
        raise DataError("the name of the data is empty", hint="give a folder, a CSV file or `builtin/digits`")
    if name.lower().startswith("builtin/") and name.lower() not in BUILTIN:
        raise DataError(f"there is no `{name}`", hint=nearest(name.lower(), BUILTIN))
    if kind is not None and classes is not None:
        _check_kind(name, kind)
    try:
        data = KINDS[kind_of(name) if kind is None else _known(kind)](name, seed)
    except OSError as error:  # a name too long, a folder without permission, a disk that fails
        where = f": {error.filename}" if error.filename and str(error.filename) != name else ""
        shown = name if len(name) < LONGEST else f"{name[:LONGEST]}..."
        raise DataError(
            f"`{shown}` cannot be read, {error.strerror}{where[:LONGEST]}", hint="check path and permissions"
        ) from None
    return data if classes is None else with_classes(data, classes)


def kind_of(where: str | Path) -> str:
    """What the targets of the data at `where` are, told by their layout; DataError where two kinds fit, or none."""
    name = str(where).strip()
    if form(name) not in PLACES:
        return "instances" if name.lower() == shapes_instances.NAME else "classes"
    layout = recognise(Path(name).expanduser())
    if layout.kind not in KINDS:
        raise DataError(
            f"`{name}` looks like {layout.task} ({layout.seen}), which is not supported yet",
            hint="name a folder of class folders",
        )
    return layout.kind


def _check_kind(name: str, kind: str) -> None:
    """DataError where a folder is plainly for another task than the model's; its folders would pass for classes."""
    folder = Path(name).expanduser()
    if kind not in TASKS_OF or form(name) not in PLACES or not os.path.isdir(folder):
        return
    try:
        layout = recognise(folder)
    except DataError:  # of several readings one may be right
        return
    if TASKS_OF.get(layout.kind, TASKS_OF[kind]) != TASKS_OF[kind]:
        raise DataError(
            f"`{name}` is data for {layout.task} ({layout.seen}), the model is for {TASKS_OF[kind]}",
            hint="name data like those that the model was adapted to",
        )


def _known(kind: str) -> str:
    if kind not in KINDS:
        raise DataError(f"data with `{kind}` as targets are not supported", hint=nearest(kind, tuple(KINDS)))
    return kind
