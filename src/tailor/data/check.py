"""What is wrong with a data set, found before it is trained on: unreadable, duplicate, tiny images, uneven classes.

Nothing is decided here: the caller raises, or goes on with `without_unreadable`.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tailor.data.records import ImageData, Split
from tailor.errors import DataError
from tailor.events import Progress

TINY = 32  # pixels of the shorter side
IMBALANCE = 10  # times as many images in the largest class as in the smallest
SHOWN = 5  # file names in one line for people


@dataclass(frozen=True)
class Unreadable:
    """An image that cannot be read, and why."""

    split: str
    source: str
    reason: str


@dataclass(frozen=True)
class Duplicate:
    """The same image several times, `bytes` where the files are equal, `pixels` where only the pictures are; `texts` is
    the same instruction, its answers in the place of classes."""

    same: Literal["bytes", "pixels", "texts"]
    sources: tuple[str, ...]
    splits: tuple[str, ...]
    classes: tuple[str, ...]

    @property
    def across(self) -> bool:
        """True where the image is in more than one split, so that a test on it proves nothing."""
        return len(set(self.splits)) > 1

    @property
    def conflicting(self) -> bool:
        """True where the image has more than one label."""
        return len(set(self.classes)) > 1


@dataclass(frozen=True)
class Tiny:
    """An image whose shorter side is below `TINY` pixels; `size` is (height, width)."""

    source: str
    size: tuple[int, int]


@dataclass(frozen=True)
class Imbalance:
    """The largest and the smallest class of a split that differ by more than `IMBALANCE` times."""

    split: str
    largest: str
    most: int
    smallest: str
    fewest: int


@dataclass(frozen=True)
class Report:
    """What `check` found. `images` counts them by split; without `deep` no picture was looked at."""

    name: str
    deep: bool
    images: dict[str, int]
    unreadable: tuple[Unreadable, ...] = ()
    duplicates: tuple[Duplicate, ...] = ()
    tiny: tuple[Tiny, ...] = ()
    imbalance: tuple[Imbalance, ...] = ()
    single: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    what: str = "images"

    @property
    def clean(self) -> bool:
        """True where nothing was found."""
        return not (self.unreadable or self.duplicates or self.tiny or self.imbalance or self.single or self.absent)

    def as_json(self) -> dict[str, Any]:
        """Plain values, with the two flags of every duplicate."""
        table = asdict(self)
        table["duplicates"] = [{**asdict(d), "across": d.across, "conflicting": d.conflicting} for d in self.duplicates]
        return table

    def lines(self) -> list[str]:
        """A line a finding, worst first, with file names; one line that says so where there is none."""
        found = [
            *_line("unreadable", [f"{u.source} ({u.reason})" for u in self.unreadable]),
            *_line("in more than one split", _names(d for d in self.duplicates if d.across)),
            *_line("with more than one label", _names(d for d in self.duplicates if d.conflicting)),
            *_line(
                "several times in one split",
                _names(d for d in self.duplicates if not d.across and not d.conflicting),
            ),
            *_line(f"smaller than {TINY} pixels", [f"{t.source} ({t.size[1]}x{t.size[0]})" for t in self.tiny]),
            *(
                f"uneven classes in {i.split}: {i.most} images of `{i.largest}`, {i.fewest} of `{i.smallest}`"
                for i in self.imbalance
            ),
            *_line("classes with one image", list(self.single)),
            *_line("classes without an image to train on", list(self.absent)),
        ]
        return found or [f"{sum(self.images.values())} {self.what}, nothing to remark"]


def check(data: ImageData, *, deep: bool = True, progress: Progress | None = None) -> Report:
    """Everything worth knowing before training on `data`.

    `deep` decodes every image once (and calls `progress(done, total)`); without it only files are looked for and
    classes counted.
    """
    images = {name: len(split) for name, split in data.splits.items()}
    texts = data.kind == "texts"
    seen = _Seen(deep, data.classes if data.kind == "classes" else ())
    look = seen.look_text if texts else seen.look
    total, done = sum(images.values()), 0
    for split in data.splits.values():
        for index in range(len(split)):
            look(split, index)
            done += 1
            if progress:
                progress(done, total)
    counts = _counts(data)
    return Report(
        name=data.name,
        deep=deep,
        images=images,
        unreadable=tuple(seen.unreadable),
        duplicates=seen.duplicates(),
        tiny=tuple(seen.tiny),
        imbalance=_imbalance(data),
        single=tuple(name for name, count in zip(data.classes, counts) if count == 1),
        absent=_absent(data),
        what="examples" if texts else "images",
    )


def without_unreadable(data: ImageData, report: Report) -> ImageData:
    """`data` without the images that `report` found unreadable; raises DataError where a whole split is gone."""
    bad = {(found.split, found.source) for found in report.unreadable}
    if not bad:
        return data
    splits = {}
    for name, split in data.splits.items():
        kept = tuple(record for record in split.records if (name, record.source) not in bad)
        if not kept:
            first = next(u for u in report.unreadable if u.split == name)
            raise DataError(
                f"none of the {len(split)} images of {name} in `{data.name}` can be read: {first.source}",
                hint=f"the first one: {first.reason}",
            )
        splits[name] = split if len(kept) == len(split) else replace(split, records=kept)
    notes = _line("unreadable and left out", [u.source for u in report.unreadable])
    before, after = _absent(data), _absent(replace(data, splits=splits))
    notes += _line("classes without a readable image to train on", [name for name in after if name not in before])
    return replace(data, splits=splits, notes=(*data.notes, *notes))


class _Seen:
    """What has been found so far, image by image."""

    def __init__(self, deep: bool, classes: tuple[str, ...]) -> None:
        self.deep = deep
        self.classes = classes
        self.unreadable: list[Unreadable] = []
        self.tiny: list[Tiny] = []
        self.places: dict[bytes, list[tuple[str, str, str, bytes]]] = {}  # pixels -> (source, split, class, file)

    def look(self, split: Split, index: int) -> None:
        record = split.records[index]
        path = Path(record.source)
        try:
            if not self.deep:
                _stat(path, record.source)
                return
            image, _ = split.sample(index)
        except DataError as error:
            # The reason stands beside the source, so it need not name it again.
            reason = error.message.replace(f"`{record.source}` ", "", 1)
            self.unreadable.append(Unreadable(split.name, record.source, reason))
            return
        if min(image.size) < TINY:
            self.tiny.append(Tiny(record.source, (image.height, image.width)))
        pixels = hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()
        file = _digest(path) if path.is_file() else pixels
        named = self.classes[record.target] if self.classes else ""
        self.places.setdefault(pixels, []).append((record.source, split.name, named, file))

    def look_text(self, split: Split, index: int) -> None:
        """An example, read already: the same instruction twice is worth knowing, above all with two answers."""
        record = split.records[index]
        asked = hashlib.sha256(record.target.prompt.encode()).digest()
        self.places.setdefault(asked, []).append((record.source, split.name, record.target.output, b""))

    def duplicates(self) -> tuple[Duplicate, ...]:
        found = []
        for places in self.places.values():
            if len(places) > 1:
                sources, splits, classes, files = zip(*places)
                same: Literal["bytes", "pixels", "texts"] = "bytes" if len(set(files)) == 1 else "pixels"
                if not files[0]:
                    same = "texts"
                found.append(Duplicate(same, sources, splits, classes))
        return tuple(found)


def _digest(path: Path) -> bytes:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").digest()


_LEAVE = "put the file there again, or leave it out with `--corrupt skip`"


def _stat(path: Path, source: str) -> None:
    """The quick look at a file; `FILE#n` and generated images have none of their own."""
    if "#" in source and not path.exists():
        return
    if not path.is_file():
        raise DataError(f"`{source}` cannot be opened: no such file", hint=_LEAVE)
    if path.stat().st_size == 0:
        raise DataError(f"`{source}` is empty (0 bytes)", hint=_LEAVE)


def _main(data: ImageData) -> Split | None:
    """The split to train on."""
    return data.splits.get("train") or data.splits.get("all")


def _counts(data: ImageData) -> tuple[int, ...]:
    """Images to train on of each class; nothing where targets are no classes."""
    main = _main(data)
    return main.counts(len(data.classes)) if main and data.kind == "classes" else ()


def _absent(data: ImageData) -> tuple[str, ...]:
    return tuple(name for name, count in zip(data.classes, _counts(data)) if count == 0)


def _imbalance(data: ImageData) -> tuple[Imbalance, ...]:
    """Of the split to train on; classes without an image there are reported as such."""
    main = _main(data)
    counts = [(count, name) for count, name in zip(_counts(data), data.classes) if count]
    if main is None or not counts:
        return ()
    (most, largest), (fewest, smallest) = max(counts), min(counts)
    if most <= IMBALANCE * fewest:
        return ()
    return (Imbalance(main.name, largest, most, smallest, fewest),)


def _names(duplicates: Iterable[Duplicate]) -> list[str]:
    return [" = ".join(d.sources[:SHOWN]) + _others(len(d.sources)) for d in duplicates]


def _others(count: int) -> str:
    return f" and {count - SHOWN} more" if count > SHOWN else ""


def _line(what: str, names: list[str]) -> list[str]:
    return [f"{what} ({len(names)}): {_some(names)}"] if names else []


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + _others(len(names))
