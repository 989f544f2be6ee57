"""The model that is learnt from: its logits, and what goes into its classifier (the pooled features)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailor.errors import TrainingError


class Teacher(nn.Module):
    """A model that gives logits, never trained, whatever images the student is given.

    `channels` are those of its features that the student still has, None for all. The images are led over to the
    teacher's own `size` (height, width) and, by `scale` and `shift` (3,), to its own normalisation, where those differ.
    With `memory` it looks its answers up by the images' positions, and the images have to be those it saw there.
    """

    memory: "Memory | None" = None

    channels: Tensor | None
    scale: Tensor | None
    shift: Tensor | None

    def __init__(
        self,
        model: nn.Module,
        channels: Tensor | None = None,
        size: tuple[int, int] | None = None,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.model, self.size = model, size
        for name, value in (("channels", channels), ("scale", scale), ("shift", shift)):
            self.register_buffer(name, value, persistent=False)

    @torch.no_grad()
    def forward(self, images: Tensor, **named: Any) -> Tensor:
        """Logits (B, K) of the student's images (B, C, H, W); `named` is what its task tells a model besides."""
        if self.scale is not None and self.shift is not None:
            images = images * self.scale.to(images).view(-1, 1, 1) + self.shift.to(images).view(-1, 1, 1)
        if self.size is not None and images.shape[-2:] != self.size:
            images = F.interpolate(images, self.size, mode="bicubic", antialias=True)
        return self.model(images, **named)  # type: ignore[no-any-return]

    def wanted(self, features: Tensor) -> Tensor:
        """The channels of its features (B, C) that the student should have, (B, C')."""
        return features if self.channels is None else features[:, self.channels]

    def answer(self, images: Tensor, indices: Tensor, features: bool, **named: Any) -> tuple[Tensor, Tensor | None]:
        """Logits (B, K) and, if asked for, the wanted features (B, C') of images at these positions of their split."""
        logits, seen = self.look(images, features, **named) if self.memory is None else self.memory.at(images, indices)
        return logits, self.wanted(seen) if features and seen is not None else None

    @torch.no_grad()
    def look(self, images: Tensor, features: bool, **named: Any) -> tuple[Tensor, Tensor | None]:
        """Logits (B, K) and, if asked for, all that goes into the classifier (B, C)."""
        if not features:
            return self(images, **named), None
        with entering_classifier(self.model) as found:
            logits = self(images, **named)
        return logits, found[0]


View = Callable[[Tensor], Tensor]
"""One of the few looks that an image has in training: of images (B, C, H, W)."""


@dataclass(frozen=True)
class Memory:
    """A teacher's logits (V, N, K) and, where students learn them, features (V, N, C), by view and place in a split.

    An image is known by its `marks` (V, N): a weighted sum of its values tells which of its views it is.
    """

    logits: Tensor
    features: Tensor | None
    marks: Tensor

    def at(self, images: Tensor, indices: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the teacher said to these views of the images at these places."""
        places = indices.cpu()
        view = (self.marks[:, places] - _marks(images)).abs().argmin(0)
        seen = None if self.features is None else self.features[view, places].to(images.device)
        return self.logits[view, places].to(images.device), seen


def remembered(
    teacher: Teacher, batches: Iterable[Any], count: int, features: bool, views: Sequence[View] = (lambda x: x,)
) -> Memory:
    """The answers to all views of a split's `count` images, whose batches come with positions; the teacher evaluates.

    In the order of the batches, so that they are the same whenever they are asked for.
    """
    place = next(teacher.parameters())
    parts: dict[tuple[int, str], list[Tensor]] = {}
    order: list[Tensor] = []
    for batch in batches:
        order.append(batch.indices)
        for number, view in enumerate(views):
            images = view(batch.images)
            logits, seen = teacher.look(images.to(place.device, place.dtype), features)
            found = {"logits": logits, "marks": _marks(images), **({} if seen is None else {"features": seen})}
            for name, one in found.items():
                parts.setdefault((number, name), []).append(one.cpu())

    def whole(name: str) -> Tensor:
        rows = torch.stack([torch.cat(parts[number, name]) for number in range(len(views))])
        placed = torch.full((len(views), count, *rows.shape[2:]), torch.nan, dtype=rows.dtype)
        placed[:, torch.cat(order)] = rows
        return placed

    return Memory(whole("logits"), whole("features") if (0, "features") in parts else None, whole("marks"))


def _marks(images: Tensor) -> Tensor:
    """A number for each image (B, ...), (B,) on the CPU: a sum of its values with fixed random weights."""
    values = images.detach().flatten(1).cpu().double()
    return values @ torch.randn(values.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@contextmanager
def entering_classifier(model: nn.Module) -> Iterator[list[Tensor]]:
    """While open, what goes into the classifier of `model`, (B, C), is added to the list at every forward pass."""
    ask = getattr(model, "get_classifier", None)
    found = ask() if callable(ask) else None
    classifier = found[0] if isinstance(found, (tuple, list)) else found  # a distilled DeiT has two
    if not isinstance(classifier, nn.Module):
        raise TrainingError(
            f"`{type(model).__name__}` does not say which of its modules is the classifier",
            hint="leave `features` of `distil` out of the recipe",
        )
    seen: list[Tensor] = []
    hook = classifier.register_forward_pre_hook(lambda _, given: seen.append(given[0].flatten(1)))
    try:
        yield seen
    finally:
        hook.remove()


def apart(features: Tensor, wanted: Tensor) -> Tensor:
    """How far features (B, C) are from the teacher's: squared distance over squared length, mean over the images.

    So it does not depend on how many channels there are, or how the batch is divided.
    """
    if features.shape != wanted.shape:
        raise TrainingError(
            f"the teacher's features have {wanted.shape[1]} channels, the model's {features.shape[1]}",
            hint="name the bundle that was cut as the teacher, or leave `features` of `distil` out",
        )
    length = wanted.square().sum(1).clamp_min(torch.finfo(wanted.dtype).tiny)
    return ((features - wanted).square().sum(1) / length).mean()
