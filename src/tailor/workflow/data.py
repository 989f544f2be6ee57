"""Opening the data a verb was given: find it, look it over, divide it, and turn a split into batches and figures."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
from torch import nn

from tailor.data.check import check, without_unreadable
from tailor.data.images import ImageData, Split, for_training, open_data
from tailor.data.loading import Batch, loader
from tailor.data.transforms import scoring_transform
from tailor.errors import DataError, check_choice
from tailor.events import Event, Tell, silent
from tailor.preprocessing import Input
from tailor.tasks import Head, task_of
from tailor.training import evaluate_each

BATCH = {"images": 64, "texts": 8}
"""Samples of a pass, by what is read: of a text every token has an output for every word."""
LOOKED_OVER = 20_000
"""Data sets of more images are not decoded in advance: unreadable images are met, and left out, while training."""

Corrupt = Literal["skip", "fail"]


def open_checked(
    where: str,
    *,
    seed: int,
    corrupt: Corrupt,
    tell: Tell,
    kind: str | None = None,
    classes: Sequence[str] | None = None,
) -> ImageData:
    """The data set, looked over: findings are told; unreadable images are left out or fatal, by `corrupt`."""
    check_choice("corrupt", corrupt, get_args(Corrupt))
    data = open_data(where, kind=kind, seed=seed, classes=classes)
    count = sum(len(split) for split in data.splits.values())
    found = check(
        data,
        deep=count <= LOOKED_OVER,
        progress=lambda done, total: tell(Event("looking over the images", done, total)),
    )
    for line in found.lines() if not found.clean else ():
        tell(Event("data", text=line))
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


def tell_left_out(data: ImageData, tell: Tell) -> None:
    """Say which images could not be read when they were met, and were left out."""
    lost = {source: why for split in data.splits.values() for source, why in split.left_out.items()}
    for source in list(lost)[:3]:
        tell(Event("left out", text=lost[source]))
    if len(lost) > 3:
        tell(Event("left out", text=f"{len(lost)} images in all could not be read"))


def divided(data: ImageData, seed: int, tell: Tell) -> ImageData:
    """The data with `train` and `val`; says where val was made."""
    ready = for_training(data, seed)
    for note in ready.notes:
        tell(Event("data", text=note))
    return ready


def reported(data: ImageData) -> tuple[str, Split]:
    """The split a training verb reports on, and its own name: test where there is one, else val."""
    split = data.splits["test" if "test" in data.splits else "val"]
    return split.name, split


def in_order(split: Split, preprocessing: Input, head: Head, batch_size: int | None = None) -> Iterable[Batch]:
    """The whole split, once, in its own order, without augmentation, its targets those of the head's task.

    Masks and boxes stay as they are stored: they are compared with at full size.
    """
    return loader(
        split,
        scoring_transform(preprocessing),
        batch_size=batch_size or BATCH[preprocessing.reads],
        seed=0,
        epoch=0,
        shuffle=False,
        collate=task_of(head).collate,
    )


def score(
    model: nn.Module,
    head: Head,
    split: Split,
    preprocessing: Input,
    tell: Tell = silent,
    stage: str = "scoring",
) -> dict[str, Any]:
    """The task's figures of the model on the split, its leading metric first."""
    return score_each(model, [lambda: model], head, split, preprocessing, tell, stage)[0]


def score_each(
    model: nn.Module,
    routes: Sequence[Callable[[], nn.Module]],
    head: Head,
    split: Split,
    preprocessing: Input,
    tell: Tell = silent,
    stage: str = "scoring",
) -> list[dict[str, Any]]:
    """The figures of every route through one model on the split; see `training.evaluate_each`."""
    total = -(-len(split) // BATCH[preprocessing.reads])

    def watched() -> Iterable[Batch]:
        for index, batch in enumerate(in_order(split, preprocessing, head)):
            yield batch
            tell(Event(stage, index + 1, total))

    return evaluate_each(model, routes, watched(), task_of(head), head)


def drawn(splits: Sequence[Split], samples: int, seed: int) -> list[Split]:
    """Of the splits together, `samples` records at most, the same share of every class where targets are classes."""
    targets = [record.target for split in splits for record in split.records]
    classes = all(isinstance(target, int) for target in targets)
    labels = np.asarray(targets if classes else [0] * len(targets), dtype=np.int64)
    order = np.random.default_rng(seed).permutation(len(labels))
    share = np.empty(len(labels))
    for label in np.unique(labels):
        members = order[labels[order] == label]
        share[members] = (np.arange(len(members)) + 0.5) / len(members)
    chosen = set(np.argsort(share, kind="stable")[:samples].tolist())
    parts, start = [], 0
    for split in splits:
        records = tuple(r for i, r in enumerate(split.records, start) if i in chosen)
        parts.append(replace(split, records=records))
        start += len(split)
    return parts
