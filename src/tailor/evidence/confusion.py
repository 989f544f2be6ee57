"""Which classes are taken for which: the confusion matrix as a picture, rows the true classes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from tailor.evidence.canvas import INK, head, save, sheet

_SHADES = LinearSegmentedColormap.from_list("share", ["#ffffff", "#c5dbee", "#6aaed6", "#2171b5", "#08306b"])
_NAMED = 40
"""Classes up to which each is named; of more the picture shows the pattern."""


def confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str], out: Path | str) -> Path:
    """Counts (K, K), shaded by their share of the row."""
    counts = np.asarray(matrix, dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(2.4 + 0.42 * len(classes), 14.0)
    figure, (ax,) = sheet(side + 0.6, side)
    ax.pcolormesh(shares, cmap=_SHADES, vmin=0, vmax=1, edgecolors="#eef1f4", linewidth=0.5)
    ax.invert_yaxis()
    ax.set_aspect("equal")
    if len(classes) <= _NAMED:
        names = [name if len(name) <= 24 else name[:23] + "…" for name in classes]
        plain = {"parse_math": False}  # a class may be called `$x$`
        ax.set_xticks(np.arange(len(names)) + 0.5, names, rotation=90, **plain)
        ax.set_yticks(np.arange(len(names)) + 0.5, names, **plain)
        for row, column in zip(*np.nonzero(counts)):
            shade = "white" if shares[row, column] > 0.5 else INK
            ax.text(
                column + 0.5, row + 0.5, f"{counts[row, column]:.0f}", ha="center", va="center", fontsize=8, color=shade
            )
    ax.set_xlabel("called", fontsize=9, color=INK)
    ax.set_ylabel("is", fontsize=9, color=INK)
    right = counts.diagonal().sum() / max(counts.sum(), 1)
    head(ax, "confusion", f"{counts.sum():.0f} images, {right:.1%} right")
    return save(figure, out)
