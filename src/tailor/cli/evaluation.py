"""How an evaluation looks in a terminal: the leading figure, a row a class, the confusion matrix, the worst."""

from typing import Any

from rich.console import Console
from rich.table import Table

from tailor.visible import visible

_EACH = {"miou": "IoU", "map": "AP"}
"""What is measured of a class, by the leading figure."""
_MATRIX = 12
"""Classes up to which the matrix fits a terminal."""


def print_evaluation(console: Console, values: dict[str, Any]) -> None:
    """The figures, as `as_values` gives them."""
    single = {name: v for name, v in values.items() if isinstance(v, float)}
    for name, value in single.items():
        shown = f"{value:.1%}" if name == "accuracy" else f"{value:.4g}"
        print(f"{name} {shown}" + (f" of {values['n']:,} ({values['split']})" if name == next(iter(single)) else ""))
    if values.get("per_class"):
        print()
        console.print(_classes(values))
    matrix = values.get("confusion") or []
    if 1 < len(matrix) <= _MATRIX:
        print()
        console.print(_matrix(matrix, values.get("classes") or [*values["per_class"]]))
    if values.get("worst"):
        print("\nworst by their loss:")
        for one in values["worst"]:
            rest = [f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in one.items() if k != "source"]
            print(visible(f"  {one['source']}  {'  '.join(rest)}"))


def _classes(values: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    precision = values.get("precision")
    measured = ("recall", "precision") if precision is not None else (_EACH.get(next(iter(values)), "score"),)
    for name in ("class", *measured):
        table.add_column(name, justify="left" if name == "class" else "right")
    for name, value in values["per_class"].items():
        rest = [f"{precision.get(name, 0.0):.1%}"] if precision is not None else []
        table.add_row(visible(name), f"{value:.1%}", *rest)
    return table


def _matrix(matrix: list[list[int]], names: list[str]) -> Table:
    """Rows are what images are, columns what they are called."""
    table = Table(box=None, pad_edge=False, title="rows: is, columns: called", title_justify="left")
    table.add_column("")
    rows = names if len(names) == len(matrix) else [str(i) for i in range(len(matrix))]
    for index in range(len(matrix)):
        table.add_column(str(index), justify="right")
    for index, (name, row) in enumerate(zip(rows, matrix, strict=True)):
        table.add_row(visible(f"{index} {name}"), *map(str, row))
    return table
