"""The teacher that a training verb names, and which of its features the model that learns still has."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from tailor import backbones, bundle
from tailor.backbones import causal
from tailor.build import Opened
from tailor.errors import UsageError
from tailor.plans import PLANS, AnyPlan
from tailor.preprocessing import Preprocessing
from tailor.spec import BackboneRef, Spec
from tailor.tasks import Head
from tailor.tracing import WidthPlan, remaining
from tailor.training import Teacher
from tailor.training.teacher import Memory
from tailor.workflow.names import REMOTE


@dataclass(frozen=True)
class Guide:
    """A model to learn from, opened as any other.

    `known` are its answers so far, for whoever learns from it next on the same images.
    """

    opened: Opened
    known: dict[Any, Memory] = field(default_factory=dict, compare=False)

    def towards(self, student: Spec, head: str, features: bool) -> Teacher:
        """The teacher of a model: it sees that model's images, made its own where size or normalisation differ.

        With `features` it also shows what enters its classifier (`head` is the path) in the channels that both have,
        where both were cut from one backbone. UsageError where the model has some that the teacher has not.
        """
        spec, model = self.opened.spec, self.opened.model
        channels = self._shared(student, head) if features and spec.backbone.name == student.backbone.name else None
        ours, own = student.preprocessing, spec.preprocessing
        if not (isinstance(ours, Preprocessing) and isinstance(own, Preprocessing)):  # tokens are what they are
            return Teacher(model, channels, None)
        size = None if own.size == ours.size else own.size
        if (own.mean, own.std) == (ours.mean, ours.std):
            return Teacher(model, channels, size)
        mean, std, wanted, spread = (torch.tensor(v) for v in (ours.mean, ours.std, own.mean, own.std))
        return Teacher(model, channels, size, scale=std / spread, shift=(mean - wanted) / spread)

    def _shared(self, student: Spec, head: str) -> Tensor | None:
        ours, theirs = _channels(student.plans, head), _channels(self.opened.spec.plans, head)
        if theirs is None:
            return ours
        place = {channel: i for i, channel in enumerate(theirs.tolist())}
        found = [place.get(channel) for channel in ours.tolist()] if ours is not None else [None]
        if None in found:
            raise UsageError(
                "the teacher was cut where the model was not: it lacks features that are to be learnt",
                hint="name the bundle that the model was cut from, or leave `features` of `distil` out",
            )
        return torch.tensor(found)


def guide(teacher: str | None, head: Head) -> Guide | None:
    """The model to learn from, None where none is named: that of a bundle, which must know the same classes, or a
    backbone by name with its own classifier, which must have as many outputs (in the order of the classes)."""
    if teacher is None:
        return None
    named = teacher.startswith(REMOTE) or causal.is_causal(teacher) or "/" not in teacher
    if not Path(teacher).exists() and named:
        return _expert(teacher, head)
    loaded = bundle.read(Path(teacher))
    if (loaded.spec.head.kind, loaded.spec.head.classes) != (head.kind, tuple(head.classes)):
        raise UsageError(
            f"the teacher `{teacher}` knows {len(loaded.spec.head.classes)} classes that are not the data's "
            f"{len(head.classes)}",
            hint="name a teacher that was adapted to the same classes",
        )
    model = bundle.restore(loaded)
    return Guide(Opened(loaded.spec, model, backbones.describe(model)))


def _expert(name: str, head: Head) -> Guide:
    """A pre-trained backbone as it is, if it tells so many classes apart; that is looked at before its weights are."""
    classes = len(head.classes)
    with torch.device("meta"):
        outputs = int(getattr(backbones.create(name, "random"), "num_classes", 0))
    if outputs != classes:
        raise UsageError(
            f"the teacher `{name}` has {outputs} classes of its own, the data {classes}",
            hint=f"adapt it first: `tailor adapt DATA --model {name} -o runs/teacher`, then `--teacher runs/teacher`",
        )
    model = backbones.create(name)
    spec = Spec(BackboneRef(name), head, backbones.input_of(model, name))  # type: ignore[arg-type]
    return Guide(Opened(spec, model, backbones.describe(model)))


def _channels(plans: Sequence[AnyPlan], head: str) -> Tensor | None:
    """Which of the backbone's features reach the classifier after all cuts, None where all do."""
    left = None
    for plan in plans:
        kept = remaining(cast(WidthPlan, plan), f"{head}.weight", 1) if PLANS[plan.kind].narrows else None
        if kept is not None:
            left = kept if left is None else left[kept]
    return left
