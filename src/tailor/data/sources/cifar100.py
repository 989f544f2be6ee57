"""`cifar100@ROOT`: the *binary version* of CIFAR-100 (`train.bin`, `test.bin`), or a folder of class folders.

The python version is a pickle, which this project never opens. An image's source is `ROOT/train.bin#17`.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from tailor.data.sources import folder
from tailor.data.sources.assemble import Listing
from tailor.data.sources.folder import check_exists
from tailor.errors import DataError

RECORD = 2 + 3 * 32 * 32  # coarse label, fine label, then the red, green and blue planes
CLASSES = 100


def load(where: str, seed: int) -> Listing:
    """The 100 fine classes, 50,000 train and 10,000 test images of the full set (fewer in a shortened file)."""
    root = Path(where.partition("@")[2]).expanduser()
    check_exists(root)
    for at in (root, root / "cifar-100-binary"):
        if (at / "train.bin").is_file():
            return _load_binary(at)
    for at in (root, root / "cifar-100-python"):
        if (at / "train").is_file():
            raise DataError(
                f"`{at / 'train'}` is the pickled python version of CIFAR-100, which is never opened",
                hint="use the binary version (cifar-100-binary.tar.gz, with `train.bin`)",
            )
    listing = folder.load(str(root), seed)
    classes = {text for _, text in listing.rows.get("train", listing.rows.get("all", ()))}
    if len(classes) != CLASSES:
        raise DataError(f"`{root}` has {len(classes)} class folders instead of {CLASSES}", hint=f"use `{root}`")
    return listing


def read_record(source: str) -> Image.Image:
    """Image number n of `FILE#n`."""
    path, _, number = source.rpartition("#")
    with open(path, "rb") as file:
        file.seek(int(number) * RECORD + 2)
        planes = file.read(RECORD - 2)
    if len(planes) < RECORD - 2:
        raise DataError(f"`{source}` is cut short", hint="copy the file again")
    return Image.fromarray(np.frombuffer(planes, np.uint8).reshape(3, 32, 32).transpose(1, 2, 0).copy())


def _load_binary(root: Path) -> Listing:
    names = root / "fine_label_names.txt"
    classes = names.read_text(encoding="utf-8").split() if names.is_file() else [str(i) for i in range(CLASSES)]
    if len(classes) != CLASSES:
        raise DataError(f"`{names}` has {len(classes)} names instead of {CLASSES}", hint="download it again")
    rows = {}
    for split in ("train", "test"):
        path = root / f"{split}.bin"
        if path.is_file():
            rows[split] = [(f"{path}#{i}", classes[label]) for i, label in enumerate(_fine_labels(path))]
    return Listing(str(root), rows, classes=classes, opener=read_record)


def _fine_labels(path: Path) -> list[int]:
    size = path.stat().st_size
    if size == 0 or size % RECORD:
        raise DataError(f"`{path}` has {size} bytes, not a multiple of {RECORD}", hint="copy the file again")
    labels = np.memmap(path, np.uint8, mode="r").reshape(-1, RECORD)[:, 1].tolist()
    if max(labels) >= CLASSES:
        number = next(i for i, label in enumerate(labels) if label >= CLASSES)
        raise DataError(
            f"image {number} of `{path}` has label {labels[number]}, but there are {CLASSES} classes",
            hint="is this another file?",
        )
    return labels
