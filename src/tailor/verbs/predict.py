"""`tailor predict BUNDLE FILE...`: labels for files, folders and globs."""

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from tailor import bundle
from tailor.data.images import read_image
from tailor.data.sources.folder import is_image
from tailor.data.transforms import eval_transform
from tailor.errors import DataError, UsageError
from tailor.events import Event, Report, silent
from tailor.training import processes_here

_TOP = 5


@dataclass(frozen=True)
class Prediction:
    """One image: the likeliest label, its probability, and the next ones with theirs."""

    path: str
    label: str
    score: float
    top: tuple[tuple[str, float], ...]


def predict(
    path: str | Path,
    *files: str,
    weights: str | None = None,
    batch_size: int = 32,
    corrupt: str = "skip",
    report: Report = silent,
) -> list[Prediction]:
    """Predictions of the bundle in folder `path`, in the order of the files; folders are searched, globs expanded.

    An unreadable image is reported and left out, or fatal with `corrupt="fail"`. DataError where no image is found.
    """
    if batch_size < 1:
        raise UsageError(f"a batch of {batch_size} images cannot be", hint="write for instance `--batch-size 32`")
    found = images_in(files)
    loaded = bundle.read(Path(path))
    device = processes_here().device
    model = bundle.restore(loaded, weights).to(device)
    transform = eval_transform(loaded.spec.preprocessing)
    classes = loaded.spec.head.classes
    made: list[Prediction] = []
    for start in range(0, len(found), batch_size):
        names, tensors = [], []
        for name in found[start : start + batch_size]:
            try:
                tensors.append(transform(read_image(name)))
                names.append(name)
            except DataError as error:
                if corrupt == "fail":
                    raise
                report(Event("left out", text=error.message))
        if tensors:
            with torch.inference_mode():
                probabilities = model(torch.stack(tensors).to(device)).softmax(dim=-1).cpu()
            made += [_prediction(n, p, classes) for n, p in zip(names, probabilities, strict=True)]
        report(Event("predicting", min(start + batch_size, len(found)), len(found)))
    if not made:
        raise DataError("none of the images can be read", hint="look at the files named above")
    return made


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
    place = Path(argument)
    if place.is_dir():
        yield from sorted(str(p) for p in place.rglob("*") if p.is_file() and is_image(p.name))
    elif place.is_file():
        yield argument
    else:
        yield from sorted(n for n in glob.glob(argument, recursive=True) if is_image(n) and Path(n).is_file())


def _prediction(name: str, probabilities: torch.Tensor, classes: tuple[str, ...]) -> Prediction:
    values, labels = probabilities.topk(min(_TOP, len(classes)))
    top = tuple((classes[i], float(v)) for i, v in zip(labels.tolist(), values, strict=True))
    return Prediction(name, top[0][0], top[0][1], top)
