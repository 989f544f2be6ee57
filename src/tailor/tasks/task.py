"""What a task has to offer. Everything that differs between a classifier and a segmenter stands behind these names."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:  # the names of tasks are told before torch is loaded
    from torch import Tensor, nn
    from torchmetrics import MetricCollection

    from tailor.anatomy import Anatomy


class Head(Protocol):
    """What stands at the end of a backbone, as a spec stores it: its kind, its names, the seed of its start."""

    @property
    def kind(self) -> str:
        """The name in JSON."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of what is told apart; empty where nothing is."""
        ...

    @property
    def seed(self) -> int:
        """What its start is drawn from."""
        ...


class Labelled(Protocol):
    """What a task asks of a data set."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of its classes; empty where it has none."""
        ...

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of its images: of the first, where they differ."""
        ...


class Task(Protocol):
    """A row of `TASKS`: a frozen dataclass whose fields are the settings of its loss.

    `head_type` is the class of its heads, `targets` the kind of data it learns from, by the name that data know. With
    `groups` every sample belongs to one class, so that features can be compared by class. `metric` names what chooses
    the epoch and leads a result; `larger` says whether more of it is better.

    A row may also say `counted` (the metric is a share of the records) and `hub` (what model hubs call the task).
    """

    head_type: ClassVar[type]
    targets: ClassVar[str]
    groups: ClassVar[bool]
    metric: ClassVar[str]
    larger: ClassVar[bool]

    @property
    def kind(self) -> str:
        """The name that `--task` knows."""
        ...

    def head(self, data: Labelled, seed: int) -> Head:
        """The head for a data set."""
        ...

    def attach_(self, model: "nn.Module", head: Any, anatomy: "Anatomy | None" = None) -> "nn.Module":
        """Put a fresh head on a backbone and return the model."""
        ...

    def size(self, head: Any, own: tuple[int, int], asked: int | None) -> tuple[int, int]:
        """The model's input (H, W), where the backbone's `own` is known and `asked` were pixels of the shorter side."""
        ...

    def collate(self, images: "Sequence[Tensor]", targets: Sequence[Any]) -> "tuple[Tensor, Any]":
        """A batch of images (B, C, H, W) and its targets, which can be cut to `[start:stop]`."""
        ...

    def loss(self, output: Any, targets: Any) -> "Tensor":
        """(B,): the loss of each sample, so that a share's mean is their sum over its `weight`."""
        ...

    def weight(self, targets: Any) -> int:
        """What a share counts for: samples, valid pixels, tokens."""
        ...

    def metrics(self, head: Any) -> "MetricCollection":
        """What is measured on a split; the metric called `metric` leads."""
        ...

    def update_(self, metrics: "MetricCollection", output: Any, targets: Any) -> None:
        """Count a batch; `output` is the model's."""
        ...

    def figures(self, found: Mapping[str, "Tensor"], head: Any) -> dict[str, Any]:
        """What was measured, as plain values for people and programs; `metric` comes first."""
        ...

    def decode(self, output: Any, head: Any, top: int) -> list[dict[str, Any]]:
        """What is predicted of each sample, as plain values."""
        ...
