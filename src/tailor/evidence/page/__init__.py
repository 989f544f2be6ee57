"""One self-contained HTML page of runs: the verdict first, then what it rests on. No network, no file beside it.

Every name that comes from a bundle passes the template's escaping, and the page's own policy lets only the one script
run whose digest it names: a stranger's class called `<script>` is text twice over. Drawings are plain SVG that is there
without the script, so the page prints, and a screen reader reads it.
"""

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from tailor.errors import UsageError
from tailor.evidence.page.candidates import candidates
from tailor.evidence.page.chart import short
from tailor.evidence.page.network import network
from tailor.evidence.page.pictures import confusion, hardest, learning, maps, separation
from tailor.evidence.page.run import Mistake, PageRun, Parity
from tailor.evidence.page.verdict import against, megabytes, verdict
from tailor.visible import visible

__all__ = ["LARGEST", "MOST_RUNS", "Mistake", "PageRun", "Parity", "page", "verdict"]

LARGEST, MOST_RUNS = 5_000_000, 8
"""Bytes of a page, and runs side by side, at most."""


def page(runs: Sequence[PageRun]) -> str:
    """The page of one run, or of several, the first against the others; UsageError where it is too large."""
    if len(runs) > MOST_RUNS:
        raise UsageError(f"{len(runs)} runs do not fit side by side", hint=f"name {MOST_RUNS} or fewer")
    script = _text("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    made = Environment(
        undefined=StrictUndefined,
        autoescape=True,
        finalize=_shown,
        loader=FunctionLoader(_text),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(megabytes=megabytes, short=short)
    text = made.get_template("page.html").render(
        views=[_view(number, run) for number, run in enumerate(runs)],
        against=[(run.name, against(runs[0], run)) for run in runs[1:]],
        figures=_side_by_side(runs),
        digest=digest,
        script=Markup(script),
        style=Markup(_text("style.css")),
    )
    if len(text.encode()) > LARGEST:
        raise UsageError(f"the page has {len(text.encode()):,} bytes, more than {LARGEST:,}", hint="name fewer runs")
    return text


def _view(number: int, run: PageRun) -> dict[str, Any]:
    """What the template shows of a run."""
    layers = run.evidence.layers
    return {
        "number": number,
        "run": run,
        "verdict": verdict(run),
        "tiles": _tiles(run),
        "candidates": candidates(run),
        "network": network(run),
        "separation": separation(layers) if layers else None,
        "maps": maps(layers) if layers else (),
        "learning": learning(run),
        "confusion": confusion(run),
        "hardest": hardest(run),
    }


def _tiles(run: PageRun) -> list[tuple[str, str, str]]:
    """The figures on top: name, value, and a note."""
    score, costs = run.evidence.score, run.evidence.costs
    tiles = []
    if score and score.after is not None:
        chance = f"\u00b1 {100 * run.error:.1f}, " if run.error is not None and run.percent else ""
        before = f"{run.said(score.before)} before, " if score.before is not None else ""
        stages = {"cut": score.cut, "repaired": score.repaired if score.repaired != score.cut else None}
        cut = "".join(f"{run.said(v)} {k}, " for k, v in stages.items() if v is not None and v != score.after)
        note = f"{chance}{before}{cut}n = {score.n:,}"
        tiles.append((f"{score.metric} on {score.split}", run.said(score.after), note))
    if costs and costs.ratio is not None:
        spread = f"{costs.low:.2f} to {costs.high:.2f}, " if costs.low is not None and costs.high is not None else ""
        note = f"{spread}batch {costs.batch}, in turns, {costs.runtime}"
        tiles.append(("times as fast", f"{costs.ratio:.2f}x", note))
    if costs and costs.after.latency_ms is not None:
        was = f"{costs.before.latency_ms:.2f} before, " if costs.before and costs.before.latency_ms else ""
        tiles.append(("milliseconds", f"{costs.after.latency_ms:.2f}", f"{was}batch 1"))
    if costs:
        for name, unit in (("MACs", "macs"), ("parameters", "params")):
            left = getattr(costs.after, unit)
            whole = getattr(costs.before, unit) if costs.before else None
            note = f"{left / whole:.0%} of {short(whole)}" if whole else "as deployed"
            tiles.append((name, short(left), note))
    if run.bytes:
        tiles.append(("task file", megabytes(run.bytes), "manifest, tensors and card"))
    if run.evidence.seconds is not None:
        seconds = run.evidence.seconds
        tiles.append(("time", f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s", "of this run"))
    return tiles


def _side_by_side(runs: Sequence[PageRun]) -> list[tuple[str, list[tuple[str, str]]]]:
    """A row a figure, a cell a run: its value, and a note where it says of what."""
    rows = []
    names = list(dict.fromkeys(name for run in runs for name, _, _ in _tiles(run)))
    for name in names if len(runs) > 1 else ():
        found = [next(((value, note) for tile, value, note in _tiles(run) if tile == name), ("", "")) for run in runs]
        rows.append((name, found if name not in ("task file", "time") else [(value, "") for value, _ in found]))
    return rows


def _shown(value: Any) -> Any:
    """What a page would obey instead of showing (text from right to left, control characters) is written out."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _text(name: str) -> str:
    return (files("tailor.evidence.page") / name).read_text(encoding="utf-8")
