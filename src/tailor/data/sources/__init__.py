"""Where data come from: one file a source.

A row of `SOURCES` is a form of DATA with a word an image (matched in lower case; the first that fits wins), a row of
`KINDS` a kind of target.
"""

from collections.abc import Callable
from fnmatch import fnmatchcase

from tailor.data.records import ImageData
from tailor.data.sources import (
    benchmarks,
    boxes,
    cifar100,
    coco,
    digits,
    folder,
    hub,
    instructions,
    label_maps,
    shapes,
    shapes_instances,
    table,
)
from tailor.data.sources.assemble import Listing, by_class, by_number

SOURCES: dict[str, Callable[[str, int], Listing]] = {
    "builtin/digits": digits.load,
    "builtin/shapes-*": shapes.load,
    "vtab/*": benchmarks.load_vtab,
    "fgvc/*": benchmarks.load_fgvc,
    "hfds/*": hub.load,
    "cifar100@*": cifar100.load,
    "*.csv": table.load,
    "*": folder.load,
}
BUILTIN = ("builtin/digits", *(f"builtin/shapes-{kind}" for kind in shapes.TASKS), shapes_instances.NAME)
PLACES = ("*.csv", "*")
"""The rows that are files and folders of the user's; the others are names."""


def form(where: str) -> str:
    """The row of `SOURCES` for a DATA."""
    return next(pattern for pattern in SOURCES if fnmatchcase(where.lower(), pattern))


def _listing(where: str, seed: int) -> Listing:
    return SOURCES[form(where)](where, seed)


def _instances(where: str, seed: int) -> ImageData:
    named = where.lower() == shapes_instances.NAME
    return shapes_instances.load(where, seed) if named else coco.load_instances(where, seed)


KINDS: dict[str, Callable[[str, int], ImageData]] = {
    "classes": lambda where, seed: by_class(_listing(where, seed)),
    "numbers": lambda where, seed: by_number(_listing(where, seed)),
    "masks": label_maps.load,
    "boxes": boxes.load,
    "instances": _instances,
    "texts": instructions.load,
}
"""How data are opened whose targets are of a kind, by (DATA, seed)."""
