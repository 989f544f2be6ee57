"""Where data come from: one file a source, one row each. Patterns are matched against DATA in lower case; first wins."""

from collections.abc import Callable

from tailor.data.records import ImageData
from tailor.data.sources import folder

SOURCES: dict[str, Callable[[str, int], ImageData]] = {
    "*": folder.load,
}
