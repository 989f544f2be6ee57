"""A folder of class folders, with or without train/val/test above them. Class names are the folder names, sorted."""

import os
from collections.abc import Container, Iterator
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
SHOWN = 3
"""Links that a note names."""
LAYOUT = "expected one folder of images per class, or `train/CLASS/...` and `test/CLASS/...`"


def load(where: str, seed: int) -> Listing:
    """The images below `where`; raises DataError where they are not sorted into two or more class folders."""
    root = Path(where).expanduser()
    _check_root(root)
    links = Links(root)
    folders = [folder for folder in _subfolders(root) if links.stays(folder)]
    divided = _split_folders(root, folders)
    notes: list[str] = []
    if divided:
        ignored = [f.name for f in folders if f not in divided.values()]
        found = {name: _class_folders(folder, notes, links) for name, folder in divided.items()}
    else:
        ignored = []
        found = {"all": _class_folders(root, notes, links)}
    if ignored:
        notes.append(f"ignored beside the splits: {', '.join(ignored)}")
    rows = {
        split: [(str(path), name) for name in sorted(files) for path in files[name]] for split, files in found.items()
    }
    notes += links.notes()
    if not any(rows.values()):
        saved = any(root.glob("*.parquet")) or any(root.glob("dataset_*.json"))
        hint = f"try `hfds/{root}`" if saved else next(iter(links.notes()), _other_files(folders) or LAYOUT)
        some = ", ".join(f"`{folder.name}`" for folder in folders[:SHOWN]) + (" ..." if folders[SHOWN:] else "")
        raise DataError(f"no image found below `{root}`" + (f", in none of its folders: {some}" if some else ""), hint)
    return Listing(str(root), rows, notes=notes)


def _other_files(folders: list[Path]) -> str:
    """What lies in the folders instead of images, for a hint; nothing where they are empty."""
    files = (file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file())
    other = next((file for file in files if not file.name.startswith(".")), None)
    return f"`{other}` is no image that can be read: {', '.join(SUFFIXES)}" if other is not None else ""


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


def _class_folders(folder: Path, notes: list[str], links: "Links") -> dict[str, list[Path]]:
    """Class name -> its image files, sorted; empty classes and files outside of class folders become notes."""
    found = {}
    for child in _subfolders(folder):
        files = sorted(walk(child, links)) if links.stays(child) else []
        if files:
            found[child.name] = files
        elif links.stays(child):
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


def walk(folder: Path, links: "Links") -> Iterator[Path]:
    """Image files at any depth; follows links that stay, and enters no folder twice."""
    waiting = [(folder, os.path.realpath(folder))]
    seen = {waiting[0][1]}
    while waiting:
        at, real = waiting.pop()
        with os.scandir(at) as entries:
            for entry in entries:
                path = Path(entry.path)
                if entry.name.startswith(".") or (entry.is_symlink() and not links.stays(path, seen)):
                    continue
                if path.is_dir() if entry.is_symlink() else entry.is_dir():
                    inner = os.path.realpath(path) if entry.is_symlink() else os.path.join(real, entry.name)
                    seen.add(inner)
                    waiting.append((path, inner))
                elif is_image(entry.name):
                    yield path


class Links:
    """The links below a data folder that are not followed, since they leave it or lead to where one already is."""

    def __init__(self, root: Path) -> None:
        self.root = os.path.realpath(root)
        self.outside: list[str] = []
        self.back: list[str] = []

    def stays(self, path: Path, seen: Container[str] = ()) -> bool:
        """Whether `path` is no link, or one to something else in the data folder; `seen` are folders entered."""
        if not path.is_symlink():
            return True
        target, here = os.path.realpath(path), os.path.realpath(path.parent)
        if not _is_below(target, self.root):
            noted = self.outside
        elif _is_below(here, target) or target in seen:
            noted = self.back
        else:
            return True
        if str(path) not in noted:
            noted.append(str(path))
        return False

    def notes(self) -> list[str]:
        """A sentence a reason, with the first links."""
        return [
            f"links that {why} are left out ({len(paths)}): {', '.join(paths[:SHOWN])}{' ...' if paths[SHOWN:] else ''}"
            for why, paths in (("leave the data folder", self.outside), ("lead back into it", self.back))
            if paths
        ]


def _is_below(path: str, folder: str) -> bool:
    """Whether a real path is that folder or lies in it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
