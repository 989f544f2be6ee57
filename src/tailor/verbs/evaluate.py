"""`tailor evaluate BUNDLE DATA`: accuracy on the test split, or on every image where the data are not divided."""

from dataclasses import dataclass
from pathlib import Path

from tailor import bundle
from tailor.data.images import for_evaluation
from tailor.events import Report, silent
from tailor.training import processes_here
from tailor.verbs.images import Corrupt, open_checked, score


@dataclass(frozen=True)
class Evaluation:
    """What was measured: top-1 accuracy in 0..1, per class by name, over `n` images of `split`."""

    accuracy: float
    per_class: dict[str, float]
    n: int
    split: str
    bundle: str


def evaluate(
    path: str | Path,
    data: str,
    *,
    weights: str | None = None,
    corrupt: Corrupt = "skip",
    seed: int = 0,
    report: Report = silent,
) -> Evaluation:
    """Accuracy of the bundle in folder `path` on `data`, whose classes are matched to the bundle's by name."""
    loaded = bundle.read(Path(path))
    spec = loaded.spec
    images = open_checked(data, seed=seed, corrupt=corrupt, report=report, classes=spec.head.classes)
    split = for_evaluation(images)
    model = bundle.restore(loaded, weights).to(processes_here().device)
    scores = score(model, split, spec.preprocessing, report, f"scoring {split.name}")
    present = set(split.labels)
    per_class = {name: scores.per_class[i] for i, name in enumerate(spec.head.classes) if i in present}
    return Evaluation(scores.accuracy, per_class, scores.n, split.name, str(path))
