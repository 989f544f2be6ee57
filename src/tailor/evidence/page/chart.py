"""Where things stand in a drawing: axes with round ticks, points on them. Units are those of a small SVG."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 446, 14, 252


@dataclass(frozen=True)
class Tick:
    """A place on an axis and what is written there."""

    at: float
    text: str


@dataclass(frozen=True)
class Axis:
    """A linear axis: values from `low` to `high` lie between `start` and `end`."""

    label: str
    low: float
    high: float
    start: float
    end: float
    ticks: tuple[Tick, ...]

    def __call__(self, value: float) -> float:
        """Where a value lies."""
        return round(self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low), 1)


@dataclass(frozen=True)
class AxisPair:
    """Both axes of a chart."""

    x: Axis
    y: Axis


def axis(values: Iterable[float], start: float, end: float, label: str, whole: bool = False) -> Axis:
    """An axis with room at both ends and about five round ticks."""
    known = list(values)
    low, high = min(known), max(known)
    room = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = (low - 0.5, high + 0.5) if whole else (low - room, high + room)
    places = [t for t in MaxNLocator(5, integer=whole).tick_values(low, high) if low <= t <= high]
    span = high - low

    def at(value: float) -> float:
        return round(start + (end - start) * (value - low) / span, 1)

    return Axis(label, low, high, start, end, tuple(Tick(at(t), short(float(t))) for t in places))


def frame(xs: Iterable[float], ys: Iterable[float], xlabel: str, ylabel: str, whole: bool = False) -> AxisPair:
    """The frame of a chart; `whole` where x counts things."""
    return AxisPair(axis(xs, LEFT, RIGHT, xlabel, whole), axis(ys, BOTTOM, TOP, ylabel))


def line(points: Sequence[tuple[float, float]]) -> str:
    """A path through points."""
    return "M" + "L".join(f"{x:g},{y:g}" for x, y in points) if points else ""


def front(points: Sequence[tuple[float, float]], larger: bool = True) -> list[int]:
    """The points (cost, value) that no other beats in both, by rising cost."""
    better: Callable[[float], float] = (lambda value: value) if larger else (lambda value: -value)
    best, found = float("-inf"), []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -better(points[i][1]))):
        if better(points[index][1]) > best:
            best = better(points[index][1])
            found.append(index)
    return found


def steps(points: Sequence[tuple[float, float]]) -> str:
    """A path along a front: level, then up."""
    if not points:
        return ""
    path = f"M{points[0][0]:g},{points[0][1]:g}"
    return path + "".join(f"H{x:g}V{y:g}" for x, y in points[1:])


def short(value: float) -> str:
    """A number with at most four digits; K, M, G for large ones."""
    for scale, letter in ((1e9, "G"), (1e6, "M"), (1e4, "K")):
        if abs(value) >= 0.99995 * scale:
            return f"{value / (1e3 if letter == 'K' else scale):.3g}{letter}"
    return f"{value:.4g}".replace("-", "\u2212")
