"""What the steps of a verb hand on: one training, and what planning it needs to know besides."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tailor.build import Base
from tailor.data.images import ImageData
from tailor.events import Report
from tailor.preprocessing import Preprocessing
from tailor.training import Recipe
from tailor.tuning.spt import scores as spt_scores
from tailor.verbs.teach import Guide


@dataclass(frozen=True)
class Run:
    """One training: on which images (`source`: as the user named them), how, where it leaves things, whom it tells."""

    images: ImageData
    source: str
    recipe: Recipe
    folder: Path
    report: Report
    teacher: Guide | None = None
    workers: int = 0
    resume: bool = False


@dataclass(frozen=True)
class Task:
    """What to plan: the model, the training it is for, and settings of the planner.

    `spt` and `noah` hold settings of theirs other than the defaults (`rule`, `generations`, ...). `scores` is a file or
    run folder to take scores from, `known` keeps them for the other methods of the same call.
    """

    base: Base
    run: Run
    preprocessing: Preprocessing
    spt: Mapping[str, Any] = field(default_factory=dict)
    noah: Mapping[str, Any] = field(default_factory=dict)
    scores: str | None = None
    known: dict[tuple[str, int, str], spt_scores.Scores] = field(default_factory=dict)
