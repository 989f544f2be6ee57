"""A bundle's model as a file that runs without tailor."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tailor.bundle import peft
from tailor.data.images import for_evaluation
from tailor.data.transforms import eval_transform
from tailor.deploy import export as deploy
from tailor.errors import ModelError, UsageError
from tailor.events import Tell
from tailor.inputs import Example
from tailor.spec import Spec
from tailor.tasks import task_of
from tailor.workflow.data import divided, open_checked
from tailor.workflow.opened import deployed, open_bundle
from tailor.workflow.quantise import Integers, Quantiser

COMPARED, ENOUGH = 20, 0.999
"""Images on which a dense file is held against its model, and the share of pixels that must agree."""
NEAR = 0.05
"""How far its scores may be off on noise: a mask that flips there moves them, and images decide."""


def exported(
    path: Path,
    route: str | None,
    target: Path,
    data: str | None,
    probabilities: bool,
    weights: str | None,
    download: bool,
    overwrite: bool,
    tell: Tell,
    tolerance: float | None = None,
) -> tuple[int, float, float | None, Integers | None]:
    """The file's bytes, the largest difference found from the eager model, how far both agree on images, and what came
    of integers, where a `tolerance` says how much they may lose (the difference is that of the float file before).
    """
    opened = open_bundle(path, weights, download, route)
    spec = opened.spec
    if target.suffix == ".peft":
        return peft.write(target, opened.model, spec), 0.0, None, None
    model = deployed(opened)
    if probabilities:
        if not spec.head.classes:
            raise UsageError("`--probabilities` is for classes, and this head has none", hint="leave it out")
        model = nn.Sequential(model, nn.Softmax(dim=-1)).eval()
    task, agreement = task_of(spec.head), None
    exportable = getattr(task, "exportable", None)
    quantiser = None if tolerance is None else _quantiser(spec, exportable, data, tolerance, tell)
    if exportable is not None:
        if data is None:
            raise UsageError(
                f"a model for {task.kind} is compared on images before its file is kept", hint="add `--data DATA`"
            )
        model = exportable(model, spec.head).eval()
        agreement = _Agreement(model, task, _images(spec, data, tell))
    made = deploy.export(
        model,
        spec.inputs,
        target,
        classes=spec.head.classes,
        preprocessing=asdict(spec.preprocessing),
        overwrite=overwrite,
        output="probabilities" if probabilities else getattr(task, "output", "logits"),
        tolerance=1e-4 if agreement is None else NEAR,
        accept=agreement,
        last=quantiser,
    )
    share = None if agreement is None else agreement.share
    return target.stat().st_size, float(made.difference), share, quantiser.found if quantiser else None


def _quantiser(spec: Spec, exportable: Any, data: str | None, tolerance: float, tell: Tell) -> Quantiser:
    """Who makes integers of the float file; UsageError for a task whose file is another thing than its model."""
    task = task_of(spec.head)
    if exportable is not None or not data or spec.preprocessing.reads != "images":
        raise UsageError(
            f"`--int8` is for models that give numbers for an image, not for {task.kind}", hint="leave `--int8` out"
        )
    found = open_checked(data, seed=0, corrupt="skip", tell=tell, kind=task.targets, classes=spec.head.classes or None)
    return Quantiser(spec, divided(found, 0, tell), tolerance, 0, tell)


class _Agreement:
    """Holds what a file computes against the model, image by image; ModelError where they do not agree."""

    def __init__(self, model: nn.Module, task: Any, images: Sequence[Tensor]) -> None:
        self.model, self.task, self.images, self.share = model, task, images, 0.0

    def __call__(self, run: Callable[[Example], list[Tensor]]) -> None:
        with torch.no_grad():
            each = [self.task.agreement(self.model(one[None]), run((one[None],))) for one in self.images]
        self.share = sum(each) / len(each)
        if self.share < ENOUGH:
            raise ModelError(
                f"the exported file agrees with the model on {self.share:.2%} of the pixels of {len(each)} images, "
                f"at least {ENOUGH:.1%} is accepted; nothing was kept",
                hint="export to the other format",
            )


def _images(spec: Spec, data: str, tell: Tell) -> list[Tensor]:
    """The first images of the data, as the model wants them."""
    found = open_checked(data, seed=0, corrupt="skip", tell=tell, kind=task_of(spec.head).targets)
    split, transform = for_evaluation(found), eval_transform(spec.preprocessing)
    return [transform(split.read(index)) for index in range(min(COMPARED, len(split)))]
