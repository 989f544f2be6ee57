"""How results look in a terminal: a table or a few lines on stdout for people, one JSON line for programs.

Names stand there as they are: no markup, no emoji codes, and what a terminal would obey is written out.
"""

import json
import math
import sys
from dataclasses import asdict, is_dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from tailor.cli.evaluation import print_evaluation
from tailor.cli.grouped import group_lines
from tailor.cli.routes import ROUTES, print_routes
from tailor.visible import visible

_HIDDEN = ("diagram", "machine", "report")
_TRAINED = ("bundle", "head_params", "bundle_bytes", "seconds", "epoch")
"""What `--plan-only` cannot say yet."""
_WIDEST = 1000


def as_values(result: Any) -> Any:
    """Dataclasses as dictionaries, NaN as null: what JSON can hold."""
    if is_dataclass(result) and not isinstance(result, type):
        own = getattr(type(result), "values", None)
        return as_values(own(result) if own else asdict(result))
    if isinstance(result, dict):
        return {str(k): as_values(v) for k, v in result.items()}
    if isinstance(result, list | tuple):
        return [as_values(v) for v in result]
    if isinstance(result, float) and not math.isfinite(result):
        return None
    return result


def print_json(verb: str, result: Any) -> None:
    """One JSON object on the last line; a list of methods one list."""
    print(_json(as_values(result)))


def print_prediction(one: Any, as_json: bool) -> None:
    """A line as soon as it is known: the path, then what was found there."""
    values = as_values(one)
    if as_json:
        print(_json(values), flush=True)
        return
    score = f"  {values['score']:.1%}" if "score" in values else ""
    score = f"  on {values['share']:.1%} of the pixels" if "share" in values else score
    said = next((values[name] for name in ("label", "value", "answer") if name in values), None)
    print(visible(f"{values['path']}  {said}{score}"), flush=True)


def print_people(verb: str, result: Any) -> None:
    """The result for a person."""
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    values = as_values(result)
    if verb == "evaluate":
        print_evaluation(console, values)
        return
    if isinstance(values, dict) and values.get("kind") == "groups":
        print(*map(visible, group_lines(values)), sep="\n")
        return
    rows = values if isinstance(values, list) else [values]
    if isinstance(values, list):
        table = _side_by_side(rows) if verb == "bench" else _comparison(rows)
        console.width = max(
            console.width, console.measure(table, options=console.options.update(width=_WIDEST)).maximum
        )
        console.print(table)  # a narrow terminal breaks lines, but no figure is cut short
        for line in freezing_lines(rows):
            print(visible(line))
        for warning in filter(None, (row.get("warning") for row in rows)):
            print(f"warning: {visible(warning)}")
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")  # a path that is cut short is none
    planned = bool(values.get("plan"))  # nothing was trained: there are no such figures
    for key, value in values.items():
        if planned and key in _TRAINED:
            continue
        if key in ROUTES and isinstance(value, list):
            continue
        if key not in _HIDDEN and value not in (None, "", [], {}):
            table.add_row(key.replace("_", " "), _cell(key, value))
    console.print(table)
    for key in ROUTES:
        if isinstance(values.get(key), list):
            print_routes(console, values[key])
    for line in values.get("diagram") or ():
        print(visible(line))


def freezing_lines(rows: list[dict[str, Any]]) -> list[str]:
    """What a frozen backbone costs, a line a decoder: each tuned one's metric less the frozen one's."""
    lines = []
    for row in rows:
        gained = row.get("cost_of_freezing") or {}
        if gained:
            metric = list(row)[list(row).index("method") + 1]
            of = f" of `{row['decoder']}`" if row.get("decoder") else ""
            each = ", ".join(f"{method} {gain:+.3f}" for method, gain in gained.items())
            lines.append(f"cost of freezing{of}: {metric} {row[metric]:.3f} with {row['method']}; {each}")
    return lines


def _side_by_side(rows: list[dict[str, Any]]) -> Table:
    """A column a row, for few rows of many figures."""
    table = Table(show_header=False, box=None, pad_edge=False)
    for key in rows[0]:
        cells = [row[key] for row in rows]
        if key not in (*_HIDDEN, "ratio", "warning") and any(cell not in (None, "", [], {}) for cell in cells):
            table.add_row(key.replace("_", " "), *(_cell(key, cell) for cell in cells))
    return table


def _comparison(rows: list[dict[str, Any]]) -> Table:
    keys = [k for k in rows[0] if k not in (*_HIDDEN, "plan", "warning") and not isinstance(rows[0][k], dict)]
    table = Table(box=None, pad_edge=False)
    for key in keys:
        table.add_column(key.replace("_", "\n"), justify="left" if isinstance(rows[0][key], str) else "right")
    for row in rows:
        table.add_row(*[_cell(key, row[key]) for key in keys])
    return table


def _cell(key: str, value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if "accuracy" in key:
        return f"{value:.1%}"
    if key.endswith("percent"):
        return f"{value:.3g} %"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{visible(str(k))} {_cell(key, v)}" for k, v in value.items() if v not in ("", [], {}))
    if isinstance(value, list):
        shown = [_cell(key, v) for v in value[:12]]
        return ("\n" if any(isinstance(v, dict) or len(s) > 30 for v, s in zip(value, shown)) else ", ").join(
            [*shown, *(["..."] if len(value) > 12 else [])]
        )
    return visible(str(value))


def _json(values: Any) -> str:
    """One line of JSON; what the terminal would obey or the stream cannot hold is escaped as JSON does it."""
    text = json.dumps(values, ensure_ascii=not _holds_unicode(sys.stdout.encoding))
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if visible(c) == c else json.dumps(c)[1:-1] for c in text)


def _holds_unicode(encoding: str | None) -> bool:
    return (encoding or "").lower().replace("-", "").startswith("utf")
