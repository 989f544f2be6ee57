"""Modules that begin where the data say, set before anything trains."""

from collections.abc import Iterator

from torch import Tensor

from tailor.build import Opened
from tailor.events import Event
from tailor.training import processes_here
from tailor.tuning.start import start_, wants_start
from tailor.workflow.context import Run
from tailor.workflow.data import drawn, in_order

SAMPLES = 512
"""Training images that are looked at; every process looks at the same."""


def begun_(opened: Opened, run: Run) -> Opened:
    """The opened model, in place, with what its last tune plan wants to begin in its layers' inputs."""
    plan = opened.spec.tuning[-1] if opened.spec.tuning else None
    if plan is None or not wants_start(plan):
        return opened
    (part,) = drawn([run.images.splits["train"]], SAMPLES, run.recipe.seed)
    device = processes_here().device

    def images() -> Iterator[Tensor]:
        return (batch.images for batch in in_order(part, opened.spec.preprocessing, opened.spec.head))

    count = start_(opened.model.to(device), plan, images, run.recipe.seed)
    opened.model.cpu()
    run.tell(Event("starting", text=f"{count} low-rank modules begin in what {len(part)} images give their layers"))
    return opened
