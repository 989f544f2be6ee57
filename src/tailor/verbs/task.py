"""What planning a method needs to know besides its name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tailor.build import Base
from tailor.data.images import ImageData
from tailor.preprocessing import Preprocessing
from tailor.training import Recipe
from tailor.tuning import spt_scores
from tailor.verbs.events import Report


@dataclass(frozen=True)
class Task:
    """The model, the images, where to leave things, whom to tell; the recipe for methods that train while they plan.

    `spt` and `noah` hold settings of theirs other than the defaults (`rule`, `generations`, ...). `scores` is a file or
    run folder to take scores from, `known` keeps them for the other methods of the same call.
    """

    base: Base
    images: ImageData
    preprocessing: Preprocessing
    folder: Path
    seed: int
    report: Report
    recipe: Recipe
    resume: bool = False
    spt: Mapping[str, Any] = field(default_factory=dict)
    noah: Mapping[str, Any] = field(default_factory=dict)
    scores: str | None = None
    known: dict[tuple[str, int, str], spt_scores.Scores] = field(default_factory=dict)
