"""The candidates of a run as points of cost against score: the front, the one that was taken, the command of each."""

from collections.abc import Sequence
from dataclasses import dataclass

from tailor.bundle.evidence import IMPORTANCE, CandidateRecord
from tailor.evidence.page.chart import AxisPair, frame, front, short, steps
from tailor.evidence.page.run import PageRun, made_by

MOST, MOST_ROWS = 600, 200
"""Points that are drawn and rows that are written at most."""
COSTS = (("ms", "milliseconds", 1.0), ("macs", "million MACs", 1e-6), ("params", "million parameters", 1e-6))


@dataclass(frozen=True)
class Dot:
    """One candidate: where it stands, where its first score stood, and what is said of it."""

    x: float
    y: float
    first: float
    kind: str
    name: str
    text: str
    plans: str
    command: str


@dataclass(frozen=True)
class Panel:
    """Score against one cost. `front` numbers the dots of the front by rising cost; `start` is the slider's place."""

    key: str
    frame: AxisPair
    dots: tuple[Dot, ...]
    front: tuple[int, ...]
    path: str
    start: int


@dataclass(frozen=True)
class CandidateRow:
    """One candidate in the table."""

    name: str
    plans: str
    cells: tuple[str, ...]
    chosen: bool
    front: bool
    command: str


@dataclass(frozen=True)
class Candidates:
    """Panels to choose from, and the same as a table; `left_out` are those that no row has room for."""

    panels: tuple[Panel, ...]
    stages: tuple[str, ...]
    rows: tuple[CandidateRow, ...]
    left_out: int


def candidates(run: PageRun) -> Candidates | None:
    """The candidates of a run; None where there are none."""
    known = _first(run.evidence.candidates)
    if not known:
        return None
    stages = tuple(dict.fromkeys(stage for one in known for stage in one.scores))
    panels = tuple(panel for key, label, unit in COSTS if (panel := _panel(run, known, key, label, unit)) is not None)
    on_front = {panels[0].dots[i].name for i in panels[0].front} if panels else set()
    rows = tuple(
        CandidateRow(
            one.name,
            arrows(one.plans),
            (
                "" if one.ms is None else f"{one.ms:.2f}",
                "" if one.macs is None else short(one.macs),
                "" if one.params is None else short(one.params),
                *(_said(run, one.scores.get(stage), stage) for stage in stages),
            ),
            one.chosen,
            one.name in on_front,
            made_by(one, run.name),
        )
        for one in known[:MOST_ROWS]
    )
    return Candidates(panels, stages, rows, len(run.evidence.candidates) - len(rows))


def _first(known: Sequence[CandidateRecord]) -> list[CandidateRecord]:
    """As many as are drawn: those that were taken first, then in their order."""
    return sorted(known, key=lambda one: not one.chosen)[:MOST]


def _panel(run: PageRun, known: Sequence[CandidateRecord], key: str, label: str, unit: float) -> Panel | None:
    usable = [one for one in known if getattr(one, key) is not None and one.scores]
    if len(usable) < 2:
        return None
    score = run.evidence.score
    stages = {stage for one in usable for stage in one.scores}
    metric = score.metric if score else "score"
    ylabel = stages.pop() if len(stages) == 1 else metric
    times = 100.0 if _percent(run, ylabel) else 1.0
    values = [[times * value for value in one.scores.values()] for one in usable]
    costs = [unit * float(getattr(one, key)) for one in usable]
    most = max(len(one) for one in values)
    ready = [i for i, one in enumerate(values) if len(one) > 1 or most == 1]  # a bare cut says little
    larger = score.larger if score else True
    edge = [ready[i] for i in front([(costs[i], values[i][-1]) for i in ready], larger)]
    judged = run.evidence.judged
    on = f" on {judged.split}" if judged and judged.split and ylabel != IMPORTANCE else ""
    batch = f" a batch of {judged.batch}" if key == "ms" and judged and judged.batch else ""
    heights = [v for one in values for v in (one[0], one[-1])]
    drawn = frame(costs, heights, label + batch, ylabel + on + (", %" if times > 1 else ""))
    dots = tuple(
        Dot(
            drawn.x(cost),
            drawn.y(value[-1]),
            drawn.y(value[0]),
            "chosen" if one.chosen else "front" if i in edge else "other" if i in ready else "early",
            one.name,
            ", ".join(
                filter(None, (f"{short(cost)} {label}", _said(run, value[-1] / times, ylabel), _stage(one, most)))
            ),
            arrows(one.plans),
            made_by(one, run.name),
        )
        for i, (one, cost, value) in enumerate(zip(usable, costs, values, strict=True))
    )
    path = steps([(dots[i].x, dots[i].y) for i in edge])
    taken = [place for place, i in enumerate(edge) if usable[i].chosen]
    return Panel(key, drawn, dots, tuple(edge), path, taken[-1] if taken else len(edge) - 1)


def _stage(one: CandidateRecord, most: int) -> str:
    """After which stage a score was taken, where there are several."""
    return "" if most == 1 else f"after {list(one.scores)[-1]}"


def arrows(text: str) -> str:
    """`96 -> 48` in one sign, which no line breaks."""
    return text.replace("->", "\u2192")


def _percent(run: PageRun, stage: str) -> bool:
    return run.percent and stage != IMPORTANCE


def _said(run: PageRun, value: float | None, stage: str) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f} %" if _percent(run, stage) else f"{value:.4g}"
