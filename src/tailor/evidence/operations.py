"""Figures of an architecture in which attention gave way: what stands in each block, and what attention looked at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from tailor.evidence.canvas import BLUE, FAINT, GREY, INK, PALE, VERMILION, head, save, sheet

LOOKS = {"attention": (BLUE, "A"), "conv3": (VERMILION, "3"), "conv1": ("#e69f00", "1"), "none": ("white", "")}
"""Colour and letter of each operation."""


@dataclass(frozen=True)
class Hybrid:
    """One architecture: an operation and the hidden units of each block, and how many units there were."""

    name: str
    operations: tuple[str, ...]
    hidden: tuple[int, ...]
    dense: tuple[int, ...]


def operations(hybrids: Sequence[Hybrid], out: Path | str, *, title: str = "What stands in each block") -> Path:
    """A panel an architecture: a mark a block for its operation, a bar for its hidden units in the dense outline."""
    width = max(5.6, 1.6 + 0.42 * max(len(h.operations) for h in hybrids))
    figure, axes = sheet(width, 0.9 + 2.0 * len(hybrids), len(hybrids))
    for ax, hybrid in zip(axes, hybrids, strict=True):
        x, tallest = range(1, len(hybrid.hidden) + 1), max(hybrid.dense) or 1
        ax.bar(x, hybrid.dense, 0.74, fill=False, edgecolor=GREY, linewidth=0.9)
        ax.bar(x, hybrid.hidden, 0.74, color=PALE)
        for block, operation in zip(x, hybrid.operations, strict=True):
            colour, letter = LOOKS[operation]
            ax.plot(block, 1.16 * tallest, "s", color=colour, markeredgecolor=GREY, markersize=13)
            ink = "white" if operation in ("attention", "conv3") else INK
            ax.text(block, 1.155 * tallest, letter, ha="center", va="center", fontsize=9, color=ink)
        ax.set_ylim(0, 1.3 * tallest)
        ax.set_xticks(x)
        ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.set_ylabel("hidden units", fontsize=9, color=INK)
        ax.set_title(hybrid.name, loc="left", fontsize=10, color=INK, pad=4)
    axes[-1].set_xlabel("block", fontsize=9, color=INK)
    words = {"attention": "A attention", "conv3": "3 convolution 3x3", "conv1": "1 convolution 1x1", "none": "nothing"}
    handles = [Patch(facecolor=LOOKS[name][0], edgecolor=GREY, label=text) for name, text in words.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8.5, handlelength=1)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    return save(figure, out)


def looked_at(maps: Mapping[str, ArrayLike], query: tuple[int, int], out: Path | str, *, title: str) -> Path:
    """Attention probabilities (heads, rows, columns) of one query, a row of panels a block, its own colours a panel."""
    tables = {name: np.asarray(table, dtype=float) for name, table in maps.items()}
    heads = max(len(table) for table in tables.values())
    figure, axes = sheet(1.5 * heads + 0.8, 1.6 * len(tables) + 0.7, len(tables), heads)
    for row, (name, table) in enumerate(tables.items()):
        for column in range(heads):
            ax = axes[row * heads + column]
            ax.set_axis_off()
            if column < len(table):
                ax.imshow(table[column], cmap="Blues", vmin=0)
                ax.plot(query[1], query[0], "+", color=VERMILION, markersize=9, markeredgewidth=1.5)
                ax.set_title(f"{name}, head {column + 1}", loc="left", fontsize=8, color=INK, pad=3)
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    return save(figure, out)


def distances(
    by_block: Sequence[Sequence[float]], operations_found: Sequence[str], out: Path | str, *, title: str, note: str = ""
) -> Path:
    """Mean attention distance in patches, a point a head, over the operation that a search gave the block."""
    figure, (ax,) = sheet(1.6 + 0.42 * len(by_block), 3.6)
    top = max(max(heads) for heads in by_block if heads)
    for block, (heads, operation) in enumerate(zip(by_block, operations_found, strict=True), 1):
        colour, letter = LOOKS[operation]
        ax.scatter([block] * len(heads), heads, 28, color=BLUE, alpha=0.8, linewidths=0, zorder=3)
        ax.plot(block, -0.12 * top, "s", color=colour, markeredgecolor=GREY, markersize=13, clip_on=False)
        ink = "white" if operation in ("attention", "conv3") else INK
        ax.text(block, -0.125 * top, letter, ha="center", va="center", fontsize=9, color=ink)
    ax.axhline(0, color=FAINT, linewidth=0.8)
    ax.set_ylim(-0.24 * top, 1.08 * top)
    ax.set_yticks([t for t in MaxNLocator(5).tick_values(0, top) if t >= 0])
    ax.set_xticks(np.arange(1, len(by_block) + 1))
    ax.set_xlabel("block", fontsize=9, color=INK)
    ax.set_ylabel("mean distance (patches)", fontsize=9, color=INK)
    head(ax, title, note)
    return save(figure, out)
