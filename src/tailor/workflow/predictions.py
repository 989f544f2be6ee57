"""Where predictions come from and go: image files, folders and globs; a table, or a folder of pictures."""

import csv
import glob
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tailor.errors import DataError, UsageError

FORMATS = (".csv", ".jsonl")


def table(target: Path, overwrite: bool) -> Path:
    """The file that a table goes to; UsageError for one of another format, or one that is there."""
    if target.suffix not in FORMATS:
        raise UsageError(f"`{target}` is neither `.csv` nor `.jsonl`", hint="name it for instance `labels.csv`")
    if target.exists() and not overwrite:
        raise UsageError(f"`{target}` exists", hint="choose another `-o`, or add `--overwrite`")
    return target


def folder_(pictures: Path, drawn: bool, overwrite: bool) -> None:
    """Make the folder for pictures; UsageError where the task draws none, or where it holds something."""
    if not drawn:
        raise UsageError(f"`{pictures}` is neither `.csv` nor `.jsonl`", hint="name it for instance `labels.csv`")
    if pictures.is_file() or (pictures.is_dir() and any(pictures.iterdir()) and not overwrite):
        raise UsageError(f"`{pictures}` exists", hint="choose another `-o`, or add `--overwrite`")
    try:
        pictures.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"`{pictures}` cannot be made: {error.strerror}", hint="choose another `-o`") from None


def write_table(target: Path, rows: list[dict[str, Any]]) -> None:
    """The rows as a file, whole or not at all."""
    from tailor.bundle.files import replacing

    try:
        with (
            replacing(target) as temporary,
            temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
        ):
            if target.suffix == ".jsonl":
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            else:
                names = [name for name, value in rows[0].items() if not isinstance(value, tuple | list | dict)]
                writer = csv.DictWriter(file, names, extrasaction="ignore")
                writer.writeheader()
                writer.writerows(rows)
    except OSError as error:
        raise UsageError(f"`{target}` cannot be written: {error.strerror}", hint="choose another `-o`") from None


def images_in(files: tuple[str, ...]) -> list[str]:
    """The image files that the arguments name, each once, in order; DataError for an argument that names none."""
    if not files:
        raise UsageError("no image was named", hint="give files, folders or globs")
    found: dict[str, None] = {}
    for argument in files:
        before = len(found)
        for name in _expand(argument):
            found.setdefault(name)
        if len(found) == before and not any(name in found for name in _expand(argument)):
            raise DataError(f"`{argument}` names no image", hint="give an image file, a folder with images, or a glob")
    return list(found)


def _expand(argument: str) -> Iterator[str]:
    from tailor.data.sources.folder import is_image

    try:
        place = Path(argument)
        if place.is_dir():
            yield from sorted(str(p) for p in place.rglob("*") if p.is_file() and is_image(p.name))
        elif place.is_file():
            yield argument
        else:
            yield from sorted(n for n in glob.glob(argument, recursive=True) if is_image(n) and Path(n).is_file())
    except (OSError, ValueError) as error:
        raise DataError(f"`{argument[:200]}` cannot be looked at: {error}", hint="check the path") from None
