"""The teacher that a training verb names, and which of its features the model that learns still has."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from tailor import backbones, bundle
from tailor.errors import UsageError
from tailor.pruning.plan import WidthPlan
from tailor.spec import Spec
from tailor.tracing import remaining
from tailor.training import Teacher

_REMOTE = ("hf-hub:", "hf_hub:", "local-dir:")


@dataclass(frozen=True)
class Guide:
    """A model to learn from; `spec` is None where it is a backbone by name."""

    model: nn.Module
    spec: Spec | None = None

    def towards(self, student: Spec, head: str) -> Teacher:
        """The teacher of a model: where both come from one backbone, it shows its features in the channels left there.

        `head` is the path of the classifier; what enters it is what a teacher has to show.
        """
        if self.spec is None or self.spec.backbone.name != student.backbone.name:
            return Teacher(self.model)
        ours, theirs = _channels(student, head), _channels(self.spec, head)
        if ours is None:
            return Teacher(self.model)
        place = {channel: i for i, channel in enumerate(theirs.tolist())} if theirs is not None else None
        found = [channel if place is None else place.get(channel) for channel in ours.tolist()]
        return Teacher(self.model, None if None in found else torch.tensor(found))


def guide(teacher: str | None, classes: Sequence[str]) -> Guide | None:
    """The model to learn from, None where none is named: that of a bundle, which must know the same classes, or a
    backbone by name with its own classifier, which must have as many outputs (in the order of the classes)."""
    if teacher is None:
        return None
    if not Path(teacher).exists() and (teacher.startswith(_REMOTE) or "/" not in teacher):
        return Guide(_expert(teacher, len(classes)))
    loaded = bundle.read(Path(teacher))
    if loaded.spec.head.classes != tuple(classes):
        raise UsageError(
            f"the teacher `{teacher}` knows {len(loaded.spec.head.classes)} classes that are not the data's "
            f"{len(classes)}",
            hint="name a teacher that was adapted to the same classes",
        )
    return Guide(bundle.restore(loaded), loaded.spec)


def _expert(name: str, classes: int) -> nn.Module:
    """A pre-trained backbone as it is, if it tells so many classes apart; that is looked at before its weights are."""
    with torch.device("meta"):
        outputs = int(getattr(backbones.create(name, "random"), "num_classes", 0))
    if outputs != classes:
        raise UsageError(
            f"the teacher `{name}` has {outputs} classes of its own, the data {classes}",
            hint=f"adapt it first: `tailor adapt DATA --model {name} -o runs/teacher`, then `--teacher runs/teacher`",
        )
    return backbones.create(name)


def _channels(spec: Spec, head: str) -> Tensor | None:
    """Which of the backbone's features reach the classifier after all cuts, None where all do."""
    left = None
    for plan in spec.plans:
        kept = remaining(plan, f"{head}.weight", 1) if isinstance(plan, WidthPlan) else None
        if kept is not None:
            left = kept if left is None else left[kept]
    return left
