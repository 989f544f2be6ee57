"""What a step minimises: cross-entropy with label smoothing, mixed images and a teacher; and what a batch is.

Mixing (mixup, Zhang et al. 2018; CutMix, Yun et al. 2019) is our own: timm's `Mixup` draws from numpy's global
generator and refuses a batch of odd size, which the last one often is. Like timm's, it mixes a batch with its mirror.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import send_to_device
from torch import Tensor, nn

from tailor.errors import TrainingError
from tailor.training.recipe import Distil, Recipe
from tailor.training.teacher import Teacher, apart, entering_classifier


class Batch(Protocol):
    """Images (B, C, H, W), B targets (classes as (B,)), positions in the split (B,), and the B file names."""

    @property
    def images(self) -> Tensor: ...  # noqa: D102

    @property
    def targets(self) -> Any: ...  # noqa: D102

    @property
    def indices(self) -> Tensor: ...  # noqa: D102

    @property
    def sources(self) -> tuple[str, ...]: ...  # noqa: D102


@dataclass(frozen=True)
class Share:
    """A batch as a step gets it: on the device and, where the recipe mixes, mixed.

    Image i is `keep` of its own and `1 - keep` of the image whose target is `partners[i]`; unmixed, `keep` is 1 and
    `partners` are the targets.
    """

    images: Tensor
    targets: Any
    indices: Tensor
    sources: tuple[str, ...]
    partners: Any
    keep: float = 1.0

    def __len__(self) -> int:
        return len(self.images)

    def part(self, start: int, stop: int) -> "Share":
        """The images from `start` to `stop`."""
        return Share(
            self.images[start:stop],
            self.targets[start:stop],
            self.indices[start:stop],
            self.sources[start:stop],
            self.partners[start:stop],
            self.keep,
        )


Step = Callable[[nn.Module, Share], Tensor]  # the mean loss over the images of the share, a scalar


def place(batch: Batch, device: torch.device, dtype: torch.dtype) -> Share:
    """The batch on `device`, its images in the model's `dtype`."""
    targets = send_to_device(batch.targets, device)
    images = batch.images.to(device, dtype, non_blocking=True)
    return Share(images, targets, batch.indices, tuple(batch.sources), targets)


def mix(share: Share, recipe: Recipe, generator: np.random.Generator) -> Share:
    """Mixup or CutMix with the mirrored batch, as the recipe says (both: either, by chance); one ratio per batch."""
    if not (recipe.mixup or recipe.cutmix) or len(share) < 2:
        return share
    if not isinstance(share.targets, Tensor) or share.targets.dim() != 1:
        raise TrainingError(
            "mixup and cutmix need one class per image, this task has other targets", hint="leave both at 0"
        )
    cut = bool(recipe.cutmix) and (not recipe.mixup or bool(generator.random() < 0.5))
    alpha = recipe.cutmix if cut else recipe.mixup
    keep = float(generator.beta(alpha, alpha))
    mirrored = share.images.flip(0)
    if cut:
        top, bottom, left, right = _box(share.images.shape[-2], share.images.shape[-1], 1 - keep, generator)
        images = share.images.clone()
        images[..., top:bottom, left:right] = mirrored[..., top:bottom, left:right]
        keep = 1 - (bottom - top) * (right - left) / (
            images.shape[-2] * images.shape[-1]
        )  # the border may clip the box
    else:
        images = keep * share.images + (1 - keep) * mirrored
    return replace(share, images=images, partners=share.targets.flip(0), keep=keep)


def objective(logits: Tensor, share: Share, recipe: Recipe) -> Tensor:
    """Mean cross-entropy of `logits` (B, K) with the labels of a share, mixed or not, smoothed as the recipe says."""
    logits = _full(logits)
    loss = F.cross_entropy(logits, share.targets, label_smoothing=recipe.label_smoothing)
    if share.keep == 1.0:
        return loss
    other = F.cross_entropy(logits, share.partners, label_smoothing=recipe.label_smoothing)
    return share.keep * loss + (1 - share.keep) * other


def classification(recipe: Recipe, teacher: Teacher | None = None) -> Step:
    """The step of a classifier, `model(images) -> (B, K)`; with a teacher, it learns from that as well.

    The teacher sees the same, mixed images; it must be in eval mode and on the device. TrainingError where it tells
    another number of classes apart, or has features of another size that are to be learnt.
    """
    distil = recipe.distil

    def step(model: nn.Module, share: Share) -> Tensor:
        if teacher is None:
            return objective(model(share.images), share, recipe)
        if not distil.features:
            return from_logits(model, share, teacher(share.images))
        with entering_classifier(teacher.model) as theirs, entering_classifier(model) as ours:
            loss = from_logits(model, share, teacher(share.images))
        return loss + distil.features * apart(_full(ours[0]), _full(teacher.wanted(theirs[0])))

    def from_logits(model: nn.Module, share: Share, target: Tensor) -> Tensor:
        if distil.kind == "two-heads":
            with _both_heads(model):
                logits, taught = model(share.images)
        else:
            logits = taught = model(share.images)
        smoothing = recipe.label_smoothing if distil.kind == "two-heads" else 0.0
        learnt = distillation(taught, target, distil, smoothing)
        return (1 - distil.weight) * objective(logits, share, recipe) + distil.weight * learnt

    return step


@contextmanager
def _both_heads(model: nn.Module) -> Iterator[None]:
    """The forward pass gives the logits of the classifier and of the distillation classifier (timm's way to ask)."""
    if not isinstance(getattr(model, "distilled_training", None), bool):
        raise TrainingError(
            f"`{type(model).__name__}` has no distillation classifier", hint="set `distil: {kind: hard}` in the recipe"
        )
    before = model.distilled_training
    try:
        model.distilled_training = True  # type: ignore[assignment]
        yield
    finally:
        model.distilled_training = before


def distillation(logits: Tensor, target: Tensor, distil: Distil, smoothing: float = 0.0) -> Tensor:
    """How far `logits` (B, K) are from the teacher's (B, K); see `Distil`."""
    if logits.shape[1:] != target.shape[1:]:
        raise TrainingError(
            f"the teacher has {target.shape[-1]} classes, the model {logits.shape[-1]}",
            hint="distil from a bundle that was adapted to the same data",
        )
    logits, target = _full(logits), _full(target)
    if distil.kind != "soft":
        return F.cross_entropy(logits, target.argmax(dim=-1), label_smoothing=smoothing)
    student, wanted = F.log_softmax(logits / distil.temperature, -1), F.log_softmax(target / distil.temperature, -1)
    return F.kl_div(student, wanted, reduction="batchmean", log_target=True) * distil.temperature**2


def _full(logits: Tensor) -> Tensor:
    """Half precision is too coarse for a softmax over many classes."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _box(height: int, width: int, area: float, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of a box of `area` (a fraction), clipped where its random centre lies near a border."""
    tall, wide = int(height * area**0.5), int(width * area**0.5)
    y, x = int(generator.integers(height)), int(generator.integers(width))
    top, left = y - tall // 2, x - wide // 2
    return max(top, 0), min(top + tall, height), max(left, 0), min(left + wide, width)
