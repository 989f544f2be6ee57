"""`hfds/PATH-OR-NAME`: a data set of Hugging Face `datasets` (optional), saved, as files, or by name from the hub.

Its image and class columns are found by type, else by name. Images are decoded as files are, limits included.
"""

import io
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tailor.data.pixels import decode
from tailor.data.sources.assemble import Listing
from tailor.data.sources.folder import SPLIT_NAMES
from tailor.errors import DataError
from tailor.hub import within_reach

SPLITS = {**SPLIT_NAMES, "all": "all"}
LABELS = ("label", "labels", "fine_label")  # of several class columns the first of these


def load(where: str, seed: int) -> Listing:
    """The splits of a data set with an image and a class column; images without a label are left out and noted."""
    name = where.partition("/")[2]
    if not name:
        raise DataError("`hfds/` names no data set", hint="hfds/FOLDER or hfds/OWNER/NAME")
    found = _open(name)
    tables = {SPLITS[split.lower()]: table for split, table in found.items() if split.lower() in SPLITS}
    if not tables:
        raise DataError(
            f"`{where}` has none of the splits train, val and test: {', '.join(found)}", hint="rename its splits"
        )
    rows: dict[str, list[tuple[str, str]]] = {}
    notes: list[str] = []
    columns: dict[str, _Column] = {}
    names: dict[str, tuple[str, ...] | None] = {}
    for split, table in tables.items():
        columns[split], label = _columns(where, table)
        names[split] = tuple(getattr(table.features[label], "names", ())) or None
        rows[split] = [
            (f"{where}#{split}/{i}", text)
            for i, value in enumerate(table[label])
            if (text := _class(value, names[split])) is not None
        ]
        if len(rows[split]) < len(table):
            notes.append(f"{len(table) - len(rows[split])} images of {split} have no label and are left out")
    if len(set(names.values())) > 1:
        raise DataError(f"the splits of `{where}` have different class names", hint="save them with one label column")
    return Listing(where, rows, classes=next(iter(names.values())), opener=_Opener(columns), notes=notes)


@dataclass(frozen=True)
class _Column:
    table: Any  # a datasets.Dataset
    image: str


@dataclass(frozen=True)
class _Opener:
    """Reads `...#SPLIT/INDEX` from the tables, which `datasets` maps into memory and pickles by reference."""

    columns: dict[str, _Column]

    def __call__(self, source: str) -> Image.Image:
        split, _, index = source.rpartition("#")[2].partition("/")
        column = self.columns[split]
        cell = column.table[int(index)][column.image]
        if cell is None or (cell["bytes"] is None and not cell["path"]):
            raise DataError(f"`{source}` has no image", hint="drop the row")
        return decode(io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else Path(cell["path"]), source)


def _open(name: str) -> dict[str, Any]:
    """Split name -> table, from a folder where there is one of this name, else from the hub or its cache."""
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"`hfds/{name}` needs the package `datasets`", hint="pip install 'tailor-models[data]'"
        ) from None
    path = Path(name).expanduser()
    here = path.exists()
    try:
        saved = (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file()
        with nullcontext() if here else within_reach():
            found = datasets.load_from_disk(str(path)) if saved else datasets.load_dataset(str(path) if here else name)
    except (OSError, ValueError, RuntimeError) as error:  # not found, unreachable, no data files, damaged
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"`hfds/{name}` cannot be opened: {reason}", hint="check the name, the path or the connection"
        ) from None
    return dict(found) if isinstance(found, dict) else {"all": found}


def _columns(where: str, table: Any) -> tuple[_Column, str]:
    """The image column of `table`, left undecoded, and the name of its class column.

    An image is of type Image or, in bare parquet, a struct with `bytes`; a class a ClassLabel or a column in `LABELS`.
    """
    kinds = {name: type(feature).__name__ for name, feature in table.features.items()}
    images = [n for n, f in table.features.items() if kinds[n] == "Image" or (isinstance(f, dict) and "bytes" in f)]
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    label = next((n for n in LABELS if n in (labels or kinds)), labels[0] if labels else None)
    if not images or label is None:
        missing = "image" if not images else "label"
        found = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise DataError(f"`{where}` has no {missing} column: {found}", hint="rename or cast the columns, then save it")
    image = images[0]
    if kinds[image] == "Image":
        table = table.cast_column(image, type(table.features[image])(decode=False))
    return _Column(table, image), label


def _class(value: Any, names: tuple[str, ...] | None) -> str | None:
    """The class name of a cell; None where it has none (-1 in the unlabelled test sets of the hub)."""
    if value is None or value == -1:
        return None
    return str(value) if names is None else names[value]
