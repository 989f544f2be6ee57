"""Boxes and outlines in COCO's layout: one JSON file a split, beside the images or in `annotations`.

Category numbers may have gaps; the classes are in the order of their numbers. Crowds are left out: they are no single
object. Without a test split the given val is kept to report on.
"""

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from tailor.data.pixels import MOST_SIDE
from tailor.data.records import ImageData, Record, Split
from tailor.data.sources.drawn import Drawing, boxes, drawing, instances
from tailor.data.sources.folder import SPLIT_NAMES, check_exists
from tailor.data.splits import reporting
from tailor.errors import DataError

LAYOUT = "expected `annotations/train.json` in COCO's format, and images in `train` or `images`"
_SPLIT = re.compile(r"(train|training|val|valid|validation|test)(?![a-z])")
_PARTS = ("images", "annotations", "categories")
LARGEST = 1 << 30
"""Bytes of a JSON file that is read."""


def load_boxes(where: str, seed: int) -> ImageData:
    """Images with boxes."""
    return _load(where, outlined=False)


def load_instances(where: str, seed: int) -> ImageData:
    """Images with outlined objects."""
    return _load(where, outlined=True)


def _load(where: str, outlined: bool) -> ImageData:
    root = Path(where).expanduser()
    check_exists(root)
    files = _files(root)
    if not files:
        raise DataError(f"there is no COCO file below `{root}`", hint=LAYOUT)
    read = {split: _read(file) for split, file in files.items()}
    first = next(iter(read))
    names = _categories(read[first], files[first])
    for split, values in read.items():
        if _categories(values, files[split]) != names:
            raise DataError(
                f"`{files[split].name}` has other categories than `{files[first].name}`",
                hint="export both from one set",
            )
    folder = root if root.is_dir() else root.parent
    place = {number: index for index, number in enumerate(sorted(names))}
    notes: list[str] = []
    records = {
        split: _records(values, files[split], folder, split, place, outlined, notes) for split, values in read.items()
    }
    annotate = instances if outlined else boxes
    order = [split for split in ("train", "val", "test", "all") if records.get(split)]
    splits = {split: Split(split, records[split], annotate=annotate) for split in order}
    if not splits:
        raise DataError(f"the COCO files below `{root}` name no image that is there", hint=LAYOUT)
    classes = tuple(names[number] for number in sorted(names))
    splits, more = reporting(splits)
    return ImageData(str(root), classes, splits, (*notes, *more), kind="instances" if outlined else "boxes")


def _files(root: Path) -> dict[str, Path]:
    """A file a split: the one named, or those in the folder, in `annotations` and in folders of splits."""
    if root.is_file():
        return {"all": root}
    names = {p.name.lower(): p for p in sorted(root.iterdir()) if p.is_dir()}
    inside = [names["annotations"]] if "annotations" in names else []
    found: dict[str, Path] = {}
    for file in [f for folder in (root, *inside) for f in sorted(folder.glob("*.json"))]:
        word = _SPLIT.search(file.stem.lower())
        if any(other in file.stem.lower() for other in ("caption", "keypoint", "stuff", "panoptic")):
            continue
        found.setdefault(SPLIT_NAMES[word[1]] if word else "all", file)
    for name, folder in names.items():
        if name in SPLIT_NAMES:
            for file in sorted(folder.glob("*.json"))[:1]:
                found.setdefault(SPLIT_NAMES[name], file)
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > LARGEST:
            raise ValueError("it is too large")
        values = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or not all(
            isinstance(values.get(k), list) and all(isinstance(one, dict) for one in values[k]) for k in _PARTS
        ):
            raise ValueError("`images`, `annotations` or `categories` is missing, or no list of objects")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"`{file}` is no COCO file: {error}", hint=LAYOUT) from None
    return values


def _categories(values: dict[str, Any], file: Path) -> dict[int, str]:
    try:
        found = {int(one["id"]): str(one["name"]) for one in values["categories"]}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"a category of `{file}` has no `id` or `name`: {error}", hint=LAYOUT) from None
    if len(set(found.values())) < len(values["categories"]) or not found:
        raise DataError(f"`{file}` has no categories, or two of one name or number", hint="give each its own")
    return found


def _records(
    values: dict[str, Any],
    file: Path,
    folder: Path,
    split: str,
    place: dict[int, int],
    outlined: bool,
    notes: list[str],
) -> tuple[Record, ...]:
    of: dict[Any, list[Any]] = defaultdict(list)
    crowds = 0
    for one in values["annotations"]:
        crowds += bool(one.get("iscrowd"))
        if not one.get("iscrowd"):
            of[str(one.get("image_id"))].append(one)
    records, missing, lost = [], [], 0
    places = _places(folder, split)
    for image in values["images"]:
        path = _image(image, file, places)
        if path is None:
            missing.append(str(image.get("file_name")))
            continue
        drawn = _drawing(image, of[str(image.get("id"))], file, place, outlined)
        lost += len(of[str(image.get("id"))]) - len(drawn.labels)
        records.append(Record(str(path), drawn))
    if missing:
        notes.append(f"{len(missing)} images of `{file.name}` are not there and were left out: {missing[0]}")
    if lost or crowds:
        what = "without an area inside their image" + (", or an outline," if outlined else "")
        notes.append(f"of `{file.name}`, {lost} objects {what} and {crowds} crowds were left out")
    return tuple(records)


def _drawing(image: dict[str, Any], found: list[Any], file: Path, place: dict[int, int], outlined: bool) -> Drawing:
    try:
        size = (int(image["height"]), int(image["width"]))
        if not 0 < min(size) <= max(size) <= MOST_SIDE:
            raise ValueError(f"image `{image.get('file_name')}` has {size[1]} x {size[0]} pixels")
        rows = []
        for one in found:
            if one["category_id"] not in place:
                raise ValueError(f"category {one['category_id']} is not in `categories`")
            x, y, width, height = (float(v) for v in one["bbox"])
            rows.append((place[one["category_id"]], (x, y, x + width, y + height), one.get("segmentation")))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"an object of `{file}` cannot be read: {error}", hint=LAYOUT) from None
    return drawing(size, rows, outlined)


def _image(image: dict[str, Any], file: Path, places: list[Path]) -> Path | None:
    """Where an image lies: beside its file, or in a folder of images or of its split. Never outside of the data."""
    name = str(image.get("file_name", ""))
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        return None
    for place in (file.parent, *places):
        if (place / name).is_file():
            return place / name
    return None


def _places(folder: Path, split: str) -> list[Path]:
    """Folders in which a split's images may lie: `train2017` as well."""
    named = [p for p in sorted(folder.iterdir()) if p.is_dir() and p.name.lower().startswith(split)]
    return [folder, folder / "images", folder / "images" / split, *named]
