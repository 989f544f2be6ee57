"""The last step of an export in integers: calibrated on train, held against the float file on val, timed beside it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tailor.data.images import ImageData
from tailor.deploy.export import RunFile
from tailor.deploy.quantise import WAYS, quantised
from tailor.deploy.runtimes.onnx import Session
from tailor.errors import ModelError
from tailor.events import Event, Tell
from tailor.measure.speed import throughput
from tailor.spec import Spec
from tailor.tasks import task_of
from tailor.workflow.data import drawn, in_order, score

CALIBRATED = 256
"""Images of train that give activations their ranges."""
BATCH, SECONDS = 8, 6.0
"""Images a pass, and within which time the files run in turns."""


@dataclass(frozen=True)
class Integers:
    """What came of it: the metric on val (`n` images) of both files, how much faster, which operators."""

    metric: str
    float32: float
    int8: float
    n: int
    throughput_ratio: float
    operators: str


class Quantiser:
    """Turns a float file into the fastest one in integers that loses no more than `tolerance`; ModelError for none.

    What is lost is counted in shares of the images where the metric is one, else in shares of the float file's own.
    """

    def __init__(self, spec: Spec, images: ImageData, tolerance: float, seed: int, tell: Tell) -> None:
        self.spec, self.images, self.tolerance, self.seed, self.tell = spec, images, tolerance, seed, tell
        self.found: Integers | None = None

    def __call__(self, file: Path, run: RunFile) -> Path:
        """The file to keep, beside the float one."""
        task, val = task_of(self.spec.head), self.images.splits["val"]
        whole = Session(file)
        dense = self._score(whole)
        tried: dict[str, tuple[Path, Session, float]] = {}
        for way in WAYS:
            (part,) = drawn([self.images.splits["train"]], CALIBRATED, self.seed)
            self.tell(Event("quantising", text=f"{way}, on {len(part)} images of train"))
            batches = ((b.images,) for b in in_order(part, self.spec.preprocessing, self.spec.head))
            out = quantised(file, file.with_name(f"{way}.onnx"), batches, way)
            tried[way] = (out, session := Session(out), found := self._score(session))
            self.tell(Event("quantising", text=f"{way}: {task.metric} on val {found:.3f}, in float32 {dense:.3f}"))
        lost = {way: self._lost(dense, found) for way, (_, _, found) in tried.items()}
        kept = [way for way in tried if lost[way] <= self.tolerance + 1e-9]  # 0.9 - 0.88 is above 0.02
        if not kept:
            best = min(lost, key=lambda way: lost[way])
            raise ModelError(
                f"in integers {task.metric} on val falls from {dense:.3f} to {tried[best][2]:.3f}, by {lost[best]:.3f}"
                f"; at most {self.tolerance:g} is tolerated, and nothing was kept",
                hint="export without `--int8`, or tolerate more with `--tolerance`",
            )
        models = {"float32": whole, **{way: tried[way][1] for way in kept}}
        ratios = throughput(models, self.spec.inputs, batch=BATCH, seconds=SECONDS).ratios
        way = max(kept, key=lambda way: ratios[way].median)
        out, _, found = tried[way]
        self.found = Integers(task.metric, dense, found, len(val), round(ratios[way].median, 3), way)
        return out

    def _score(self, model: Any) -> float:
        spec = self.spec
        return float(score(model, spec.head, self.images.splits["val"], spec.preprocessing)[task_of(spec.head).metric])

    def _lost(self, dense: float, found: float) -> float:
        task = task_of(self.spec.head)
        behind = dense - found if task.larger else found - dense
        return behind if getattr(task, "counted", False) else behind / max(abs(dense), 1e-12)
