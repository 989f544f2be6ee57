"""What a planner and a training are given: the opened model, the data, and functions that measure."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from tailor.build import Opened
from tailor.data.images import ImageData, Split
from tailor.data.loading import Batch
from tailor.deploy.runtimes import EAGER, Runtime
from tailor.events import Event, Tell
from tailor.inputs import Example
from tailor.plans import AnyPlan
from tailor.tasks import Task, task_of
from tailor.training import Recipe
from tailor.workflow.data import drawn, in_order
from tailor.workflow.teacher import Guide


@dataclass(frozen=True)
class Run:
    """One training: on which images (`source`: as the user named them), how, where it leaves things, whom it tells."""

    images: ImageData
    source: str
    recipe: Recipe
    folder: Path
    tell: Tell
    teacher: Guide | None = None
    workers: int = 0
    resume: bool = False
    trackers: tuple[str, ...] = ()


@dataclass(frozen=True)
class CutStep:
    """Which of how many steps a plan is; `whole` are the sizes, before the first, of the groups that steps have cut."""

    number: int = 1
    of: int = 1
    whole: Mapping[str, int] = field(default_factory=dict)

    @property
    def may_be_empty(self) -> bool:
        """Whether it may remove nothing: before the last step, or where an earlier one removed something."""
        return self.number < self.of or bool(self.whole)


@dataclass(frozen=True)
class Recovered:
    """What recovery did to a cut model, `how`, and in a sentence: layers, their errors, seconds."""

    how: str
    text: str = ""
    layers: int = 0
    error_before: float = 0.0
    error_after: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Decision:
    """What a planner decided: plans in the model's own names, in order, and a line that says why.

    `tensors` are those of the model they lead to, by name, where that is more than carrying the plans out: a search has
    trained them, or what was cut was `recovered`. `candidates` are those that it was chosen from, as plain values;
    `diagram` says in lines what else could be had. `runtime` is what times were measured in, and are to be again.
    """

    plans: tuple[AnyPlan, ...]
    why: str = ""
    tensors: Mapping[str, Tensor] | None = None
    recovered: Recovered | None = None
    candidates: Sequence[Mapping[str, Any]] = ()
    diagram: tuple[str, ...] = ()
    runtime: Runtime = EAGER


@dataclass(frozen=True)
class Context:
    """Everything a planner may ask for. `images` is None where no data were named; `known` outlives one planner.

    `recipe` holds the seed; what the planner draws or leaves behind goes to `folder`. `spent` are seconds of the run's
    time that went before, to a planner that has a time.
    """

    opened: Opened
    recipe: Recipe
    folder: Path
    tell: Tell
    images: ImageData | None = None
    workers: int = 0
    resume: bool = False
    step: CutStep = CutStep()
    teacher: Guide | None = None
    known: dict[Any, Any] = field(default_factory=dict)
    spent: float = 0.0

    @property
    def task(self) -> Task:
        """The task of the model's head."""
        return task_of(self.opened.spec.head)

    @property
    def example(self) -> Example:
        """What the model is traced with, from the seed."""
        return self.opened.spec.inputs.example(seed=self.recipe.seed)

    def split(self, name: str) -> Split:
        """A split of the data, which the planner has said it needs."""
        assert self.images is not None, "a planner that needs images says so in `needs`"
        return self.images.splits[name]

    def batches(self, split: Split, stage: str = "", text: str = "") -> Iterator[Batch]:
        """A split's batches in order, as the model wants its images; each told once it was used."""
        done = 0
        if stage:
            self.tell(Event(stage, done, len(split), text))
        for batch in in_order(split, self.opened.spec.preprocessing, self.opened.spec.head):
            yield batch
            done += len(batch.sources)
            if stage:
                self.tell(Event(stage, done, len(split), text))

    def sample(self, samples: int, *names: str) -> list[Split]:
        """Of the named splits together, `samples` records at most, the same share of every class if there are any."""
        return drawn([self.split(name) for name in names], samples, self.recipe.seed)

    def run(self) -> Run:
        """The training that the plan is for."""
        assert self.images is not None
        return Run(self.images, "", self.recipe, self.folder, self.tell, self.teacher, self.workers, self.resume)

    def at(self, opened: Opened) -> "Context":
        """The same question about another model."""
        return replace(self, opened=opened)


Plan = Callable[[Context], Decision]
Batches = Iterable[Batch]
