"""From (source, text) rows to an ImageData: which classes there are, their order, and the rules on them; or numbers.

Every source whose targets are a word an image ends here, so that a class missing from one split can never shift the
labels of another.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tailor.data.pixels import read_image
from tailor.data.records import ImageData, Opener, Record, Split
from tailor.errors import DataError, nearest

ORDER = ("train", "val", "test", "all")
SplitRows = Mapping[str, Sequence[tuple[str, str]]]


@dataclass(frozen=True)
class Listing:
    """What a source found: for each split the images, each with its text. `classes` where the source knows them."""

    name: str
    rows: SplitRows
    classes: Sequence[str] | None = None
    opener: Opener = read_image
    notes: Sequence[str] = ()

    def divided(self) -> SplitRows:
        """The rows of the splits that have images; DataError where there are none."""
        rows = {
            split: [(source, _utf8(text)) for source, text in self.rows[split]]
            for split in ORDER
            if self.rows.get(split)
        }
        if not rows:
            raise DataError(f"`{self.name}` has no images", hint="check the path")
        return rows


def _utf8(text: str) -> str:
    """The text, bytes of a folder's name that are no UTF-8 written out as `\\xe9`, so that it can be stored."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def by_class(listing: Listing) -> ImageData:
    """The data whose texts are names of classes; empty splits are dropped.

    The classes are those that the listing names (some may then have no image), else those found in train (else
    everywhere), numbers in numeric order. Raises DataError for a class that train lacks.
    """
    rows = listing.divided()
    known = tuple(listing.classes) if listing.classes is not None else _classes(rows)
    labels = {text: label for label, text in enumerate(known)}
    if len(labels) < len(known):
        twice = next(c for c in known if known.count(c) > 1)
        raise DataError(f"`{listing.name}` has two classes of one name: {twice}", hint="give every class its own name")
    splits = {split: Split(split, _records(split, found, labels), listing.opener) for split, found in rows.items()}
    main = next(iter(splits.values()))
    single = [known[i] for i, count in enumerate(main.counts(len(known))) if count == 1]
    alone = [f"in {main.name} one image is all there is of: {', '.join(single)}"] if single else []
    return ImageData(listing.name, known, splits, (*listing.notes, *alone))


def by_number(listing: Listing) -> ImageData:
    """The data whose texts are numbers; DataError for one that is none, or not finite."""
    splits = {}
    for split, found in listing.divided().items():
        records = tuple(Record(source, _number(source, text)) for source, text in found)
        splits[split] = Split(split, records, listing.opener)
    return ImageData(listing.name, (), splits, tuple(listing.notes), kind="numbers")


def _number(source: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"the target of `{source}` is not a number: {text}", hint="write for instance `3.5`")
    return value


def _classes(rows: SplitRows) -> tuple[str, ...]:
    """Train's class names (without a train split: all), sorted; numbers by value, so that 10 follows 9."""
    names = {text for split in (("train",) if "train" in rows else rows) for _, text in rows[split]}
    if all(text.isdecimal() for text in names):
        return tuple(sorted(names, key=lambda text: (int(text), text)))
    return tuple(sorted(names))


def _records(split: str, found: Sequence[tuple[str, str]], labels: Mapping[str, int]) -> tuple[Record, ...]:
    for source, text in found:
        if text not in labels:
            hint = nearest(text, tuple(labels))
            raise DataError(f"class `{text}` is in {split} but not in train: {source}", hint=hint)
    return tuple(Record(source, labels[text]) for source, text in found)
