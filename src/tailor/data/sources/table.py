"""A CSV file with the columns `path,label[,split]`; paths are relative to the file, labels are class names."""

import csv
from collections.abc import Iterator
from pathlib import Path

from tailor.data.sources.assemble import Listing
from tailor.data.sources.folder import SPLIT_NAMES, check_exists
from tailor.errors import DataError, nearest

HEADER = "the first line reads `path,label` or `path,label,split`"


def load(where: str, seed: int) -> Listing:
    """The images that a CSV lists; raises DataError with the line where one is incomplete or its file missing."""
    path = Path(where).expanduser()
    check_exists(path)
    if path.is_dir():
        raise DataError(f"`{path}` is a folder, not a CSV file", hint=f"write `{path}/` for a folder of that name")
    rows: dict[str, list[tuple[str, str]]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for split, source, label in _rows(path, csv.DictReader(file, skipinitialspace=True)):
                rows.setdefault(split, []).append((source, label))
    except UnicodeDecodeError as error:
        raise DataError(f"`{path}` is not UTF-8 text (byte {error.start})", hint="save it as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"`{path}` is not a CSV file: {error}", hint=HEADER) from None
    if not rows:
        raise DataError(f"`{path}` lists no image", hint=HEADER)
    return Listing(str(path), rows)


def _rows(path: Path, reader: "csv.DictReader[str]") -> Iterator[tuple[str, str, str]]:
    """(split, source, label) of every line; a file without a split column is all one split."""
    columns = {name.strip().lower(): name for name in reader.fieldnames or () if name}
    for needed in ("path", "label"):
        if needed not in columns:
            found = ", ".join(columns) or "nothing"
            raise DataError(f"`{path}` has no column `{needed}` in line 1: {found}", hint=HEADER)
    for row in reader:
        line = f"line {reader.line_num} of `{path}`"
        image, label = ((row[columns[name]] or "").strip() for name in ("path", "label"))
        if not image or not label or None in row:
            found = "more fields than line 1" if None in row else "no path" if not image else "no label"
            raise DataError(f"{line} has {found}", hint="put a value that holds a comma in double quotes")
        source = path.parent / Path(image).expanduser()
        if not source.is_file():
            raise DataError(f"{line} names a file that does not exist: {source}", hint="paths are relative to the CSV")
        yield _split(row[columns["split"]] if "split" in columns else "all", line), str(source), label


def _split(text: str | None, line: str) -> str:
    name = (text or "").strip().lower()
    if name == "all":
        return name
    if name not in SPLIT_NAMES:
        raise DataError(f"{line} has an unknown split: `{text or ''}`", hint=nearest(name, ("train", "val", "test")))
    return SPLIT_NAMES[name]
