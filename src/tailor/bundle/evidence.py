"""`evidence.json`: what a run measured, as numbers under names, from which cards and pages are made at any time.

A run notes a section as soon as it is known, so an interrupted one loses nothing. No image, no path of an image and no
prediction stands here: a bundle that is given away gives away no data. It is read as a stranger's, strictly.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, JsonValue, TypeAdapter
from pydantic.dataclasses import dataclass

from tailor.bundle.files import dumps, write_text
from tailor.bundle.verify import validated
from tailor.settings import STRICT
from tailor.strangers import read_json

EVIDENCE = "evidence.json"
HERE = "BUNDLE"
"""The word of a command that stands for the folder in which the evidence lies."""
IMPORTANCE = "importance"
"""The stage of a candidate that was not scored: how much a sampler thought of it."""
GRID = 1000
"""Points of a map are whole numbers from 0 to this."""

LARGEST = 1e100
"""No number of a stranger overflows where a page reckons with it."""

Count = Annotated[int, Field(ge=0, le=1 << 62)]
Number = Annotated[FiniteFloat, Field(ge=-LARGEST, le=LARGEST)]
PlainValue = str | int | FiniteFloat | bool
NumberTable = tuple[tuple[Number, ...], ...]


@dataclass(frozen=True, config=STRICT)
class Asked:
    """A command: its verb, its words, its flags, and in `sections` what only a file of settings can hold.

    It is put together, and quoted, only where it is shown.
    """

    verb: str
    words: tuple[str, ...] = ()
    flags: dict[str, PlainValue] = Field(default_factory=dict)
    sections: dict[str, JsonValue] = Field(default_factory=dict)


@dataclass(frozen=True, config=STRICT)
class Score:
    """The task's leading `metric` on `n` records of `split`: before the run, cut, repaired, and at its end.

    `larger` says whether more of it is better; `counted`, that it is a share of the records, so that chance is known.
    """

    metric: str
    larger: bool
    split: str
    n: Count
    after: Number | None = None
    before: Number | None = None
    cut: Number | None = None
    counted: bool = False
    repaired: Number | None = None


@dataclass(frozen=True, config=STRICT)
class ModelCost:
    """What a model costs: multiply-accumulates an image, parameters, and what was measured of it."""

    macs: Count
    params: Count
    images_per_second: Number | None = None
    latency_ms: Number | None = None


@dataclass(frozen=True, config=STRICT)
class CostRecord:
    """The model at the end, and where it was made from a larger one, that. `ratio` is how many times faster it is.

    `low` and `high` are the 10th and 90th percentile over rounds in turns, of `batch` images, in `runtime`.
    """

    after: ModelCost
    before: ModelCost | None = None
    ratio: Number | None = None
    low: Number | None = None
    high: Number | None = None
    batch: Count | None = None
    runtime: str = "eager"


@dataclass(frozen=True, config=STRICT)
class Width:
    """One group of axes that shrank together: its units, and how many stay."""

    group: str
    size: Count
    kept: Count


@dataclass(frozen=True, config=STRICT)
class Network:
    """The model that the run started from, by its blocks' paths, and what was taken from it.

    `operations` say, where attention gave way somewhere, what stands in each block.
    """

    blocks: tuple[str, ...]
    dropped: tuple[str, ...] = ()
    widths: tuple[Width, ...] = ()
    operations: tuple[str, ...] = ()


@dataclass(frozen=True, config=STRICT)
class Budget:
    """Where trainable parameters went: shares (blocks, operations) of `cost`.

    `sensitivity` has the shares of what was measured before, if it was; `whole` says where a module trains.
    """

    method: str
    cost: Count
    operations: tuple[str, ...]
    shares: NumberTable
    sensitivity: NumberTable = ()
    whole: tuple[tuple[bool, ...], ...] = ()


@dataclass(frozen=True, config=STRICT)
class Map:
    """The t-SNE map of the features behind a block (counted from 1): x and y of every sample, on the grid."""

    block: Count
    x: tuple[Count, ...]
    y: tuple[Count, ...]


@dataclass(frozen=True, config=STRICT)
class Layers:
    """Why blocks went: how well the classes separate behind each (None: not looked at), and the threshold."""

    curve: tuple[Number | None, ...]
    threshold: Number
    depth: Count
    reason: str = ""
    labels: tuple[Count, ...] = ()
    maps: tuple[Map, ...] = ()


@dataclass(frozen=True, config=STRICT)
class Epoch:
    """One pass over the training images: the mean loss, and the leading metric on val where it was measured."""

    epoch: Count
    loss: Number | None
    value: Number | None = None


@dataclass(frozen=True, config=STRICT)
class CandidateRecord:
    """A model that could have been taken: what it consists of, what it costs, how good it was after each stage.

    `scores` are by stage, the last one counts; `made_by` is the command that makes it.
    """

    name: str
    plans: str = ""
    ms: Number | None = None
    macs: Count | None = None
    params: Count | None = None
    scores: dict[str, Number] = Field(default_factory=dict)
    chosen: bool = False
    made_by: Asked | None = None


@dataclass(frozen=True, config=STRICT)
class Judged:
    """How candidates were compared: scored on which split, their milliseconds those of a batch of so many images."""

    split: str
    batch: Count | None = None


@dataclass(frozen=True, config=STRICT)
class Evidence:
    """Everything that one run measured; a section that it has not is empty."""

    format: Literal[1] = 1
    versions: dict[str, str] = Field(default_factory=dict)
    machine: dict[str, PlainValue | None] = Field(default_factory=dict)
    asked: Asked | None = None
    seconds: Number | None = None
    score: Score | None = None
    costs: CostRecord | None = None
    network: Network | None = None
    budget: Budget | None = None
    layers: Layers | None = None
    epochs: tuple[Epoch, ...] = ()
    chosen: Count = 0
    confusion: tuple[tuple[Count, ...], ...] = ()
    candidates: tuple[CandidateRecord, ...] = ()
    judged: Judged | None = None


_EVIDENCE: TypeAdapter[Evidence] = TypeAdapter(Evidence)


def note(folder: Path, **sections: Any) -> Evidence:
    """Put sections into the evidence of the run in `folder`, and return all of it."""
    found = replace(read_evidence(folder) or Evidence(), **sections)
    write_text(
        folder / EVIDENCE, dumps(_EVIDENCE.dump_python(found, mode="json", exclude_defaults=True) | {"format": 1})
    )
    return found


def read_evidence(folder: Path) -> Evidence | None:
    """What the run in `folder` noted, None where it noted nothing; BundleError where it is damaged or no such file."""
    file = folder / EVIDENCE
    return validated(_EVIDENCE, read_json(file), file) if file.is_file() else None


def on_grid(values: Sequence[float]) -> tuple[int, ...]:
    """The values, of which the smallest is to be 0 and the largest `GRID`, as whole numbers."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    return tuple(round(GRID * (value - low) / ((high - low) or 1.0)) for value in values)
