"""A palette in a picture: what each route costs and how good it is.

Where accuracies were not measured the routes stand by their score, the importance that the sampler gave them.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from matplotlib.axes import Axes

from tailor.evidence.canvas import BLUE, FAINT, GREY, INK, PALE, VERMILION, head, save, sheet
from tailor.evidence.page.chart import front


class DrawnRoute(Protocol):
    """What is drawn of a route."""

    @property
    def route(self) -> str: ...  # noqa: D102

    @property
    def macs(self) -> int: ...  # noqa: D102

    @property
    def deployed(self) -> bool: ...  # noqa: D102

    @property
    def score(self) -> float: ...  # noqa: D102

    @property
    def latency_ms(self) -> float | None: ...  # noqa: D102

    @property
    def accuracy(self) -> float | None: ...  # noqa: D102


def palette_plot(routes: Sequence[DrawnRoute], out: Path, metric: str) -> Path:
    """The routes against MACs and, where they were measured, against milliseconds: anchors, front, deployed routes."""
    scored = [route for route in routes if route.accuracy is not None]
    value: Callable[[Any], float] = (lambda r: 100 * r.accuracy) if scored else (lambda r: r.score)
    label = f"{metric}, %" if scored else "importance"
    timed = [route for route in (scored or routes) if route.latency_ms is not None]
    figure, axes = sheet(10.4 if timed else 5.6, 4.2, 1, 2 if timed else 1)
    _panel(axes[0], scored or routes, lambda r: r.macs / 1e9, value, "GMACs", label)
    if timed:
        _panel(axes[1], timed, lambda r: r.latency_ms, value, "milliseconds, batch 1, this machine", label)
    head(axes[0], "Routes of the palette", f"{len(routes)} routes, {sum(r.deployed for r in routes)} deployed")
    return save(figure, out)


def _panel(
    ax: Axes,
    routes: Sequence[Any],
    cost: Callable[[Any], float],
    value: Callable[[Any], float],
    xlabel: str,
    ylabel: str,
) -> None:
    points = [(cost(route), value(route)) for route in routes]
    line = front(points)
    ax.grid(color=FAINT, linewidth=0.8)
    ax.step([points[i][0] for i in line], [points[i][1] for i in line], where="post", color=PALE, zorder=1)
    groups = [
        ("stitched", GREY, "o", 14, [i for i, r in enumerate(routes) if "." in r.route and not r.deployed]),
        ("deployed", BLUE, "o", 30, [i for i, r in enumerate(routes) if "." in r.route and r.deployed]),
        ("anchors", VERMILION, "s", 42, [i for i, r in enumerate(routes) if "." not in r.route]),
    ]
    for name, colour, marker, size, which in groups:
        if which:
            places = [points[i] for i in which]
            ax.scatter(
                [x for x, _ in places], [y for _, y in places], s=size, c=colour, marker=marker, label=name, zorder=2
            )
    ax.set_xlabel(xlabel, color=INK, fontsize=9)
    ax.set_ylabel(ylabel, color=INK, fontsize=9)
    ax.legend(frameon=False, fontsize=8, loc="lower right")
