"""Puts names beside points so that no name covers another name or a point."""

from collections.abc import Sequence
from math import cos, hypot, pi, sin

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox

from tailor.evidence.canvas import GREY, literal

POINT_RADIUS = 6.0  # typographic points kept free around each point
_DIRECTIONS = [0, 1, 0.25, 1.75, 0.75, 1.25, 0.5, 1.5]  # of pi: right and left first, above and below last


@literal()
def place_labels(
    ax: Axes, points: Sequence[tuple[float, float]], names: Sequence[str], colours: Sequence[str]
) -> list[Bbox]:
    """Writes each name at the nearest free place around its point, with a fine line where another point is as near.

    Positions are tried outwards in rings, for crowded points first; the limits of the axes must be final. Returns the
    boxes taken, in pixels, in the order of `names`.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg), "sheet() attaches one"
    figure.draw_without_rendering()
    renderer, unit = canvas.get_renderer(), figure.dpi / 72
    centres = ax.transData.transform(points)
    distances = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    radius = 0.7 * POINT_RADIUS * unit
    taken = [Bbox.from_extents(x - radius, y - radius, x + radius, y + radius) for x, y in centres]
    boxes: dict[int, Bbox] = {}
    for index in np.argsort(np.sort(distances, axis=1)[:, :4].sum(axis=1), kind="stable"):
        probe = ax.annotate(names[index], points[index], fontsize=9)
        extent = probe.get_window_extent(renderer)
        probe.remove()
        order = _away(centres[index] - np.delete(centres, index, axis=0), unit)
        box = _free(centres[index], order, extent.width, extent.height, unit, taken, ax.get_window_extent(renderer))
        taken.append(box)
        boxes[int(index)] = box
        nearness = [_distance(box, x, y) for x, y in centres]
        alone = sorted(nearness)[:2][-1] > 1.5 * nearness[index] + unit or len(points) == 1
        line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 4}
        ax.annotate(
            names[index],
            points[index],
            ((box.x0 - centres[index][0]) / unit, (box.y0 - centres[index][1]) / unit),
            textcoords="offset points",
            va="bottom",
            fontsize=9,
            color=colours[index],
            arrowprops=None if alone and nearness[index] == min(nearness) else line,
        )
    return [boxes[index] for index in range(len(names))]


def _away(gaps: np.ndarray, unit: float) -> list[tuple[float, float]]:
    """The directions to try, those away from near points first; `gaps` `(N, 2)` lead from the others to this one."""
    ways = [(cos(pi * direction), sin(pi * direction)) for direction in _DIRECTIONS]
    lengths = np.linalg.norm(gaps, axis=1, keepdims=True).clip(min=unit)
    push = np.where(lengths < 40 * unit, gaps / lengths**2, 0).sum(axis=0)
    size = float(np.linalg.norm(push))
    return sorted(ways, key=lambda way: -round(float(push @ way) / size, 1)) if size > 0 else ways


def _free(
    centre: np.ndarray,
    ways: Sequence[tuple[float, float]],
    width: float,
    height: float,
    unit: float,
    taken: Sequence[Bbox],
    frame: Bbox,
) -> Bbox:
    """The nearest box of that size around a point that meets no other; where there is none, the last tried."""
    for ring in range(14):
        reach = (POINT_RADIUS + 7 * ring) * unit
        for dx, dy in ways:
            left = centre[0] + reach * dx - width * (1 - dx) / 2
            low = centre[1] + reach * dy - height * (1 - dy) / 2
            box = Bbox.from_bounds(left, low, width, height)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in taken):
                return box
    return box


def _distance(box: Bbox, x: float, y: float) -> float:
    return hypot(max(box.x0 - x, 0, x - box.x1), max(box.y0 - y, 0, y - box.y1))
