"""Measuring a bundle on data: the task's figures, and the records that it gets most wrong."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from tailor import bundle
from tailor.data.images import Split, for_evaluation
from tailor.data.loading import Batch
from tailor.dense.views import ONCE, Views
from tailor.deploy.predictor import computed
from tailor.events import Event, Tell
from tailor.tasks import task_of, viewed
from tailor.training import evaluate, processes_here
from tailor.workflow.data import BATCH, Corrupt, in_order, open_checked

WORST = 5


@dataclass(frozen=True)
class Wrong:
    """A record that the model got wrong, by how much: its place in the split, its loss, and what was predicted."""

    index: int
    source: str
    loss: float
    found: Mapping[str, Any]


@dataclass(frozen=True)
class Judgement:
    """The name of the leading metric, all figures, the split they are of, and the worst records by their loss."""

    metric: str
    figures: dict[str, Any]
    split: Split
    worst: tuple[Wrong, ...]


def scored(
    path: Path,
    route: str | None,
    data: str,
    weights: str | None,
    download: bool,
    corrupt: Corrupt,
    seed: int,
    tell: Tell,
    worst: int = WORST,
    views: Views = ONCE,
) -> Judgement:
    """The bundle's figures on data, and so many of the records it got most wrong; `views` are a segmenter's."""
    loaded = bundle.read(path, route, download)
    spec, task = loaded.spec, task_of(loaded.spec.head)
    images = open_checked(
        data, seed=seed, corrupt=corrupt, tell=tell, kind=task.targets, classes=spec.head.classes or None
    )
    for note in images.notes:
        tell(Event("data", text=note))
    split = for_evaluation(images)
    plain = bundle.restore(loaded, weights, download)
    seen, preprocessing = viewed(task, plain, spec.head, spec.preprocessing, views)
    size = views.share(BATCH[preprocessing.reads])
    model = _Watched(seen, path).to(processes_here().device).eval()
    wrong: list[Wrong] = []
    total = -(-len(split) // size)

    def watched() -> Iterable[Batch]:
        for index, batch in enumerate(in_order(split, preprocessing, spec.head, size)):
            yield batch  # and when the next one is asked for, the model has seen it
            losses = task.loss(model.output, send_to_device(batch.targets, processes_here().device)).tolist()
            found = task.decode(model.output, spec.head, 1)
            wrong.extend(map(Wrong, batch.indices.tolist(), batch.sources, losses, found))
            wrong.sort(key=lambda one: -one.loss)
            del wrong[worst:]
            tell(Event(f"scoring {split.name}", index + 1, total))

    with torch.inference_mode():
        figures = evaluate(model, watched(), task, spec.head)
    return Judgement(task.metric, figures, split, tuple(wrong))


def measured(
    path: Path,
    route: str | None,
    data: str,
    figure: Path | None,
    weights: str | None,
    download: bool,
    corrupt: Corrupt,
    seed: int,
    tell: Tell,
    views: Views,
) -> tuple[str, dict[str, Any], str, list[dict[str, Any]]]:
    """The name of the leading metric, all figures, the split, and the worst records by their loss.

    The confusion matrix is drawn to the file `figure`.
    """
    made = scored(path, route, data, weights, download, corrupt, seed, tell, views=views)
    if figure is not None and "confusion" in made.figures:
        from tailor.evidence.confusion import confusion

        confusion(made.figures["confusion"], made.figures["classes"], figure)
    told = [
        {
            "source": one.source,
            "loss": round(one.loss, 4),
            **{k: v for k, v in one.found.items() if not isinstance(v, tuple)},
        }
        for one in made.worst
    ]
    return made.metric, made.figures, made.split.name, told


class _Watched(nn.Module):
    """The bundle's model, which keeps its last output."""

    def __init__(self, model: nn.Module, path: Path) -> None:
        super().__init__()
        self.model, self.path = model, path
        self.output: Any = None

    def forward(self, images: Tensor) -> Any:
        self.output = computed(self.model, images, self.path)
        return self.output
