"""The way of images through a cut model and, beside it, through the dense one, in segments that are run one by one.

Where a family says how its models are taken apart, the states between two segments are held, as many as a fixed amount
of memory takes; the others are computed anew from the images. So repairing layer by layer does not run the whole model
for each, and memory does not grow with the images.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tailor import backbones
from tailor.backbones.composition import Parts
from tailor.errors import ModelError
from tailor.pruning.recover.places import left_as

RunModel = Callable[[Tensor], Any]
UnlabelledImages = Callable[[], Iterable[Tensor]]
"""Unlabelled images (B, C, H, W), the same ones in the same order each time it is called."""
HELD = 1 << 30
"""Bytes of states that are held; what is beyond is computed again."""


@dataclass(frozen=True)
class WayPart:
    """A part of the way: what the cut model computes in it, and the dense one, dropped blocks included.

    `shortened` says that there are any.
    """

    ours: RunModel
    theirs: RunModel
    shortened: bool = False


def segments(cut: nn.Module, dense: nn.Module, plans: Sequence[Any], images: Tensor) -> tuple[WayPart, ...]:
    """Stem, a segment a block, and tail, where both models can be taken apart so; else the whole models as one."""
    whole = (WayPart(cut, dense, any(getattr(plan, "dropped", ()) for plan in plans)),)
    size = (int(images.shape[-2]), int(images.shape[-1]))
    try:
        ours, theirs = backbones.parts(cut, size), backbones.parts(dense, size)
    except ModelError:
        return whole
    names = [left_as(part.path, plans) for part in theirs.blocks]
    ends = [names.index(part.path) if part.path in names else -1 for part in ours.blocks]
    if (
        -1 in ends
        or ends != sorted(set(ends))
        or not (_is_whole(ours, cut, images) and _is_whole(theirs, dense, images))
    ):
        return whole
    found = [WayPart(ours.stem, theirs.stem)]
    for part, start, end in zip(ours.blocks, [-1, *ends], ends):
        found.append(WayPart(part, partial(_chained, [*theirs.blocks[start + 1 : end + 1]]), end > start + 1))
    last = ends[-1] if ends else -1
    behind = [*theirs.blocks[last + 1 :]]
    return (*found, WayPart(ours.tail, partial(_chained, [*behind, theirs.tail]), bool(behind)))


def _chained(runs: Sequence[RunModel], x: Tensor) -> Any:
    for run in runs:
        x = run(x)
    return x


def _is_whole(parts: Parts, model: nn.Module, images: Tensor) -> bool:
    """Whether the parts compute what the model does: not where a decoder reads it in other places."""
    made = model(images)
    if not isinstance(made, Tensor):
        return False
    again = parts(images)
    return made.shape == again.shape and torch.allclose(made, again, rtol=1e-3, atol=1e-4)


@dataclass
class Way:
    """The images, and how far they are: `at` is the segment that comes next."""

    segments: tuple[WayPart, ...]
    batches: UnlabelledImages
    device: torch.device
    most: int = HELD
    at: int = 0
    held: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    count: int = 0
    images: int = 0

    def __post_init__(self) -> None:
        self._hold((images, images) for images in self._images())

    def _images(self) -> Iterator[Tensor]:
        for images in self.batches():
            yield images.to(self.device)

    def _hold(self, states: Iterable[tuple[Any, Any]]) -> None:
        """Take up states as far as there is room for them; those of before go one by one."""
        room, held, count, seen = self.most, {}, 0, 0
        for ours, theirs in states:
            self.held.pop(count, None)
            room -= _bytes(ours) + (0 if ours is theirs else _bytes(theirs))
            if room >= 0:
                held[count] = (ours, theirs)
            count, seen = count + 1, seen + len(ours)
        self.held, self.count, self.images = held, count, seen

    def states(self) -> Iterator[tuple[Any, Any]]:
        """What enters the next segment of both models, batch by batch."""
        count = self.count
        if count and len(self.held) == count:
            for number in range(count):
                yield _copied(self.held[number])
            return
        for number, images in enumerate(self._images()):
            if number in self.held:
                yield _copied(self.held[number])
                continue
            ours = theirs = images
            for segment in self.segments[: self.at]:
                ours, theirs = segment.ours(ours), segment.theirs(theirs)
            yield ours, theirs

    def go_on(self) -> None:
        """Pass the next segment."""
        segment = self.segments[self.at]
        passed = ((segment.ours(ours), segment.theirs(theirs)) for ours, theirs in self.states())
        self._hold(passed)
        self.at += 1


def _copied(state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Copies: a segment may change what it is given in place."""
    return state[0].clone(), state[1].clone()


def _bytes(state: Tensor) -> int:
    return state.numel() * state.element_size()
