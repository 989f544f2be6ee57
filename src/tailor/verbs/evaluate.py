"""`tailor evaluate BUNDLE DATA`: the task's figures on the test split, or on everything where there is none."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tailor.dense.views import read_views
from tailor.events import Tell
from tailor.run_folder import check_folder
from tailor.workflow.destination import check_apart, check_new, weights_file
from tailor.workflow.telling import SHOWN, told

FIGURE = "confusion.png"


@dataclass(frozen=True)
class Evaluation:
    """What was measured over `n` records of `split`: `figures`, the task's `metric` first, each under its own name."""

    metric: str
    figures: dict[str, Any]
    n: int
    split: str
    bundle: str
    worst: tuple[dict[str, Any], ...] = ()

    def __getattr__(self, name: str) -> Any:
        figures = {} if name.startswith("__") else object.__getattribute__(self, "figures")
        if name in figures:
            return figures[name]
        raise AttributeError(f"the evaluation has no `{name}`")

    def values(self) -> dict[str, Any]:
        """What JSON holds."""
        return {**self.figures, "n": self.n, "split": self.split, "bundle": self.bundle, "worst": list(self.worst)}


def evaluate(
    path: str | Path,
    data: str | Path,
    *,
    out: str | Path | None = None,
    route: str | None = None,
    weights: str | None = None,
    download: bool = False,
    corrupt: Literal["skip", "fail"] = "skip",
    scales: str | None = None,
    flip: bool = False,
    windows: bool = False,
    device: str | None = None,
    overwrite: bool = False,
    seed: int = 0,
    progress: Tell | None = SHOWN,
) -> Evaluation:
    """How good the bundle in folder `path` is on `data`, whose classes are matched to the bundle's by name.

    Args:
        path: the bundle.
        data: a folder, a CSV, `builtin/digits`, ...: see docs/data.md.
        out: a folder for `confusion.png`.
        route: of a palette, by name; by default the dearest that is deployed.
        weights: a moved checkpoint file of the backbone.
        download: whether what the bundle's backbone lacks on this machine may be fetched.
        corrupt: what to do with images that cannot be read.
        scales: of masks, sizes to look at with commas, relative to the model's: the mean of their scores decides.
        flip: of masks, look at the mirrored image as well.
        windows: of masks, read what is larger than the model's input in overlapping pieces of that size.
        device: `cpu`, `cuda`, `mps`.
        overwrite: replace the `confusion.png` in `out`.
        seed: of what the source itself divides.
        progress: hears events; by default they are drawn in a terminal or notebook, None silences.
    """
    views = read_views(scales, flip, windows)
    figure = None if out is None else Path(out) / FIGURE
    if figure is not None:
        read = (path, data, weights_file(weights))
        check_apart(figure.parent, read)
        check_folder(figure.parent)
        check_new(figure, overwrite, read)
    with told(progress) as tell:
        from tailor.workflow.evaluate import measured
        from tailor.workflow.place import placed

        with placed(device):
            metric, figures, split, worst = measured(
                Path(path), route, str(data), figure, weights, download, corrupt, seed, tell, views
            )
    n = int(figures.pop("n"))
    return Evaluation(metric, figures, n, split, str(path), tuple(worst))
