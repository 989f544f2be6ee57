"""`hfds/PATH-OR-NAME`: a data set of Hugging Face `datasets` (optional), saved, as files, or by name from the hub.

Its image and class columns are found by type. Images are decoded here, under the same rules and limits as files.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tailor.data.pixels import decode
from tailor.data.records import ImageData
from tailor.data.sources.assemble import assemble
from tailor.data.sources.folder import SPLIT_NAMES
from tailor.errors import DataError

SPLITS = {**SPLIT_NAMES, "all": "all"}
LABELS = ("label", "labels", "fine_label")  # of several class columns the first of these


def load(where: str, seed: int) -> ImageData:
    """The splits of a data set with an image and a class column; images without a label are left out and noted."""
    name = where.partition("/")[2]
    if not name:
        raise DataError("`hfds/` names no data set", hint="hfds/FOLDER or hfds/OWNER/NAME")
    found = _open(name)
    tables = {SPLITS[split.lower()]: table for split, table in found.items() if split.lower() in SPLITS}
    if not tables:
        raise DataError(f"`{where}` has none of the splits train, val and test: {', '.join(found)}")
    rows: dict[str, list[tuple[str, str]]] = {}
    notes: list[str] = []
    classes: tuple[str, ...] = ()
    columns: dict[str, _Column] = {}
    for split, table in tables.items():
        image, label = _columns(where, table)
        classes = classes or tuple(table.features[label].names)
        if tuple(table.features[label].names) != classes:
            raise DataError(f"the splits of `{where}` have different class names", hint="save it with one label column")
        columns[split] = _Column(table.cast_column(image, type(table.features[image])(decode=False)), image)
        known = [(i, n) for i, n in enumerate(table[label]) if n is not None and n >= 0]
        if len(known) < len(table):
            notes.append(f"{len(table) - len(known)} images of {split} have no label and are left out")
        rows[split] = [(f"{where}#{split}/{i}", classes[n]) for i, n in known]
    return assemble(where, rows, classes=classes, opener=_Opener(columns), notes=notes)


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
        raise DataError(f"`hfds/{name}` needs the package `datasets`", hint="pip install 'tailor[data]'") from None
    path = Path(name).expanduser()
    try:
        saved = (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file()
        found = (
            datasets.load_from_disk(str(path)) if saved else datasets.load_dataset(str(path) if path.exists() else name)
        )
    except (OSError, ValueError, RuntimeError) as error:  # not found, unreachable, no data files, damaged
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"`hfds/{name}` cannot be opened: {reason}", hint="check the name, the path or the connection"
        ) from None
    return dict(found) if isinstance(found, dict) else {"all": found}


def _columns(where: str, table: Any) -> tuple[str, str]:
    """The names of the image column (left undecoded) and the class column of `table`."""
    kinds = {name: type(feature).__name__ for name, feature in table.features.items()}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    if not images or not labels:
        missing = "image (Image)" if not images else "class (ClassLabel)"
        found = ", ".join(f"{name}: {kind}" for name, kind in kinds.items())
        raise DataError(f"`{where}` has no {missing} column: {found}", hint="cast the column with `cast_column`")
    return images[0], next((name for name in LABELS if name in labels), labels[0])
