"""How the routes of a palette look in a terminal: a row for each that is deployed, the cheapest first."""

from typing import Any

from rich.console import Console
from rich.table import Table

from tailor.visible import visible

ROUTES = ("routes", "deployed")
"""The keys of results under which routes are listed."""
_COLUMNS = {
    "macs": ("MACs", "{:,}"),
    "params": ("parameters", "{:,}"),
    "latency_ms": ("ms", "{:.3g}"),
    "accuracy": ("accuracy", "{:.1%}"),
}


def print_routes(console: Console, routes: list[dict[str, Any]]) -> None:
    """The deployed routes; the others are counted. Columns that nothing was measured for are left out."""
    shown = sorted((one for one in routes if one.get("deployed", True)), key=lambda one: one["macs"])
    measured = [name for name in _COLUMNS if any(one.get(name) is not None for one in shown)]
    table = Table(box=None, pad_edge=False)
    table.add_column("route")
    for name in measured:
        table.add_column(_COLUMNS[name][0], justify="right")
    for one in shown:
        cells = ["-" if one.get(name) is None else _COLUMNS[name][1].format(one[name]) for name in measured]
        table.add_row(visible(one["route"]), *cells)
    print()
    console.print(table)
    if len(shown) < len(routes):
        print(f"and {len(routes) - len(shown)} more routes, which `--json` lists and `--route NAME` names")
