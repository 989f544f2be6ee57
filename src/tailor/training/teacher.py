"""The model that is learnt from: its logits, and what goes into its classifier (the pooled features)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tailor.errors import TrainingError


class Teacher(nn.Module):
    """A model that gives logits, never trained, whatever images the student is given.

    `channels` are those of its features that the student still has, None for all. The images are led over to the
    teacher's own `size` (height, width) and, by `scale` and `shift` (3,), to its own normalisation, where those differ.
    """

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
    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of the student's images (B, C, H, W)."""
        if self.scale is not None and self.shift is not None:
            images = images * self.scale.to(images).view(-1, 1, 1) + self.shift.to(images).view(-1, 1, 1)
        if self.size is not None and images.shape[-2:] != self.size:
            images = F.interpolate(images, self.size, mode="bicubic", antialias=True)
        return self.model(images)  # type: ignore[no-any-return]

    def wanted(self, features: Tensor) -> Tensor:
        """The channels of its features (B, C) that the student should have, (B, C')."""
        return features if self.channels is None else features[:, self.channels]


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
