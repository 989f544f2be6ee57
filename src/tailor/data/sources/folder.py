"""A folder of class folders, with or without train/val/test above them. Class names are the folder names, sorted."""

import os
from collections.abc import Iterator
from pathlib import Path

from tailor.data.pixels import SUFFIXES
from tailor.data.sources.assemble import Listing
from tailor.errors import DataError, nearest

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
LAYOUT = "expected one folder of images per class, or `train/CLASS/...` and `test/CLASS/...`"


def load(where: str, seed: int) -> Listing:
    """The images below `where`; raises DataError where they are not sorted into two or more class folders."""
    root = Path(where).expanduser()
    _check_root(root)
    folders = _subfolders(root)
    divided = _split_folders(root, folders)
    notes: list[str] = []
    if divided:
        ignored = [f.name for f in folders if f not in divided.values()]
        found = {name: _class_folders(folder, notes) for name, folder in divided.items()}
    else:
        ignored = []
        found = {"all": _class_folders(root, notes)}
    if ignored:
        notes.append(f"ignored beside the splits: {', '.join(ignored)}")
    rows = {
        split: [(str(path), name) for name in sorted(files) for path in files[name]] for split, files in found.items()
    }
    if not any(rows.values()):
        saved = any(root.glob("*.parquet")) or any(root.glob("dataset_*.json"))
        raise DataError(f"no image found below `{root}`", hint=f"try `hfds/{root}`" if saved else LAYOUT)
    return Listing(str(root), rows, notes=notes)


def check_exists(path: Path) -> None:
    """Raises DataError where nothing is at `path`; the hint names what beside it comes close."""
    if path.exists():
        return
    parent = path.parent
    siblings = tuple(p.name for p in parent.iterdir() if not p.name.startswith(".")) if parent.is_dir() else ()
    hint = nearest(path.name, siblings) if siblings else f"look into `{parent}`"
    raise DataError(f"`{path}` does not exist", hint=hint)


def _check_root(root: Path) -> None:
    check_exists(root)
    if not root.is_dir():
        kind = "an image" if root.suffix.lower() in SUFFIXES else "a file"
        hint = "to classify one image use `tailor predict`" if kind == "an image" else LAYOUT
        raise DataError(f"`{root}` is {kind}, not a folder or a CSV file of images", hint=hint)


def _split_folders(root: Path, folders: list[Path]) -> dict[str, Path]:
    """The folders of `root` that are splits: named like one and holding folders (a class may be called `train`)."""
    named = [f for f in folders if f.name.lower() in SPLIT_NAMES]
    divided: dict[str, Path] = {}
    for folder in named:
        if not _subfolders(folder):
            continue
        split = SPLIT_NAMES[folder.name.lower()]
        if split in divided:
            raise DataError(
                f"`{divided[split].name}` and `{folder.name}` in `{root}` are both the {split} split", hint="merge them"
            )
        divided[split] = folder
    if named and not divided and len(named) == len(folders) and any(_images(f) for f in named):
        raise DataError(f"`{named[0]}` holds images without class folders", hint=LAYOUT)
    return {name: divided[name] for name in ("train", "val", "test") if name in divided}


def _class_folders(folder: Path, notes: list[str]) -> dict[str, list[Path]]:
    """Class name -> its image files, sorted; empty classes and files outside of class folders become notes."""
    found = {}
    for child in _subfolders(folder):
        files = sorted(_walk(child))
        if files:
            found[child.name] = files
        else:
            notes.append(f"`{child}` has no image, so it is no class")
    loose = _images(folder)
    if loose and not found:
        raise DataError(f"`{folder}` holds {len(loose)} images but no class folder: {loose[0].name}", hint=LAYOUT)
    if loose:
        notes.append(f"{len(loose)} images beside the class folders of `{folder}` are ignored: {loose[0].name} ...")
    return found


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and is_image(p.name))


def is_image(name: str) -> bool:
    """True where a file of this name should hold an image: a known suffix in any case, not hidden."""
    return not name.startswith(".") and name.lower().endswith(SUFFIXES)


def _walk(folder: Path) -> Iterator[Path]:
    """Image files at any depth; follows links, and enters no folder twice where links form a ring."""
    seen: set[str] = set()
    for at, below, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(at)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield from (Path(at, name) for name in files if is_image(name))
