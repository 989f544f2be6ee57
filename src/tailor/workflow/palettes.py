"""What `stitch` was asked for, in the user's words, and what each kind of palette makes of it: one row a kind."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tailor import tasks
from tailor.errors import UsageError
from tailor.events import Tell
from tailor.recipe import Recipe
from tailor.stitching.language.settings import INTERVALS as LANGUAGE_INTERVALS
from tailor.stitching.language.settings import RECIPE
from tailor.workflow.records import Stitched

INSTRUCTIONS = (".json", ".jsonl")
"""How data end that language models learn from."""
INTERVALS = 15
"""Of cost, where nothing else is said: a palette of language models has its own number."""
RANK = {"language": 16, "nested": 8}
"""Of the low-rank updates where nothing else is said; those of routes go by the anchors' sizes."""


@dataclass(frozen=True)
class PaletteRequest:
    """The words of one `stitch`; UsageError, before anything is opened, where they cannot be."""

    data: str
    models: tuple[str, ...]
    kind: str
    mode: str
    intervals: int
    window: int
    ranks: tuple[int, ...]
    ssb: tuple[str, ...]
    samples: int
    longest: int
    packing: bool
    base: Path | None
    evaluate_routes: bool
    weights: str
    image_size: int | None
    task: str | None
    folder: Path
    recipe: Recipe
    corrupt: Literal["skip", "fail"]
    workers: int
    resume: bool

    def __post_init__(self) -> None:
        found = len(self.models)
        if self.kind == "nested" and found != 1:
            raise UsageError(f"a nested palette has one anchor, found {found}", hint="write `--models tailor_mini_b`")
        if self.kind != "nested" and found < 2:
            raise UsageError(
                "a palette needs two anchors or more", hint="name them: `--models tailor_mini_ti,tailor_mini_s`"
            )
        if self.base is not None and self.base.resolve() == self.folder.resolve():
            raise UsageError("the palette and its base cannot be one folder", hint="name another `--base`")
        if self.samples < 1:
            raise UsageError(
                f"`--samples {self.samples}` leaves nothing to solve on", hint="write for instance `--samples 100`"
            )
        tasks.check(self.task)

    @property
    def row(self) -> str:
        """Which of `KINDS` makes it: the data say what the models read."""
        return "language" if instructs(self.data) else self.kind


def usual(data: str) -> Mapping[str, Any]:
    """The recipe that such data start from where it is not that of images."""
    return RECIPE if instructs(data) else {}


def instructs(data: str) -> bool:
    """Whether the data are instructions: a file of them, or a folder of its splits."""
    return data.endswith(INSTRUCTIONS) or any((Path(data) / f"train{end}").is_file() for end in INSTRUCTIONS)


Making = tuple[Callable[[Any], Stitched], Any]
"""What makes a palette, and the request that it takes."""


def requested(asked: PaletteRequest, tell: Tell) -> Making:
    """What makes the palette, and its request, every setting of it checked."""
    return KINDS[asked.row](asked, tell)


def _routes(asked: PaletteRequest, tell: Tell) -> Making:
    from tailor.stitching.adapt import Adapt
    from tailor.stitching.sampler import Sampling
    from tailor.stitching.space import Space
    from tailor.workflow.stitch import StitchRequest, stitch

    whole = asked.mode == "sn-net"
    draws = Sampling(kind="importance" if asked.mode == "esta" else "uniform", intervals=asked.intervals)
    request = StitchRequest(
        data=asked.data,
        models=asked.models,
        task=asked.task,
        weights=asked.weights,
        image_size=asked.image_size,
        recipe=asked.recipe,
        space=Space(window=asked.window),
        adapt=Adapt(ranks=asked.ranks, biases=asked.ssb, full=whole),
        sampling=draws,
        teacher=not whole,
        distil=0.5,
        samples=asked.samples,
        base=asked.base,
        evaluate_routes=asked.evaluate_routes,
        folder=asked.folder,
        corrupt=asked.corrupt,
        workers=asked.workers,
        resume=asked.resume,
        tell=tell,
    )
    return stitch, request


def _nested(asked: PaletteRequest, tell: Tell) -> Making:
    from tailor.workflow.nested import NestedRequest, nested

    request = NestedRequest(
        data=asked.data,
        model=asked.models[0],
        task=asked.task,
        weights=asked.weights,
        image_size=asked.image_size,
        recipe=asked.recipe,
        sizes=asked.intervals,
        rank=(*asked.ranks, RANK["nested"])[0],
        samples=asked.samples,
        evaluate_routes=asked.evaluate_routes,
        folder=asked.folder,
        corrupt=asked.corrupt,
        workers=asked.workers,
        resume=asked.resume,
        tell=tell,
    )
    return nested, request


def _language(asked: PaletteRequest, tell: Tell) -> Making:
    from tailor.stitching.adapt import Adapt
    from tailor.stitching.sampler import Sampling
    from tailor.workflow import language

    intervals = LANGUAGE_INTERVALS if asked.intervals == INTERVALS else asked.intervals
    request = language.LanguageRequest(
        data=Path(asked.data),
        models=asked.models,
        recipe=asked.recipe,
        adapt=Adapt(ranks=asked.ranks or (RANK["language"],) * len(asked.models), biases=asked.ssb),
        sampling=Sampling(intervals=intervals),
        longest=asked.longest,
        packing=asked.packing,
        samples=asked.samples,
        evaluate_routes=asked.evaluate_routes,
        folder=asked.folder,
        resume=asked.resume,
        tell=tell,
    )
    return language.stitch_language, request


KINDS: dict[str, Callable[[PaletteRequest, Tell], Making]] = {
    "routes": _routes,
    "nested": _nested,
    "language": _language,
}
"""Kind of palette: what makes it, of what was asked."""
