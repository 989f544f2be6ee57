"""The figures of a run: where a plan spends its budget, why layers went, and how methods compare.

Each function draws one figure to one `.png` or `.svg` and returns its path. They take plain values and decide nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, isfinite
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator, PercentFormatter
from numpy.typing import ArrayLike

from tailor.evidence.canvas import BLUE, COLOURS, FAINT, GREY, INK, PALE, VERMILION, head, save, sheet
from tailor.evidence.labels import place_labels

_SHADES = LinearSegmentedColormap.from_list("budget", ["#f3f5f7", "#c5dbee", "#6aaed6", "#2171b5", "#08306b"])
_MARKERS = "o^sDv*P"  # with the colours, 49 classes
_NARROWEST = 4.6
"""Inches that the title of the maps needs, however few they are."""


@dataclass(frozen=True)
class Point:
    """One model in a figure of cost against accuracy; `cost` above zero, `accuracy` in percent."""

    name: str
    cost: float
    accuracy: float
    highlight: bool = False


def heatmap(
    values: ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    out: Path | str,
    *,
    marked: ArrayLike | None = None,
    note: str = "",
    unit: str = "share of the selected parameters",
) -> Path:
    """Shares `(rows, columns)` of a budget, 0 to 1, blocks by operations; `marked` rings a cell (a structured site).

    Colours go by the square root, so that a small share is told from none. Where there is no cell, as for a backbone
    without described blocks, the sheet says so.
    """
    if not rows or not columns:
        figure, (ax,) = sheet(_NARROWEST, 1.5)
        ax.set_axis_off()
        head(ax, title, "the backbone has no described blocks to show it by")
        return save(figure, out)
    table = np.nan_to_num(np.asarray(values, dtype=float))
    marks = np.zeros(table.shape, dtype=bool) if marked is None else np.asarray(marked, dtype=bool)
    assert table.shape == marks.shape == (len(rows), len(columns)), "one value and one mark a cell"
    figure, (ax,) = sheet(1.9 + 0.82 * len(columns), 1.5 + 0.36 * len(rows))
    norm = PowerNorm(0.5, vmin=0, vmax=table.max() or 1.0)
    mesh = ax.pcolormesh(table, cmap=_SHADES, norm=norm, edgecolors="white", linewidth=2)
    ax.invert_yaxis()
    ax.set_xticks(np.arange(len(columns)) + 0.5, columns)
    ax.set_yticks(np.arange(len(rows)) + 0.5, rows)
    for (row, column), share in np.ndenumerate(table):
        if share >= 0.01:
            ink = "white" if norm(share) > 0.5 else INK
            ax.text(column + 0.5, row + 0.52, f"{share:.0%}", ha="center", va="center", fontsize=8.5, color=ink)
    ys, xs = np.nonzero(marks)
    ax.plot(xs + 0.87, ys + 0.28, "D", color=VERMILION, markeredgecolor="white", markeredgewidth=0.8, markersize=5.5)
    bar = figure.colorbar(mesh, ax=ax, fraction=0.05, pad=0.02, aspect=30, format=PercentFormatter(1, decimals=0))
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8, colors=GREY)
    bar.set_label(unit, fontsize=9, color=GREY)
    if marks.any():
        ax.set_xlabel("\u25c6 whole matrix through a module", loc="left", fontsize=9, color=VERMILION, labelpad=8)
    head(ax, title, note)
    return save(figure, out)


def sc_curve(
    layers: Sequence[int],
    scores: Sequence[float],
    threshold: float,
    kept: int,
    out: Path | str,
    *,
    title: str = "How well each layer separates the classes",
) -> Path:
    """Silhouette coefficient a layer (NaN where none was taken), the threshold, and which layers stay (`<= kept`)."""
    figure, (ax,) = sheet(7.2, 3.7)
    x, y = np.asarray(layers), np.asarray(scores, dtype=float)
    known = np.isfinite(y)
    ax.plot(x[known], y[known], color=GREY, linewidth=1.5, zorder=2)
    for chosen, colour, size in ((x <= kept, BLUE, 60), (x > kept, "white", 48)):
        shown = known & chosen
        ax.scatter(x[shown], y[shown], size, color=colour, edgecolors=BLUE, linewidths=1.5, zorder=3, clip_on=False)
    ax.axhline(threshold, color=VERMILION, linewidth=1.3, linestyle=(0, (5, 3)), zorder=1)
    ax.annotate(
        f"threshold {threshold:.2g}",
        (x.min() - 0.5, threshold),
        (2, 4),
        textcoords="offset points",
        color=VERMILION,
        fontsize=9,
    )
    if not known.all():
        for layer in x[~known]:
            ax.annotate("?", (layer, 0.03), xycoords=("data", "axes fraction"), ha="center", fontsize=8, color=GREY)
    if kept < x.max():
        ax.axvspan(kept + 0.5, x.max() + 0.5, color=FAINT, alpha=0.6, zorder=0, linewidth=0)
        middle = (kept + x.max() + 1) / 2
        ax.annotate("cut", (middle, 0.03), xycoords=("data", "axes fraction"), ha="center", fontsize=9, color=GREY)
    ax.set_xlim(x.min() - 0.5, x.max() + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=min(len(x), 24)))
    ax.margins(y=0.12)
    _grid(ax, "y")
    ax.set_xlabel("layer", fontsize=10, color=INK)
    ax.set_ylabel("silhouette coefficient", fontsize=10, color=INK)
    count = int((~known).sum())
    unseen = f"; {count} not looked at (?)" if count else ""
    head(ax, title, f"{kept} of {x.max()} layers stay{unseen}")
    return save(figure, out)


def scatter_tsne(
    maps: Mapping[str, ArrayLike],
    labels: Sequence[int],
    classes: Sequence[str],
    out: Path | str,
    *,
    title: str = "Features of each layer (t-SNE)",
) -> Path:
    """One panel a map (its name above, points `(N, 2)`), one colour and marker a class; the axes have no meaning."""
    columns = min(4, len(maps))
    rows = ceil(len(maps) / columns)
    width = max(2.3 * columns + 0.2, _NARROWEST)
    across = min(6, max(1, int(width / (0.55 + 0.08 * max(map(len, classes))))))  # names in one line of the legend
    figure, axes = sheet(width, 2.35 * rows + 0.9 + 0.2 * ceil(len(classes) / across), rows, columns)
    of = np.asarray(labels)
    looks = [(COLOURS[i % len(COLOURS)], _MARKERS[i // len(COLOURS) % len(_MARKERS)]) for i in range(len(classes))]
    for ax, (name, points) in zip(axes, maps.items(), strict=False):
        places = np.asarray(points, dtype=float)
        for index, (colour, marker) in enumerate(looks):
            own = places[of == index]
            ax.scatter(own[:, 0], own[:, 1], 9, color=colour, marker=marker, alpha=0.75, linewidths=0)
        ax.set_box_aspect(1)
        ax.spines[:].set(visible=True, color=FAINT)
        ax.set_xticks([])
        ax.set_yticks([])
        ax.set_title(name, loc="left", fontsize=9.5, color=INK, pad=4)
    for ax in axes[len(maps) :]:
        ax.set_axis_off()
    handles = [Line2D([], [], color=colour, marker=marker, linestyle="", markersize=6) for colour, marker in looks]
    figure.legend(
        handles,
        classes,
        loc="outside lower center",
        ncols=min(across, len(classes)),
        frameon=False,
        fontsize=9,
        handletextpad=0.2,
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    return save(figure, out)


def accuracy_vs_params(
    points: Sequence[Point],
    out: Path | str,
    *,
    title: str = "Accuracy against what is trained",
    cost: str = "trainable parameters",
    accuracy: str = "top-1 accuracy (%)",
    note: str = "",
) -> Path:
    """Names beside points that never overlap, cost on a logarithmic axis, and the frontier no other point beats."""
    assert all(point.cost > 0 and isfinite(point.accuracy) for point in points), "the cost axis is logarithmic"
    figure, (ax,) = sheet(7.2, 4.6)
    ax.set_xscale("log")
    low, high = min(p.cost for p in points), max(p.cost for p in points)
    reach = max((high / low) ** 0.16, 1.4)
    ax.set_xlim(low / reach, high * reach)
    bottom, top = min(p.accuracy for p in points), max(p.accuracy for p in points)
    ax.set_ylim(bottom - 0.12 * (top - bottom or 1), top + 0.12 * (top - bottom or 1))
    _grid(ax, "both")
    edge = _frontier(points)
    steps = [*[(p.cost, p.accuracy) for p in edge], (high * reach, edge[-1].accuracy)]
    ax.step(*zip(*steps, strict=True), where="post", color=FAINT, linewidth=4, zorder=1)
    colours = [VERMILION if p.highlight else BLUE for p in points]
    ax.scatter([p.cost for p in points], [p.accuracy for p in points], 55, colours, edgecolors="white", zorder=3)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(cost, fontsize=10, color=INK)
    ax.set_ylabel(accuracy, fontsize=10, color=INK)
    head(ax, title, "; ".join(filter(None, [note, "grey: the best at that cost or below"])))
    names = [p.name for p in points]
    place_labels(ax, [(p.cost, p.accuracy) for p in points], names, [c if c == VERMILION else INK for c in colours])
    return save(figure, out)


def bars(
    names: Sequence[str],
    values: Sequence[float],
    title: str,
    unit: str,
    out: Path | str,
    *,
    spreads: Sequence[tuple[float, float]] | None = None,
    highlight: Sequence[str] = (),
    note: str = "",
    digits: int = 1,
) -> Path:
    """One horizontal bar a method from zero, its value at the end, its spread `(low, high)` as a whisker."""
    figure, (ax,) = sheet(7.2, 1.25 + 0.36 * len(names))
    rows = np.arange(len(names))
    colours = [VERMILION if name in highlight else PALE for name in names]
    ax.barh(rows, values, 0.66, color=colours)
    ends = [*values]
    for row, (low, high) in enumerate(spreads or ()):
        ax.plot([low, high], [row, row], color=INK, linewidth=1.4, solid_capstyle="butt")
        ends[row] = max(values[row], high)
    for row, (value, end) in enumerate(zip(values, ends, strict=True)):
        ax.annotate(
            f"{value:.{digits}f}",
            (max(end, 0), row),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=INK,
        )
    ax.set_yticks(rows, names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlim(min(0, *values), max(0, *ends) * 1.1 or 1)
    _grid(ax, "x")
    ax.set_xlabel(unit, fontsize=10, color=INK)
    head(ax, title, note)
    return save(figure, out)


def _frontier(points: Sequence[Point]) -> list[Point]:
    """The points that no cheaper (or equally cheap) one equals in accuracy, by cost."""
    edge: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, -p.accuracy)):
        if not edge or point.accuracy > edge[-1].accuracy:
            edge.append(point)
    return edge


def short(value: float) -> str:
    """A count with K, M or G (10^3, 10^6, 10^9), at most three digits."""
    for scale, letter in ((1e9, "G"), (1e6, "M"), (1e3, "K")):
        if value >= 0.9995 * scale:
            return f"{value / scale:.3g}{letter}"
    return f"{value:.3g}"


def _grid(ax: Axes, which: str) -> None:
    for axis in {"x": (ax.xaxis,), "y": (ax.yaxis,), "both": (ax.xaxis, ax.yaxis)}[which]:
        axis.grid(visible=True, color=FAINT, linewidth=0.8)
    ax.set_axisbelow(True)
