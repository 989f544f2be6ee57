"""What a data set is: records, splits, classes. Frozen and without pixels; an image is read when it is asked for.

Which files make a data set is decided in `sources`, how they are divided in `splits`, what they look like in `pixels`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from tailor.data.pixels import read_image

Opener = Callable[[str], Image.Image]


@dataclass(frozen=True)
class Record:
    """One image: its label, and where it is: a file, or a name such as `builtin/digits#17`, as errors print it."""

    source: str
    label: int


@dataclass(frozen=True)
class Split:
    """The records of `train`, `val`, `test` or, in a data set that is not divided, `all`.

    `opener` turns a record's source into an RGB image; it must be picklable, since loader workers may call it.
    `memory` belongs to `loading`: decoded images live exactly as long as the split they came from. Where it is
    `tolerant`, a loader leaves unreadable images out and notes their sources in `left_out`.
    """

    name: str
    records: tuple[Record, ...]
    opener: Opener = field(default=read_image, compare=False)
    tolerant: bool = field(default=False, compare=False)
    memory: dict[Any, Any] = field(default_factory=dict, init=False, compare=False, repr=False)
    left_out: dict[str, str] = field(default_factory=dict, init=False, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.records)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "memory": {}}

    def read(self, index: int) -> Image.Image:
        """Image number `index`, 8-bit RGB; raises DataError naming the source where it cannot be read."""
        return self.opener(self.records[index].source)

    @property
    def labels(self) -> tuple[int, ...]:
        """The label of every record, in order."""
        return tuple(record.label for record in self.records)

    def counts(self, classes: int) -> tuple[int, ...]:
        """Number of images of each of `classes` classes."""
        found = [0] * classes
        for record in self.records:
            found[record.label] += 1
        return tuple(found)


@dataclass(frozen=True)
class ImageData:
    """A labelled set of images. `notes` says in plain sentences what was made or left out on the way."""

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    notes: tuple[str, ...] = ()
    task: str = "classification"
