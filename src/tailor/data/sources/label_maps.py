"""Images with label maps: a class for each pixel, in a second image. CamVid's, ADE20K's, VOC's and Cityscapes' layouts.

An image and its map have the same path below their folders. What the values mean is in `class_lists`; a value that
means nothing is an error that names the file. Without a test split the given val is kept to report on, so that what
selects (made from train) is not what is reported.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors

from tailor.data.pixels import opened
from tailor.data.records import ImageData, Record, Split
from tailor.data.sources import class_lists
from tailor.data.sources.class_lists import IGNORE, ClassList
from tailor.data.sources.folder import SPLIT_NAMES, Links, check_exists, walk
from tailor.data.splits import reporting
from tailor.errors import DataError

IMAGES = ("images", "jpegimages", "leftimg8bit")
MAPS = ("labels", "masks", "annotations", "segmentationclass", "gtfine")
LAYOUT = "expected `images/train/a.jpg` with `labels/train/a.png`, and `classes.txt` with one name a line"
MapPairs = dict[str, list[tuple[str, str]]]  # split -> (image, map)


def load(where: str, seed: int) -> ImageData:
    """The images below `where` with their maps; DataError where none has one, or no list says what values mean."""
    root = Path(where).expanduser()
    check_exists(root)
    listed, notes = _pairs(root)
    if not any(listed.values()):
        raise DataError(f"no image below `{root}` has a label map of its name", hint=LAYOUT)
    known = _classes(root)
    read = LabelMap(known)
    order = [name for name in ("train", "val", "test", "all") if listed.get(name)]
    splits = {name: Split(name, tuple(Record(a, b) for a, b in listed[name]), annotate=read) for name in order}
    splits, more = reporting(splits)
    return ImageData(str(root), known.classes, splits, (*notes, *more), kind="masks")


@dataclass(frozen=True)
class LabelMap:
    """Reads the map of a record: (H, W) uint8 class indices, `IGNORE` where nothing is known."""

    known: ClassList

    def __call__(self, record: Record) -> tv_tensors.Mask:
        """The map; DataError naming the file where it is damaged, a photo, or has values that mean nothing."""
        file = Path(record.target)
        if file.suffix.lower() in (".jpg", ".jpeg"):
            raise DataError(
                f"`{file}` is a JPEG, whose compression changes values",
                hint="save label maps as PNG, from the original",
            )
        values = opened(file, str(file), _values)
        return tv_tensors.Mask(torch.from_numpy(self._meant(values, file)))

    def _meant(self, values: np.ndarray, file: Path) -> np.ndarray:
        """What a map's values mean. DataError for one that means nothing."""
        if values.ndim == 3:
            values = self._by_colour(values, file)
        top = len(self.table) - 1
        inside = np.clip(values, 0, top)
        meant = self.table[inside]
        wrong = (meant < 0) | (inside != values)
        if wrong.any():
            last = max(value for value, index in self.known.values if index != IGNORE)
            raise DataError(
                f"`{file}` has the value {int(values[wrong].flat[0])}, the list of classes ends at {last}",
                hint="add the class to `classes.txt`, or write 255 where nothing is known",
            )
        return meant.astype(np.uint8)

    def _by_colour(self, values: np.ndarray, file: Path) -> np.ndarray:
        if not self.known.colours:
            raise DataError(
                f"`{file}` has colours, and no list says what they mean",
                hint="write `classes.txt` with a colour a class, `road 128 64 128`, or save maps of class numbers",
            )
        packed = (values[..., 0].astype(np.int64) << 16) | (values[..., 1].astype(np.int64) << 8) | values[..., 2]
        codes = np.array([(r << 16) | (g << 8) | b for r, g, b in self.known.colours])
        order = codes.argsort()
        found = order[np.searchsorted(codes[order], packed).clip(0, len(codes) - 1)]
        wrong = codes[found] != packed
        if wrong.any():
            colour = tuple(int(c) for c in values[wrong][0])
            raise DataError(
                f"`{file}` has the colour {colour}, which is in no line of the list",
                hint="add it to `classes.txt`, behind `void` where nothing is known",
            )
        return found

    @cached_property
    def table(self) -> np.ndarray:
        """Value to class, -1 for what means nothing."""
        table = np.full(max(value for value, _ in self.known.values) + 1, -1, dtype=np.int64)
        for value, index in self.known.values:
            table[value] = index
        return table


def _values(image: Image.Image) -> np.ndarray:
    """Class numbers (H, W), the index where the file has a palette; or colours (H, W, 3)."""
    if image.mode in ("1", "L", "P", "I", "I;16", "I;16B", "I;16L"):
        return np.asarray(image).astype(np.int64)
    return np.asarray(image.convert("RGB"))


def _classes(root: Path) -> ClassList:
    found = class_lists.find(root)
    names = _folders(root)
    if found is not None:
        return found
    if "leftimg8bit" in names:
        return class_lists.cityscapes()
    if "segmentationclass" in names:
        return class_lists.in_order(class_lists.VOC)
    if "annotations" in names and "training" in _folders(names["annotations"]):
        return class_lists.ade()
    raise DataError(
        f"`{root}` has no list of its classes", hint="write `classes.txt` there: one name a line, the first for value 0"
    )


def _pairs(root: Path) -> tuple[MapPairs, list[str]]:
    """Images with their maps by split; what lacks the other is noted."""
    notes: list[str] = []
    links = Links(root)
    found: MapPairs = {}
    for split, images, maps in _places(root):
        pictures, drawn = _below(images, _image_key, links), _below(maps, _map_key, links)
        found.setdefault(split, []).extend((str(pictures[key]), str(drawn[key])) for key in pictures if key in drawn)
        for what, some, others in (
            ("images without a map", pictures, drawn),
            ("maps without an image", drawn, pictures),
        ):
            alone = [path for key, path in some.items() if key not in others]
            if alone:
                notes.append(f"{len(alone)} {what} left out in {split}: {alone[0]}")
    chosen = _voc_lists(root)
    return (_by_list(found, chosen) if chosen else found), [*notes, *links.notes()]


def _places(root: Path) -> list[tuple[str, Path, Path]]:
    """Split, folder of images and folder of maps: `images/train` beside `labels/train`, or `train/images`."""
    names = _folders(root)
    images = next((names[name] for name in IMAGES if name in names), None)
    maps = next((names[name] for name in MAPS if name in names), None)
    if images is None or maps is None:
        inner = [(SPLIT_NAMES[name], path) for name, path in names.items() if name in SPLIT_NAMES]
        return [(split, below[1], below[2]) for split, path in inner for below in _places(path)]
    first, second = _folders(images), _folders(maps)
    shared = [
        (SPLIT_NAMES[name], first[name], second[name]) for name in SPLIT_NAMES if name in first and name in second
    ]
    return shared or [("all", images, maps)]


def _folders(place: Path) -> dict[str, Path]:
    """Folders by their names in lower case."""
    return {p.name.lower(): p for p in sorted(place.iterdir()) if p.is_dir() and not p.name.startswith(".")}


def _below(folder: Path, key: Callable[[str], str | None], links: Links) -> dict[str, Path]:
    """Image files at any depth by their key, in order."""
    found = {}
    for file in sorted(walk(folder, links)):
        stem = key(file.name)
        if stem is not None:
            found[str(file.relative_to(folder).with_name(stem))] = file
    return found


def _image_key(name: str) -> str:
    return name.rpartition(".")[0].removesuffix("_leftImg8bit")


def _map_key(name: str) -> str | None:
    """The key of a map; None for Cityscapes' files of another kind."""
    stem = name.rpartition(".")[0]
    if "_gtFine_" in stem:
        return stem.removesuffix("_gtFine_labelIds") if stem.endswith("_labelIds") else None
    return stem.removesuffix("_mask")


def _voc_lists(root: Path) -> Mapping[str, set[str]]:
    """The names in `ImageSets/Segmentation`, by split."""
    folder = root / "ImageSets" / "Segmentation"
    files = [(name, folder / f"{name}.txt") for name in ("train", "val", "test")]
    return {name: set(file.read_text().split()) for name, file in files if file.is_file()}


def _by_list(found: MapPairs, chosen: Mapping[str, set[str]]) -> MapPairs:
    pairs = [pair for some in found.values() for pair in some]
    return {split: [pair for pair in pairs if Path(pair[0]).stem in names] for split, names in chosen.items()}
