"""How a data set is divided: validation made from train, the splits that training and evaluation use, class names."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tailor.data.records import ImageData, Split
from tailor.errors import DataError, nearest


def ensure_validation(data: ImageData, seed: int, fraction: float = 0.2) -> ImageData:
    """`data` with a `val` split: as it is where it has one, else `fraction` of each class of `train` (or of `all`).

    Every class keeps at least one training image; a class with two or more gives at least one to val. Where targets
    are no classes, the share is of all images.
    """
    if "val" in data.splits:
        return data
    source = data.splits.get("train") or data.splits.get("all")
    if source is None:
        raise DataError(f"`{data.name}` has no `train` split: {', '.join(data.splits)}", hint="add a `train` folder")
    if not 0 < fraction < 1:
        raise DataError(
            f"the share of images for validation lies between 0 and 1, not {fraction}", hint="write for instance 0.2"
        )
    classes = data.kind == "classes"
    chosen = _stratified(source.labels if classes else [0] * len(source), seed, fraction)
    if not chosen:
        what = f"no class of `{data.name}` has" if classes else f"`{data.name}` does not have"
        raise DataError(
            f"{what} a second image, so none can be kept for validation", hint="add images, or give a `val` split"
        )
    keep = [i for i in range(len(source)) if i not in chosen]
    train, val = _subset(source, "train", keep), _subset(source, "val", sorted(chosen))
    others = {name: split for name, split in data.splits.items() if name not in ("train", "all")}
    note = f"val made from {fraction * 100:g} % of {source.name}, {'stratified, ' if classes else ''}seed {seed}"
    return replace(data, splits={"train": train, "val": val, **others}, notes=(*data.notes, note))


def reporting(splits: dict[str, Split]) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Of data that come in train and val, val in the test split's place, under its own name, and a note that says so.

    What chooses the epoch is then made from train, so that what is reported has chosen nothing.
    """
    if "test" in splits or not {"train", "val"} <= splits.keys():
        return splits, ()
    note = "there is no test split: val is kept to report on, and a part of train selects"
    return {"train": splits["train"], "test": splits["val"]}, (note,)


def for_training(data: ImageData, seed: int) -> ImageData:
    """`data` with `train` and `val` (made where missing), ready to adapt to; where targets are classes, two or more."""
    source = data.splits.get("train") or data.splits.get("all")
    if source is None:
        raise DataError(f"`{data.name}` has no `train` split: {', '.join(data.splits)}", hint="add a `train` folder")
    if data.kind == "classes":
        _check_trainable(data, source)
    return ensure_validation(data, seed)


def for_evaluation(data: ImageData) -> Split:
    """The split to evaluate on: `test`, else all images, else `val`, else what there is; its `name` says which."""
    for name in ("test", "all", "val", "train"):
        if name in data.splits:
            return data.splits[name]
    raise DataError(f"`{data.name}` has no images", hint="name a folder of class folders with images")


def with_classes(data: ImageData, classes: Sequence[str]) -> ImageData:
    """`data` with its labels counted in `classes` (those of a bundle), matched by name.

    Masks and objects are numbered in their own files, so that their data must have the very same classes.
    """
    if data.kind != "classes":
        return _of_same_classes(data, tuple(classes))
    where = {name: label for label, name in enumerate(classes)}
    used = {label for split in data.splits.values() for label in split.labels}
    unknown = [data.classes[label] for label in sorted(used) if data.classes[label] not in where]
    if unknown:
        raise DataError(
            f"class `{unknown[0]}` of `{data.name}` is none of the model's {len(classes)} classes",
            hint=nearest(unknown[0], tuple(classes)),
        )
    splits = {
        name: replace(split, records=tuple(replace(r, target=where[data.classes[r.target]]) for r in split.records))
        for name, split in data.splits.items()
    }
    return replace(data, classes=tuple(classes), splits=splits)


def _of_same_classes(data: ImageData, classes: tuple[str, ...]) -> ImageData:
    if data.classes == classes:
        return data
    place = next((i for i, (ours, theirs) in enumerate(zip(data.classes, classes)) if ours != theirs), None)
    if place is None:
        raise DataError(
            f"`{data.name}` has {len(data.classes)} classes, the model {len(classes)}",
            hint="name data with the classes that the model was adapted to",
        )
    raise DataError(
        f"class {place} of `{data.name}` is `{data.classes[place]}`, the model's is `{classes[place]}`",
        hint="name data with the classes that the model was adapted to, in the same order",
    )


def _check_trainable(data: ImageData, train: Split) -> None:
    counts = train.counts(len(data.classes))
    present = [name for name, count in zip(data.classes, counts, strict=True) if count]
    if len(present) < 2:
        found = f"one class, `{present[0]}`" if present else "no image"
        raise DataError(f"`{data.name}` has {found}: a classifier needs two", hint="add a folder of images per class")


def _stratified(labels: Sequence[int], seed: int, fraction: float) -> set[int]:
    """Indices of `fraction` of each label, drawn by `seed`: at least one, and never the last of its label."""
    chosen: set[int] = set()
    array = np.asarray(labels, dtype=np.int64)
    for label in np.unique(array):
        members = np.flatnonzero(array == label)
        take = min(len(members) - 1, max(1, round(len(members) * fraction)))
        order = np.random.default_rng([seed, int(label)]).permutation(len(members))
        chosen.update(int(i) for i in members[order[:take]])
    return chosen


def _subset(split: Split, name: str, indices: Sequence[int]) -> Split:
    return replace(split, name=name, records=tuple(split.records[i] for i in indices))
