"""What a step minimises: the task's loss, on mixed images and with a teacher; and what a batch is.

Mixing (mixup, Zhang et al. 2018; CutMix, Yun et al. 2019) is our own: timm's `Mixup` draws from numpy's global
generator and refuses a batch of odd size, which the last one often is. Like timm's, it mixes a batch with its mirror.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from tailor.backbones.distilled import both_heads
from tailor.criteria.samples import placed
from tailor.errors import TrainingError
from tailor.recipe import Recipe
from tailor.tasks import Task
from tailor.training.processes import drawing
from tailor.training.teacher import Teacher, apart, entering_classifier


class BatchLike(Protocol):
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
    `partners` are the targets. What a loss draws (the points at which masks are compared) follows from `drawn` alone,
    the same in every share of an update: so several processes, or several pieces, train what one does.
    """

    images: Tensor
    targets: Any
    indices: Tensor
    sources: tuple[str, ...]
    partners: Any
    keep: float = 1.0
    drawn: int = 0

    def __len__(self) -> int:
        return len(self.images)

    def loss(self, task: Task, output: Any) -> Tensor:
        """The task's mean loss over the share, of mixed images the mixture of both."""
        own = self._mean(task, output, self.targets)
        if self.keep == 1.0:
            return own
        return self.keep * own + (1 - self.keep) * self._mean(task, output, self.partners)

    def _mean(self, task: Task, output: Any, targets: Any) -> Tensor:
        with drawing(self.images.device, self.drawn):
            return task.loss(output, targets).sum() / max(task.weight(targets), 1)

    def part(self, start: int, stop: int) -> "Share":
        """The images from `start` to `stop`."""
        return Share(
            self.images[start:stop],
            self.targets[start:stop],
            self.indices[start:stop],
            self.sources[start:stop],
            self.partners[start:stop],
            self.keep,
            self.drawn,
        )


Step = Callable[[nn.Module, Share], Tensor]  # the mean loss over the images of the share, a scalar


def place(batch: BatchLike, device: torch.device, dtype: torch.dtype, drawn: int = 0) -> Share:
    """The batch on `device`, its images in the model's `dtype`; tokens stay whole numbers."""
    targets = send_to_device(batch.targets, device)
    images = placed(batch.images, device, dtype)
    return Share(images, targets, batch.indices, tuple(batch.sources), targets, drawn=drawn)


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


def smoothed(task: Task, recipe: Recipe) -> Task:
    """The task with the recipe's label smoothing; TrainingError where its loss knows none."""
    if not recipe.label_smoothing:
        return task
    if not any(field.name == "label_smoothing" for field in fields(task)):  # type: ignore[arg-type]
        raise TrainingError(f"{task.kind} has no label smoothing", hint="set `label_smoothing: 0` in the recipe")
    return replace(task, label_smoothing=recipe.label_smoothing)  # type: ignore[type-var]


def supervised(task: Task, recipe: Recipe, teacher: Teacher | None = None) -> Step:
    """The step of a model that learns a task, `model(images)`; with a teacher, it learns from that as well.

    A task may have more to tell a model, both of them: what `named(targets)` gives.

    The teacher sees the same, mixed images; it must be in eval mode and on the device. TrainingError where the task
    cannot learn from one, where it tells another number of classes apart, or has features of another size that are to
    be learnt.
    """
    distil, labelled = recipe.distil, smoothed(task, recipe)
    named: Callable[[Any], dict[str, Tensor]] = getattr(task, "named", lambda targets: {})
    if teacher is None:
        return lambda model, share: share.loss(labelled, model(share.images, **named(share.targets)))
    learn = getattr(labelled if distil.kind == "two-heads" else task, "learn", None)
    if learn is None:
        raise TrainingError(f"{task.kind} has no way to learn from a teacher", hint="leave `--teacher` out")

    def from_output(model: nn.Module, share: Share, wanted: Tensor) -> Tensor:
        if distil.kind == "two-heads":
            with both_heads(model):
                output, taught = model(share.images, **named(share.targets))
        else:
            output = taught = model(share.images, **named(share.targets))
        learnt = learn(taught, wanted, share.targets, distil.kind != "soft", distil.temperature).sum()
        learnt = learnt / max(task.weight(share.targets), 1)
        return (1 - distil.weight) * share.loss(labelled, output) + distil.weight * learnt

    def step(model: nn.Module, share: Share) -> Tensor:
        more = named(share.targets)
        wanted, theirs = teacher.answer(share.images, share.indices, distil.features > 0, **more)
        if theirs is None:
            return from_output(model, share, wanted)
        with entering_classifier(model) as ours:
            loss = from_output(model, share, wanted)
        return loss + distil.features * apart(_full(ours[0]), _full(theirs))

    return step


def _full(logits: Tensor) -> Tensor:
    """Half precision is too coarse for a softmax over many classes."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _box(height: int, width: int, area: float, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of a box of `area` (a fraction), clipped where its random centre lies near a border."""
    tall, wide = int(height * area**0.5), int(width * area**0.5)
    y, x = int(generator.integers(height)), int(generator.integers(width))
    top, left = y - tall // 2, x - wide // 2
    return max(top, 0), min(top + tall, height), max(left, 0), min(left + wide, width)
