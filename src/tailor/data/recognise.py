"""What a folder or file holds, told by its layout: class folders, label maps, boxes, outlined objects, instructions.

No picture is opened and few files are looked into. Where two layouts fit, that is an error that names both. Numbers
look like classes (a CSV, folders called `3` and `7`), so they are for the user to ask for.
"""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tailor.data.pixels import SUFFIXES
from tailor.data.sources.folder import SPLIT_NAMES
from tailor.errors import DataError

_LOOKED = 2000  # names read of a folder
_HEAD = 1 << 16  # bytes of a text file
_CHUNK = 1 << 20
_MOST_JSON = 40  # files
_MAPS = ("labels", "masks", "annotations")
_OTHERS = (("jpegimages", "segmentationclass"), ("leftimg8bit", "gtfine"))
_OUTLINE = re.compile(rb'"segmentation"\s*:\s*(\[\s*[\[\d]|\{\s*")')
_SPLITS = re.compile(r"(train|val|valid|validation|test)[_-]?\d*")


@dataclass(frozen=True)
class DataLayout:
    """A way of laying out data that was recognised: the kind of target, its usual task, and by what it was told.

    `folders` are the names (lower case) that belong to it, so that no class is called so.
    """

    kind: str
    task: str
    seen: str
    folders: frozenset[str] = frozenset()


def recognise(where: Path) -> DataLayout:
    """The layout of the data at `where`; class folders where no other is seen. DataError where two fit."""
    found = [layout for find in FINDERS if (layout := find(where)) is not None]
    if not found or _class_folders(where, found):
        found.append(DataLayout("classes", "classification", "folders of images"))
    if len(found) > 1:
        one, two = found[:2]
        raise DataError(
            f"`{where}` may be for {one.task} ({one.seen}) or for {two.task} ({two.seen})",
            hint=f"say which: `--task {one.task}` or `--task {two.task}`",
        )
    return found[0]


def _maps(where: Path) -> DataLayout | None:
    """Images beside maps of classes, in one folder or in one a split; VOC's folder of them."""
    for place in _places(where):
        names = _folders(place)
        for images, maps in (*(("images", name) for name in _MAPS), *_OTHERS):
            if images in names and maps in names and _holds(names[maps], SUFFIXES):
                seen = f"`{names[images].name}` beside `{names[maps].name}`"
                return DataLayout(
                    "masks", "segmentation", seen, frozenset((images, *_MAPS, maps, "segmentationobject"))
                )
    return None


def _voc(where: Path) -> DataLayout | None:
    """VOC's drawings, an XML file an image."""
    for place in _places(where):
        names = _folders(place)
        if "annotations" in names and _holds(names["annotations"], (".xml",)):
            mine = frozenset(("annotations", "imagesets", "jpegimages", "images", "segmentationclass"))
            return DataLayout(
                "boxes", "detection", f"`{names['annotations'].name}/*.xml`", mine | {"segmentationobject"}
            )
    return None


def _yolo(where: Path) -> DataLayout | None:
    """Boxes as text, which are refused by name."""
    for place in _places(where):
        names = _folders(place)
        beside = names["labels"] if names.keys() >= {"images", "labels"} else None
        if beside and _holds(beside, (".txt",)) and not _holds(beside, SUFFIXES):
            raise DataError(
                f"`{where}` holds YOLO boxes (`labels/*.txt`), which are not read",
                hint="convert them to one COCO file, `annotations/train.json`",
            )
    return None


def _coco(where: Path) -> DataLayout | None:
    """A COCO file beside the images or in `annotations`: with outlines of objects, or with boxes alone."""
    boxes = None
    for file in _json_files(where):
        kind = _coco_kind(file)
        if kind == "instances":
            return DataLayout("instances", "instances", f"outlines in `{file.name}`", frozenset(_near(where)))
        if kind == "boxes" and boxes is None:
            boxes = DataLayout("boxes", "detection", f"boxes in `{file.name}`", frozenset(_near(where)))
    return boxes


def _instructions(where: Path) -> DataLayout | None:
    """JSON or JSON lines with `instruction` and `output`; lines that are named can be nothing else."""
    if where.is_file() and where.suffix.lower() == ".jsonl":
        return DataLayout("texts", "language", f"lines of JSON in `{where.name}`")
    for file in _json_files(where):
        with file.open("rb") as handle:
            head = handle.read(_HEAD)
        if b'"instruction"' in head and b'"output"' in head:
            return DataLayout("texts", "language", f"`instruction` and `output` in `{file.name}`")
    return None


FINDERS: tuple[Callable[[Path], DataLayout | None], ...] = (_yolo, _maps, _voc, _coco, _instructions)


def _class_folders(where: Path, found: list[DataLayout]) -> bool:
    """Whether two folders of images or more belong to none of the layouts found."""
    taken = frozenset().union(*(layout.folders for layout in found))
    for place in _places(where):
        free = [f for name, f in _folders(place).items() if name not in taken and name not in SPLIT_NAMES]
        if sum(_holds(folder, SUFFIXES) for folder in free[:_LOOKED]) > 1:
            return True
    return False


def _near(where: Path) -> Iterator[str]:
    """The folders in which a COCO file's images lie, by their usual names."""
    for place in _places(where):
        yield from (name for name in _folders(place) if name in ("images", "jpegimages") or _SPLITS.fullmatch(name))


def _coco_kind(file: Path) -> str | None:
    """`instances`, `boxes` or None: read in pieces, since such files may be large."""
    seen, outlined, tail = set(), False, b""
    with file.open("rb") as handle:
        while piece := handle.read(_CHUNK):
            text = tail + piece
            seen |= {key for key in (b'"images"', b'"annotations"', b'"bbox"') if key in text}
            outlined = outlined or _OUTLINE.search(text) is not None
            if outlined and len(seen) == 3:
                return "instances"
            tail = text[-64:]
    return "boxes" if len(seen) == 3 else None


def _json_files(where: Path) -> list[Path]:
    """JSON files that may describe the data: the one named, or those in a folder, its `annotations` and its splits."""
    if where.is_file():
        return [where] if where.suffix.lower() in (".json", ".jsonl") else []
    found: list[Path] = []
    for place in _places(where):
        for folder in (place, *(f for name, f in _folders(place).items() if name == "annotations")):
            entries = (e for e in _entries(folder) if e.name.lower().endswith((".json", ".jsonl")) and e.is_file())
            found += sorted(Path(entry.path) for entry in entries)
    return found[:_MOST_JSON]


def _places(where: Path) -> list[Path]:
    """The folder and those of its splits."""
    return [where, *(f for name, f in _folders(where).items() if name in SPLIT_NAMES)] if where.is_dir() else []


def _folders(place: Path) -> dict[str, Path]:
    """Folders by their names in lower case."""
    return {e.name.lower(): Path(e.path) for e in _entries(place) if not e.name.startswith(".") and e.is_dir()}


def _holds(folder: Path, suffixes: tuple[str, ...], depth: int = 2) -> bool:
    """Whether a file that ends so lies in the folder, at most `depth` folders down."""
    below = []
    for entry in _entries(folder):
        if entry.name.startswith("."):
            continue
        if entry.name.lower().endswith(suffixes) and entry.is_file():
            return True
        if depth and entry.is_dir():
            below.append(Path(entry.path))
    return any(_holds(inner, suffixes, depth - 1) for inner in below)


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    """The first names of a folder, in order; none where it cannot be read."""
    try:
        with os.scandir(folder) as found:
            return sorted((entry for entry, _ in zip(found, range(_LOOKED))), key=lambda entry: entry.name)
    except OSError:
        return []
