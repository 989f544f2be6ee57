"""The learning curve of a run: loss and the task's metric by epoch, the chosen epoch marked."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.ticker import MaxNLocator

from tailor.evidence.canvas import BLUE, GREY, INK, VERMILION, head, save, sheet


def history(rows: Sequence[Mapping[str, float]], metric: str, chosen: int, out: Path | str) -> Path:
    """One row an epoch: `epoch`, `loss`, and `metric` where it was validated; two panels side by side."""
    figure, (losses, values) = sheet(8.4, 3.2, columns=2)
    point = "o" if len(rows) == 1 else None
    losses.plot([row["epoch"] for row in rows], [row["loss"] for row in rows], color=BLUE, linewidth=1.6, marker=point)
    head(losses, "training loss", "mean over the epoch")
    measured = [row for row in rows if metric in row]
    values.plot([row["epoch"] for row in measured], [row[metric] for row in measured], color=BLUE, linewidth=1.6)
    best = next((row for row in measured if row["epoch"] == chosen), None)
    note = "on val"
    if best is not None:
        values.plot([chosen], [best[metric]], "o", color=VERMILION, markersize=6)
        note = f"on val; epoch {chosen} was chosen: {best[metric]:.4g}"
    head(values, metric, note)
    for ax in (losses, values):
        ax.set_xlabel("epoch", fontsize=9, color=INK)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(axis="y", color=GREY, alpha=0.2, linewidth=0.6)
    return save(figure, out)
