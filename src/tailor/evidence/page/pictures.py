"""The other drawings of a page: the curve that decided the depth, its maps, the learning curve, the confusion."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from tailor.bundle.evidence import GRID, Layers
from tailor.evidence.page.chart import RIGHT, AxisPair, frame, line
from tailor.evidence.page.run import PageRun

COLOURS = 7
"""Colours by class, those of the style sheet; with more classes they come again."""
MOST_MAPS, MOST_SAMPLES, MOST_CLASSES, MOST_NAMED, MOST_MIXED = 8, 1500, 200, 24, 8
SIDE, LEVELS = 120, 10


@dataclass(frozen=True)
class CurvePoint:
    """A point of a curve."""

    x: float
    y: float
    on: bool
    text: str


@dataclass(frozen=True)
class CurvePicture:
    """A line through points; `level` is where a threshold lies, `cut` where what went begins."""

    frame: AxisPair
    path: str
    points: tuple[CurvePoint, ...]
    level: float | None = None
    cut: float | None = None


@dataclass(frozen=True)
class Scatter:
    """One map: a path of dots for each colour."""

    title: str
    paths: tuple[str, ...]


def separation(layers: Layers) -> CurvePicture | None:
    """Silhouette coefficient by block, the threshold, and what was cut."""
    known = [(i + 1, score) for i, score in enumerate(layers.curve) if score is not None]
    if not known:
        return None
    places = frame(
        [1, len(layers.curve)],
        [*(score for _, score in known), layers.threshold, 0.0],
        "block",
        "separation of the classes",
        whole=True,
    )
    points = tuple(
        CurvePoint(places.x(block), places.y(score), block <= layers.depth, f"block {block}: {score:.3f}")
        for block, score in known
    )
    cut = places.x(layers.depth + 0.5) if layers.depth < len(layers.curve) else None
    return CurvePicture(places, line([(p.x, p.y) for p in points]), points, places.y(layers.threshold), cut)


def maps(layers: Layers) -> tuple[Scatter, ...]:
    """The t-SNE maps, the last block's last."""
    found = []
    for one in layers.maps[-MOST_MAPS:]:
        dots: dict[int, list[str]] = defaultdict(list)
        for x, y, label in list(zip(one.x, one.y, layers.labels))[:MOST_SAMPLES]:
            dots[label % COLOURS].append(f"M{SIDE * x / GRID:.1f},{SIDE * y / GRID:.1f}h0")
        score = layers.curve[one.block - 1] if 0 < one.block <= len(layers.curve) else None
        said = "" if score is None else f", {score:.2f}"
        found.append(Scatter(f"block {one.block}{said}", tuple("".join(dots[i]) for i in range(COLOURS))))
    return tuple(found)


def learning(run: PageRun) -> tuple[tuple[str, CurvePicture], ...]:
    """Loss and metric by epoch, the chosen epoch marked."""
    epochs, score = run.evidence.epochs, run.evidence.score
    times = 100.0 if run.percent else 1.0
    metric = (score.metric if score else "score") + (" on val, %" if run.percent else " on val")
    found = []
    for label, rows in (
        ("training loss", [(e.epoch, e.loss) for e in epochs if e.loss is not None]),
        (metric, [(e.epoch, times * e.value) for e in epochs if e.value is not None]),
    ):
        if len(rows) > 1:
            places = frame([e for e, _ in rows], [v for _, v in rows], "epoch", label, whole=True)
            points = tuple(
                CurvePoint(places.x(epoch), places.y(value), True, f"epoch {epoch}: {value:.4g}")
                for epoch, value in rows
                if epoch == run.evidence.chosen
            )
            found.append((label, CurvePicture(places, line([(places.x(e), places.y(v)) for e, v in rows]), points)))
    return tuple(found)


@dataclass(frozen=True)
class Square:
    """Records of one class that were called another: how many, as a share of the class."""

    x: float
    y: float
    shade: float
    text: str
    count: str


@dataclass(frozen=True)
class Mixed:
    """Two classes that are mixed up."""

    truth: str
    called: str
    count: int
    share: str


@dataclass(frozen=True)
class ConfusionPicture:
    """The matrix from (`left`, 0) on, in steps of `side`, and the worst pairs.

    Where there is room for names it consists of squares, else of a path for each of a few shades. `shown` of the
    classes are drawn.
    """

    side: float
    left: float
    wide: float
    tall: float
    squares: tuple[Square, ...]
    levels: tuple[tuple[float, str], ...]
    names: tuple[str, ...]
    mixed: tuple[Mixed, ...]
    right: int
    of: int
    shown: int


def confusion(run: PageRun) -> ConfusionPicture | None:
    """The confusion matrix of at most so many classes; None where there is none, or it is not square."""
    whole = run.evidence.confusion
    if not whole or any(len(row) != len(whole) for row in whole):
        return None
    counts = [row[:MOST_CLASSES] for row in whole[:MOST_CLASSES]]
    names = [run.classes[i] if i < len(run.classes) else f"class {i + 1}" for i in range(len(counts))]
    named = len(counts) <= MOST_NAMED
    left = min(8.0 + 6.4 * max(len(_cut(n)) for n in names), 130.0) if named else 8.0
    side = min((RIGHT - left) / len(counts), 48.0)
    squares: list[Square] = []
    levels: dict[int, list[str]] = defaultdict(list)
    pairs = []
    for i, row in enumerate(counts):
        of = max(sum(whole[i]), 1)
        for j, count in enumerate(row):
            if count <= 0:
                continue
            x, y = round(left + j * side, 2), round(i * side, 2)
            if named:
                written = str(count) if side >= 17 and count < 1000 else ""
                text = f"{names[i]} called {names[j]}: {count} of {of}"
                squares.append(Square(x, y, round(count / of, 3), text, written))
            else:
                levels[ceil(LEVELS * min(count / of, 1.0))].append(f"M{x:g},{y:g}h{side:.3g}v{side:.3g}h-{side:.3g}z")
            if i != j:
                pairs.append(Mixed(names[i], names[j], count, f"{count / of:.0%}"))
    counted = sum(count for row in whole for count in row)
    pairs.sort(key=lambda pair: (-pair.count, pair.truth, pair.called))
    tall = side * len(counts) + (left if named else 6)
    shown = tuple(_cut(name) for name in names) if named else ()
    return ConfusionPicture(
        side,
        left,
        left + side * len(counts),
        tall,
        tuple(squares),
        tuple((level / LEVELS, "".join(levels[level])) for level in sorted(levels)),
        shown,
        tuple(pairs[:MOST_MIXED]),
        sum(row[i] for i, row in enumerate(whole)),
        counted,
        len(counts),
    )


def hardest(run: PageRun) -> Sequence[tuple[str, str, int]]:
    """The classes of which fewest are found: name, share found, records."""
    rows = []
    for i, row in enumerate(run.evidence.confusion[: len(run.classes)]):
        of = sum(row)
        if i < len(row) and of > 0:
            rows.append((row[i] / of, run.classes[i], of))
    return [(name, f"{share:.0%}", of) for share, name, of in sorted(rows)[:MOST_MIXED] if share < 1]


def _cut(name: str) -> str:
    return name if len(name) <= 18 else name[:17] + "\u2026"
