"""What a data set is: records, splits, classes. Frozen and without pixels; an image is read when it is asked for.

Which files make a data set is decided in `sources`, how they are divided in `splits`, what they look like in `pixels`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from tailor.data.pixels import read_image
from tailor.data.targets import check_size
from tailor.errors import DataError

Opener = Callable[[str], Any]
"""From a source to an RGB image, or to a text's example."""


@dataclass(frozen=True)
class Record:
    """One sample: where it is (a file, or a name such as `builtin/digits#17`, as errors print it), and its target.

    A target is plain data: the index of a class, a number, or what the split's `annotate` makes a target of, such as
    the file of a mask or the boxes of a drawing.
    """

    source: str
    target: Any


def as_stored(record: Record) -> Any:
    """The target that the record holds: a class or a number."""
    return record.target


@dataclass(frozen=True)
class Split:
    """The records of `train`, `val`, `test` or, in a data set that is not divided, `all`.

    `opener` turns a record's source into an RGB image (or a text's example), `annotate` a record into its target; both
    must be picklable, since loader workers may call them. `memory` belongs to `loading`: decoded images live exactly as
    long as the split they came from. Where it is `tolerant`, a loader leaves unreadable images out and notes their
    sources in `left_out`.
    """

    name: str
    records: tuple[Record, ...]
    opener: Opener = field(default=read_image, compare=False)
    annotate: Callable[[Record], Any] = field(default=as_stored, compare=False)
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

    def target(self, index: int) -> Any:
        """The target of image number `index`, see `targets`; raises DataError where it cannot be read."""
        return self.annotate(self.records[index])

    def sample(self, index: int) -> tuple[Image.Image, Any]:
        """Image number `index` and its target; raises DataError also where masks or boxes are of another size."""
        image, target = self.read(index), self.target(index)
        check_size(target, (image.height, image.width), self.records[index].source)
        return image, target

    @property
    def labels(self) -> tuple[int, ...]:
        """The class of every record, in order; DataError where targets are no classes."""
        found = tuple(record.target for record in self.records)
        if not all(isinstance(target, int) for target in found):
            raise DataError(
                f"the targets of the {self.name} split are no classes", hint="name images with one class each"
            )
        return found

    def counts(self, classes: int) -> tuple[int, ...]:
        """Number of images of each of `classes` classes."""
        found = [0] * classes
        for label in self.labels:
            found[label] += 1
        return tuple(found)


@dataclass(frozen=True)
class ImageData:
    """A set of images with targets. `notes` says in plain sentences what was made or left out on the way.

    `kind` says what the targets are, by a name in `sources.KINDS`; `classes` are empty where they are numbers.
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    notes: tuple[str, ...] = ()
    kind: str = "classes"

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the first image; DataError where it cannot be read."""
        image = next(iter(self.splits.values())).read(0)
        return (image.height, image.width)
