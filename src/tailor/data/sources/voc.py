"""Boxes in VOC's layout: `Annotations/NAME.xml` beside `JPEGImages`, divided by `ImageSets/Main/train.txt` and so on.

Classes are the names that occur, sorted. Without a test split the given val is kept to report on.
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tailor.data.pixels import SUFFIXES, opened
from tailor.data.records import ImageData, Record, Split
from tailor.data.sources.drawn import Drawing, boxes, drawing
from tailor.data.sources.folder import SPLIT_NAMES, check_exists
from tailor.data.splits import reporting
from tailor.errors import DataError

LAYOUT = "expected `Annotations/a.xml` beside `JPEGImages/a.jpg`"
LARGEST = 1 << 24
"""Bytes of an annotation of one image; more is no annotation."""


@dataclass(frozen=True)
class _Page:
    """What one file says: the image, its size, and each object's name and box."""

    image: Path
    size: tuple[int, int]
    objects: tuple[tuple[str, tuple[float, float, float, float]], ...]


def load(where: str, seed: int) -> ImageData:
    """The images below `where` and their boxes; DataError where there are none."""
    root = Path(where).expanduser()
    check_exists(root)
    notes: list[str] = []
    pages = {split: [_page(file, images) for file, images in files] for split, files in _files(root, notes).items()}
    if not any(pages.values()):
        raise DataError(f"no annotation below `{root}` has an image", hint=LAYOUT)
    classes = tuple(sorted({name for some in pages.values() for page in some for name, _ in page.objects}))
    if not classes:
        raise DataError(f"the annotations below `{root}` draw no object", hint=LAYOUT)
    lost = 0
    splits = {}
    for split in ("train", "val", "test", "all"):
        if pages.get(split):
            drawn = [
                (p, drawing(p.size, [(classes.index(n), box, None) for n, box in p.objects], False))
                for p in pages[split]
            ]
            lost += sum(len(page.objects) - len(found.labels) for page, found in drawn)
            splits[split] = Split(split, tuple(Record(str(p.image), found) for p, found in drawn), annotate=boxes)
    if lost:
        notes.append(f"{lost} boxes without an area inside their image were left out")
    splits, more = reporting(splits)
    return ImageData(str(root), classes, splits, (*notes, *more), kind="boxes")


def _drawing(page: _Page, classes: Sequence[str]) -> Drawing:
    return drawing(page.size, [(classes.index(name), box, None) for name, box in page.objects], outlined=False)


def _files(root: Path, notes: list[str]) -> dict[str, list[tuple[Path, Path]]]:
    """Annotation files with the folder of their images, by split."""
    names = {p.name.lower(): p for p in sorted(root.iterdir()) if p.is_dir()}
    if "annotations" not in names:
        inner = {SPLIT_NAMES[name]: path for name, path in names.items() if name in SPLIT_NAMES}
        return {split: _files(path, notes).get("all", []) for split, path in inner.items()}
    images = names.get("jpegimages") or names.get("images") or root
    files = {file.stem: (file, images) for file in sorted(names["annotations"].glob("*.xml"))}
    lists = {name: root / "ImageSets" / "Main" / f"{name}.txt" for name in ("train", "val", "test")}
    found = {}
    for split, listing in lists.items():
        if listing.is_file():
            words = [line.split()[0] for line in listing.read_text().splitlines() if line.split()]
            missing = [word for word in words if word not in files]
            if missing:
                notes.append(f"{len(missing)} images of {split} have no annotation and were left out: {missing[0]}")
            found[split] = [files[word] for word in dict.fromkeys(words) if word in files]
    return found or {"all": list(files.values())}


def _page(file: Path, images: Path) -> _Page:
    try:
        if file.stat().st_size > LARGEST:
            raise ValueError("it is too large to be one")
        text = file.read_text(encoding="utf-8-sig")
        if "<!ENTITY" in text:  # entities that stand for entities would fill the memory
            raise ValueError("it declares entities")
        root = ElementTree.fromstring(text)
        objects = tuple(
            (str(one.findtext("name", "")).strip(), _box(one)) for one in root.iter("object") if one.findtext("name")
        )
        image = _image(images, [str(root.findtext("filename") or ""), file.stem])
        size = (int(root.findtext("size/height") or 0), int(root.findtext("size/width") or 0))
    except (ElementTree.ParseError, ValueError, UnicodeDecodeError, OSError) as error:
        raise DataError(f"`{file}` is no annotation that can be read: {error}", hint=LAYOUT) from None
    return _Page(image, size if min(size) > 0 else _size(image), objects)


def _box(one: ElementTree.Element) -> tuple[float, float, float, float]:
    found = [float(one.findtext(f"bndbox/{side}") or "nan") for side in ("xmin", "ymin", "xmax", "ymax")]
    if any(value != value for value in found):
        raise ValueError("an object has no box")
    return (found[0], found[1], found[2], found[3])


def _image(folder: Path, names: Sequence[str]) -> Path:
    """The image that an annotation is of: by the name it gives, else by its own."""
    for name in names:
        if name and (folder / Path(name).name).is_file():
            return folder / Path(name).name
        for suffix in (*SUFFIXES, *(s.upper() for s in SUFFIXES)):
            if name and (folder / f"{Path(name).stem}{suffix}").is_file():
                return folder / f"{Path(name).stem}{suffix}"
    raise ValueError(f"there is no image `{names[-1]}` in `{folder}`")


def _size(image: Path) -> tuple[int, int]:
    return opened(image, str(image), lambda picture: (picture.height, picture.width))
