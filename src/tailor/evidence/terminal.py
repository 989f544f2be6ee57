"""Plans drawn for the terminal, one line a block: the heat map of a budget, the operations of a hybrid."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

SHADES = " ░▒▓█"
MARK = "◆"


def heatmap_text(
    values: ArrayLike, rows: Sequence[str], columns: Sequence[str], marked: ArrayLike | None = None
) -> str:
    """Shades of `values` `(rows, columns)`, none (blank) to the largest (full), and the shares of rows and columns.

    Shades go by the square root, so that small shares are seen; anything above zero has one. `marked` `(rows, columns)`
    puts a mark into a cell (a structured site). The string has no colours and no trailing newline; it is empty where
    there is no cell, as for a backbone without described blocks.
    """
    if not rows or not columns:
        return ""
    table = np.nan_to_num(np.asarray(values, dtype=float))
    marks = np.zeros(table.shape, dtype=bool) if marked is None else np.asarray(marked, dtype=bool)
    assert table.shape == marks.shape == (len(rows), len(columns)), "one value and one mark a cell"
    total = table.sum() or 1.0
    levels = np.ceil(np.sqrt(table / (table.max() or 1.0)) * (len(SHADES) - 1)).astype(int)
    margin = max([len(name) for name in rows], default=0)
    widths = [max(len(name), 4) for name in columns]
    lines = [" " * margin + "  " + "  ".join(name.center(width) for name, width in zip(columns, widths, strict=True))]
    for name, level, mark, share in zip(rows, levels, marks, table.sum(axis=1) / total, strict=True):
        cells = [_cell(SHADES[i], bool(on), width) for i, on, width in zip(level, mark, widths, strict=True)]
        lines.append(f"{name:>{margin}}  " + "  ".join(cells) + f"  {share:4.0%}")
    shares = [f"{share:.0%}".center(width) for share, width in zip(table.sum(axis=0) / total, widths, strict=True)]
    lines.append(" " * margin + "  " + "  ".join(shares))
    if marks.any():
        lines.append(" " * margin + f"  {MARK} whole matrix through a module")
    return "\n".join(line.rstrip() for line in lines)


def operations_text(operations: Sequence[str], hidden: Sequence[int], dense: Sequence[int]) -> str:
    """A line a block: what stands in the attention's place, and its hidden units as a bar in the dense outline."""
    most, wide = max(dense, default=1) or 1, 24
    lines = [f"{'block':>5}  {'operation':9}  hidden units"]
    for number, (operation, units, whole) in enumerate(zip(operations, hidden, dense, strict=True), 1):
        outline = max(1, round(wide * whole / most))
        bar = "█" * min(outline, round(outline * units / (whole or 1)))
        lines.append(f"{number:>5}  {operation:9}  {bar.ljust(outline, '░').ljust(wide)}  {units} of {whole}")
    return "\n".join(lines)


def _cell(shade: str, marked: bool, width: int) -> str:
    left = (width - 1) // 2
    return shade * left + MARK + shade * (width - left - 1) if marked else shade * width
