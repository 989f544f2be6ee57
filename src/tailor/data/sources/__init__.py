"""Where data come from: one file a source, one row a form of DATA (matched in lower case; the first that fits wins)."""

from collections.abc import Callable

from tailor.data.records import ImageData
from tailor.data.sources import benchmarks, cifar100, digits, folder, hub, shapes, table

SOURCES: dict[str, Callable[[str, int], ImageData]] = {
    "builtin/digits": digits.load,
    "builtin/shapes-*": shapes.load,
    "vtab/*": benchmarks.load_vtab,
    "fgvc/*": benchmarks.load_fgvc,
    "hfds/*": hub.load,
    "cifar100@*": cifar100.load,
    "*.csv": table.load,
    "*": folder.load,
}
BUILTIN = ("builtin/digits", *(f"builtin/shapes-{kind}" for kind in shapes.TASKS))
