"""Opening the data a verb was given: find it, look it over, divide it, and turn a split into batches."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from torch import nn

from tailor.backbones import Config
from tailor.data.check import check, without_unreadable
from tailor.data.images import ImageData, Split, for_training, open_data
from tailor.data.loading import Batch, loader
from tailor.data.transforms import eval_transform
from tailor.errors import DataError
from tailor.events import Event, Report, silent
from tailor.preprocessing import Interpolation, Preprocessing
from tailor.training import Scores, accuracy

_BATCH = 64
LOOKED_OVER = 20_000
"""Data sets of more images are not decoded in advance: unreadable images are met, and left out, while training."""

Corrupt = Literal["skip", "fail"]


def open_checked(
    where: str, *, seed: int, corrupt: Corrupt, report: Report, classes: Sequence[str] | None = None
) -> ImageData:
    """The data set, looked over: findings go to `report`; unreadable images are left out or fatal, by `corrupt`."""
    data = open_data(where, seed=seed, classes=classes)
    count = sum(len(split) for split in data.splits.values())
    found = check(
        data,
        deep=count <= LOOKED_OVER,
        progress=lambda done, total: report(Event("looking over the images", done, total)),
    )
    for line in found.lines() if not found.clean else ():
        report(Event("data", text=line))
    if found.unreadable and corrupt == "fail":
        first = found.unreadable[0]
        raise DataError(
            f"{len(found.unreadable)} images cannot be read, the first is `{first.source}`: {first.reason}",
            hint="remove or replace them, or leave them out with `--corrupt skip`",
        )
    ready = without_unreadable(data, found)
    if count <= LOOKED_OVER or corrupt == "fail":
        return ready
    return replace(ready, splits={name: replace(split, tolerant=True) for name, split in ready.splits.items()})


def tell_left_out(data: ImageData, report: Report) -> None:
    """Say which images could not be read when they were met, and were left out."""
    lost = {source: why for split in data.splits.values() for source, why in split.left_out.items()}
    for source in list(lost)[:3]:
        report(Event("left out", text=lost[source]))
    if len(lost) > 3:
        report(Event("left out", text=f"{len(lost)} images in all could not be read"))


def divided(data: ImageData, seed: int, report: Report) -> ImageData:
    """The data with `train` and `val`; says where val was made."""
    ready = for_training(data, seed)
    for note in ready.notes:
        report(Event("data", text=note))
    return ready


def preprocessing_of(config: Config, interpolation: Interpolation) -> Preprocessing:
    """How images become the input of a backbone with that configuration."""
    return Preprocessing(
        size=config.input_size[1:],
        mean=config.mean,  # type: ignore[arg-type]  # three channels, checked by pydantic
        std=config.std,  # type: ignore[arg-type]
        interpolation=interpolation,
    )


def reported(data: ImageData) -> tuple[str, Split]:
    """The split a training verb reports on: test where there is one, else val."""
    name = "test" if "test" in data.splits else "val"
    return name, data.splits[name]


def in_order(split: Split, preprocessing: Preprocessing, batch_size: int = _BATCH) -> Iterable[Batch]:
    """The whole split, once, in its own order, without augmentation."""
    return loader(split, eval_transform(preprocessing), batch_size=batch_size, seed=0, epoch=0, shuffle=False)


def score(
    model: nn.Module, split: Split, preprocessing: Preprocessing, report: Report = silent, stage: str = "scoring"
) -> Scores:
    """Accuracy of the model on the split."""
    total = -(-len(split) // _BATCH)

    def watched() -> Iterable[Batch]:
        for index, batch in enumerate(in_order(split, preprocessing)):
            yield batch
            report(Event(stage, index + 1, total))

    return accuracy(model, watched())
