"""The 24 tasks of the papers by name: `vtab/TASK@ROOT` (19, text lists) and `fgvc/TASK@ROOT` (5, VPT's JSON lists).

Both lists name files, one a line, and number the classes; they differ in how. What images look like is not looked at
here: duplicates by content are for `check`, which reports and does not refuse.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tailor.data.sources.assemble import Listing
from tailor.data.sources.folder import check_exists
from tailor.errors import DataError, nearest


@dataclass(frozen=True)
class Benchmark:
    """One benchmark task: its group, its number of classes, other names of its folder, and where images lie in it."""

    group: str
    classes: int
    folders: tuple[str, ...] = ()
    images: str = ""


VTAB = {
    "cifar": Benchmark("natural", 100, ("cifar100", "cifar-100", "cifar(num_classes=100)")),
    "caltech101": Benchmark("natural", 102, ("caltech", "caltech-101")),
    "dtd": Benchmark("natural", 47),
    "oxford_flowers102": Benchmark("natural", 102, ("flowers102", "oxford_flowers")),
    "oxford_iiit_pet": Benchmark("natural", 37, ("oxford_pet", "oxford_pets", "pets")),
    "svhn": Benchmark("natural", 10),
    "sun397": Benchmark("natural", 397),
    "patch_camelyon": Benchmark("specialized", 2, ("pcam", "camelyon")),
    "eurosat": Benchmark("specialized", 10),
    "resisc45": Benchmark("specialized", 45, ("resisc",)),
    "diabetic_retinopathy": Benchmark("specialized", 5, ("retinopathy",)),
    "clevr_count": Benchmark("structured", 8),
    "clevr_dist": Benchmark("structured", 6, ("clevr_distance",)),
    "dmlab": Benchmark("structured", 6),
    "kitti": Benchmark("structured", 4),
    "dsprites_loc": Benchmark("structured", 16, ("dsprites_location",)),
    "dsprites_ori": Benchmark("structured", 16, ("dsprites_orientation",)),
    "smallnorb_azi": Benchmark("structured", 18, ("smallnorb_azimuth",)),
    "smallnorb_ele": Benchmark("structured", 9, ("smallnorb_elevation",)),
}
FGVC = {
    "cub": Benchmark("fgvc", 200, ("CUB_200_2011", "cub200", "CUB"), "images"),
    "nabirds": Benchmark("fgvc", 555, ("NABirds",), "images"),
    "flowers": Benchmark("fgvc", 102, ("OxfordFlower", "OxfordFlowers", "oxford_flowers")),
    "dogs": Benchmark("fgvc", 120, ("Stanford-dogs", "stanford_dogs", "StanfordDogs"), "Images"),
    "cars": Benchmark("fgvc", 196, ("Stanford-cars", "stanford_cars", "StanfordCars")),
}
TRAIN, VAL, TEST, BOTH = "train800", "val200", "test", "train800val200"
LENGTHS = {TRAIN: 800, VAL: 200, BOTH: 1000}
Line = tuple[str, str]  # (path relative to the task's folder, class)


def load_vtab(where: str, seed: int) -> Listing:
    """`vtab/TASK@ROOT`: train800 as train, val200 as val, test; train800val200 is checked where it is there.

    Raises DataError for other lengths than 800, 200 and 1000, labels out of range, an image in both train and val.
    """
    name, task, folder = _find(where, VTAB, f"{TRAIN}.txt")
    lists = {stem: _read_list(folder / f"{stem}.txt", task.classes) for stem in (TRAIN, VAL, TEST)}
    if (folder / f"{BOTH}.txt").exists():
        lists[BOTH] = _read_list(folder / f"{BOTH}.txt", task.classes)
    for stem, lines in lists.items():
        if len(lines) != LENGTHS.get(stem, len(lines)):
            file = folder / f"{stem}.txt"
            raise DataError(f"`{file}` has {len(lines)} lines instead of {LENGTHS[stem]}", hint="export the task again")
    _check_apart(lists[TRAIN], lists[VAL], folder)
    rows = {split: _located(lists[stem], folder) for split, stem in (("train", TRAIN), ("val", VAL), ("test", TEST))}
    return Listing(f"vtab/{name}", rows, classes=[str(i) for i in range(task.classes)])


def load_fgvc(where: str, seed: int) -> Listing:
    """`fgvc/TASK@ROOT`: VPT's train.json, val.json and test.json, each `{path: class id}`.

    Class ids keep train's order in every split (VPT numbers each file by itself, so a class that one lacks shifts the
    others' labels). Raises DataError for an id that train lacks, or another number of classes than the task has.
    """
    name, task, folder = _find(where, FGVC, "train.json")
    lists = {stem: _read_json(folder / f"{stem}.json") for stem in ("train", "val", "test")}
    found = len({label for _, label in lists["train"]})
    if found != task.classes:
        raise DataError(
            f"`{folder / 'train.json'}` has {found} classes, but `fgvc/{name}` has {task.classes}",
            hint="use VPT's split files, or a folder of class folders for a part of the task",
        )
    _check_apart(lists["train"], lists["val"], folder)
    images = folder / task.images
    base = images if images.is_dir() else folder
    return Listing(f"fgvc/{name}", {split: _located(lines, base) for split, lines in lists.items()})


def _find(where: str, tasks: dict[str, Benchmark], needed: str) -> tuple[str, Benchmark, Path]:
    """The task that `where` names and its folder: ROOT/TASK under any of its names, or ROOT itself."""
    group, _, rest = where.partition("/")
    wanted, at, root_text = rest.partition("@")
    aliases = {alias.lower(): name for name, task in tasks.items() for alias in (name, *task.folders)}
    name = aliases.get(wanted.strip().lower())
    if name is None:
        raise DataError(f"there is no task `{wanted}` in {group.lower()}", hint=nearest(wanted.lower(), tuple(tasks)))
    if not at or not root_text:
        raise DataError(f"`{where}` does not say where the images are", hint=f"{group}/{name}@FOLDER")
    root = Path(root_text).expanduser()
    check_exists(root)
    task = tasks[name]
    names = (name, *task.folders)
    for folder in (*(root / n for n in names), root):
        if (folder / needed).is_file():
            return name, task, folder
    raise DataError(f"`{root}` has no `{needed}` of {group}/{name}", hint=f"expected `{root / names[0] / needed}`")


def _read_list(path: Path, classes: int) -> list[Line]:
    """The lines `PATH LABEL` of a VTAB list; split from the right, since paths may hold spaces."""
    check_exists(path)
    lines = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not text.strip():
            continue
        file, _, label = text.strip().rpartition(" ")
        if not file or not label.isdecimal():
            raise DataError(
                f"line {number} of `{path}` is not `PATH LABEL`: {text.strip()[:80]}", hint="download it again"
            )
        if int(label) >= classes:
            raise DataError(
                f"line {number} of `{path}` has label {label}, but the task has {classes} classes",
                hint=f"labels run from 0 to {classes - 1}; is this the list of another task?",
            )
        lines.append((file.strip(), str(int(label))))
    return lines


def _read_json(path: Path) -> list[Line]:
    check_exists(path)
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"`{path}` is not JSON: {error}", hint="download it again") from None
    if not isinstance(table, dict) or not table:
        raise DataError(f"`{path}` is not a table of the form `{{path: class id}}`", hint="download it again")
    for file, label in table.items():
        if not isinstance(label, int | str) or isinstance(label, bool):
            raise DataError(f"`{path}` has a class id that is no number: {file}", hint="download it again")
    return [(file, str(label)) for file, label in table.items()]


def _check_apart(train: Sequence[Line], val: Sequence[Line], folder: Path) -> None:
    shared = sorted({file for file, _ in train} & {file for file, _ in val})
    if shared:
        raise DataError(
            f"{len(shared)} images of `{folder}` are in both train and val: {shared[0]}",
            hint="take them out of one of the two lists",
        )


def _located(lines: Sequence[Line], base: Path) -> list[tuple[str, str]]:
    """(file, class); the first file of a list must exist, the others are met when they are read."""
    rows = [(str(base / file), label) for file, label in lines]
    if rows and not Path(rows[0][0]).is_file():
        raise DataError(f"the lists name a file that does not exist: {rows[0][0]}", hint=f"is `{base}` complete?")
    return rows
