"""What the values of label maps mean: a list in the folder, or that of a data set known by its layout.

A class called void, or one of its synonyms, is not known: its pixels are ignored, and the values behind it move up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tailor.errors import DataError

IGNORE = 255
"""What a label map says where nothing is known."""
VOID = ("void", "ignore", "ignored", "unlabeled", "unlabelled", "unknown", "undefined")
FILES = ("classes.txt", "labels.txt", "label_colors.txt", "objectInfo150.txt")

CITYSCAPES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic_light", "traffic_sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
_CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
VOC = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
ADE_CLASSES = 150


@dataclass(frozen=True)
class ClassList:
    """`classes` in order, and what each value of a file means: `values` to the index of a class, or to `IGNORE`.

    With `colours`, files hold colours, and a colour stands for the value of its place in the list.
    """

    classes: tuple[str, ...]
    values: tuple[tuple[int, int], ...]
    colours: tuple[tuple[int, int, int], ...] = ()


def in_order(names: Sequence[str], colours: Sequence[tuple[int, int, int]] = ()) -> ClassList:
    """Value i is name i; 255 and void are ignored."""
    kept = tuple(name for name in names if name.lower() not in VOID)
    if len(names) > IGNORE:
        raise DataError(f"a list of {len(names)} classes is too long", hint=f"at most {IGNORE} values are told apart")
    place = {name: index for index, name in enumerate(kept)}
    values = {IGNORE: IGNORE} | {value: place.get(name, IGNORE) for value, name in enumerate(names)}
    return ClassList(kept, tuple(values.items()), tuple(colours))


def ade(names: Sequence[str] = ()) -> ClassList:
    """ADE20K: 0 is not labelled, 1 to 150 are the classes."""
    known = tuple(names) or tuple(str(i + 1) for i in range(ADE_CLASSES))
    return ClassList(known, tuple((i, IGNORE if i == 0 else i - 1) for i in range(len(known) + 1)))


def cityscapes() -> ClassList:
    """Cityscapes' `labelIds`: 19 of 34 are evaluated, the others ignored."""
    kept = {value: index for index, value in enumerate(_CITYSCAPES_IDS)}
    values = [(value, kept.get(value, IGNORE)) for value in (*range(34), IGNORE)]
    return ClassList(CITYSCAPES, tuple(values))


def find(root: Path) -> ClassList | None:
    """The list that a file in the folder gives, None where there is none; DataError where it cannot be read."""
    for name in FILES:
        file = root / name
        if file.is_file():
            return _ade_table(file) if name == FILES[-1] else _list(file)
    return None


def _list(file: Path) -> ClassList:
    """A name a line, at the line of its value; three numbers before or behind it are its colour."""
    names, colours = [], []
    for number, line in enumerate(_lines(file)):
        words = line.replace(",", " ").split()
        rgb = [int(word) for word in words if word.isdecimal()]
        name = "_".join(word for word in words if not word.isdecimal())
        if not name or len(rgb) not in (0, 1, 3) or (len(rgb) == 1 and rgb[0] != number) or max(rgb, default=0) > 255:
            raise DataError(
                f"line {number + 1} of `{file}` is no class: {line.strip()}",
                hint="write one name a line, the first for value 0; a colour stands behind it, `road 128 64 128`",
            )
        names.append(name)
        colours += [(rgb[0], rgb[1], rgb[2])] if len(rgb) == 3 else []
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"`{file}` names a class twice: {twice}", hint="give every class its own name")
    if colours and (len(colours) < len(names) or len(set(colours)) < len(colours)):
        raise DataError(
            f"`{file}` gives some classes no colour of their own", hint="write three numbers a class, or none"
        )
    return in_order(names, colours)


def _ade_table(file: Path) -> ClassList:
    """ADE20K's own table: a header, then index, three numbers, and the names."""
    rows = [line.split("\t") for line in _lines(file)[1:]]
    if any(len(row) < 2 for row in rows):
        raise DataError(f"`{file}` is not ADE20K's table of classes", hint="copy it again, or leave it out")
    return ade([row[-1].split(",")[0].strip() for row in rows])


def _lines(file: Path) -> list[str]:
    try:
        lines = [line for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"`{file}` cannot be read: {error}", hint="write it as text in UTF-8") from None
    if not lines:
        raise DataError(f"`{file}` is empty", hint="write one class name a line")
    return lines
