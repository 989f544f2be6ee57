"""`tailor predict BUNDLE FILE...`: what is in files, folders and globs."""

import csv
import glob
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tailor.dense.views import read_views
from tailor.errors import DataError, UsageError, nearest
from tailor.events import Tell
from tailor.workflow.destination import check_apart, weights_file
from tailor.workflow.telling import SHOWN, told

if TYPE_CHECKING:
    from tailor.deploy.predictor import Prediction

FORMATS = (".csv", ".jsonl")


def predict(
    path: str | Path,
    *files: str | Path,
    out: str | Path | None = None,
    top_k: int = 5,
    route: str | None = None,
    weights: str | None = None,
    download: bool = False,
    batch_size: int = 32,
    corrupt: Literal["skip", "fail"] = "skip",
    scales: str | None = None,
    flip: bool = False,
    windows: bool = False,
    device: str | None = None,
    overwrite: bool = False,
    each: "Callable[[Prediction], None] | None" = None,
    progress: Tell | None = SHOWN,
) -> "list[Prediction]":
    """Predictions of the bundle in folder `path`, in the order of the files; folders are searched, globs expanded.

    Args:
        path: the bundle.
        files: image files, folders, globs.
        out: a `.csv` or `.jsonl` file to write them to as well; of masks and boxes a folder for pictures.
        top_k: how many of the likeliest classes are named.
        route: of a palette, by name; by default the dearest that is deployed.
        weights: a moved checkpoint file of the backbone.
        download: whether what the bundle's backbone lacks on this machine may be fetched.
        batch_size: images a forward pass.
        corrupt: an unreadable image is told and left out, or fatal with `fail`.
        scales: of masks, sizes to look at with commas, relative to the model's: the mean of their scores decides.
        flip: of masks, look at the mirrored image as well.
        windows: of masks, read what is larger than the model's input in overlapping pieces of that size.
        device: `cpu`, `cuda`, `mps`.
        overwrite: replace `out`.
        each: called with every prediction as soon as it is made.
        progress: hears events; by default they are drawn in a terminal or notebook, None silences.

    Raises:
        DataError: where no image is found or can be read.
    """
    if batch_size < 1:
        raise UsageError(f"a batch of {batch_size} images cannot be", hint="write for instance `--batch-size 32`")
    if top_k < 1:
        raise UsageError(f"`--top-k {top_k}` names nothing", hint="write for instance `--top-k 5`")
    if corrupt not in ("skip", "fail"):
        raise UsageError(f"`--corrupt {corrupt}` is no choice", hint=nearest(str(corrupt), ("skip", "fail")))
    views = read_views(scales, flip, windows)
    pictures = Path(out) if out is not None and not Path(out).suffix else None
    target = _target(out, overwrite) if pictures is None else None
    found = images_in(tuple(map(str, files)))
    with told(progress) as tell:
        from tailor.deploy.predictor import Predictor
        from tailor.workflow.place import placed

        if out is not None:
            check_apart(Path(out), (path, *found, weights_file(weights)))
        with placed(device):
            made = []
            predictor = Predictor(path, weights, top_k, download, route, views)
            if pictures is not None:
                _folder(pictures, hasattr(predictor.task, "draw"), overwrite)
            for one in predictor.stream(found, batch_size, corrupt == "fail", tell, pictures):
                made.append(one)
                if each is not None:
                    each(one)
    if not made:
        raise DataError("none of the images can be read", hint="look at the files named above")
    if target is not None:
        _write(target, [one.values() for one in made])
    return made


def _target(out: str | Path | None, overwrite: bool) -> Path | None:
    if out is None:
        return None
    target = Path(out)
    if target.suffix not in FORMATS:
        raise UsageError(f"`{target}` is neither `.csv` nor `.jsonl`", hint="name it for instance `labels.csv`")
    if target.exists() and not overwrite:
        raise UsageError(f"`{target}` exists", hint="choose another `-o`, or add `--overwrite`")
    return target


def _folder(pictures: Path, drawn: bool, overwrite: bool) -> None:
    """Make the folder for pictures; UsageError where the task draws none, or where it holds something."""
    if not drawn:
        raise UsageError(f"`{pictures}` is neither `.csv` nor `.jsonl`", hint="name it for instance `labels.csv`")
    if pictures.is_file() or (pictures.is_dir() and any(pictures.iterdir()) and not overwrite):
        raise UsageError(f"`{pictures}` exists", hint="choose another `-o`, or add `--overwrite`")
    try:
        pictures.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"`{pictures}` cannot be made: {error.strerror}", hint="choose another `-o`") from None


def _write(target: Path, rows: list[dict[str, Any]]) -> None:
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
