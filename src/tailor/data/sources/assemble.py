"""From (source, class name) rows to an ImageData: which classes there are, their order, and the rules on them.

Every source ends here, so that a class missing from one split can never shift the labels of another.
"""

from collections.abc import Mapping, Sequence

from tailor.data.pixels import read_image
from tailor.data.records import ImageData, Opener, Record, Split
from tailor.errors import DataError, nearest

ORDER = ("train", "val", "test", "all")
Rows = Mapping[str, Sequence[tuple[str, str]]]


def assemble(
    name: str,
    rows: Rows,
    *,
    classes: Sequence[str] | None = None,
    opener: Opener = read_image,
    notes: Sequence[str] = (),
) -> ImageData:
    """The data set of `rows`, by split; empty splits are dropped.

    The classes are `classes` where the source knows them (some may then have no image), else those found in train
    (else everywhere), numbers in numeric order. Raises DataError for fewer than two, and for one that train lacks.
    """
    rows = {split: rows[split] for split in ORDER if rows.get(split)}
    if not rows:
        raise DataError(f"`{name}` has no images", hint="check the path")
    known = tuple(classes) if classes is not None else _classes(rows)
    if len(known) < 2:
        raise DataError(
            f"`{name}` has one class, `{known[0]}`: a classifier needs two", hint="add images of another class"
        )
    labels = {text: label for label, text in enumerate(known)}
    if len(labels) < len(known):
        twice = next(c for c in known if known.count(c) > 1)
        raise DataError(f"`{name}` has two classes of one name: {twice}", hint="give every class a name of its own")
    splits = {split: Split(split, _records(split, found, labels), opener) for split, found in rows.items()}
    main = next(iter(splits.values()))
    single = [known[i] for i, count in enumerate(main.counts(len(known))) if count == 1]
    alone = [f"in {main.name} one image is all there is of: {', '.join(single)}"] if single else []
    return ImageData(name, known, splits, (*notes, *alone))


def _classes(rows: Rows) -> tuple[str, ...]:
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
