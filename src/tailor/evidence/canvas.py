"""Paper, ink and colours of every figure: matplotlib's objects alone, no pyplot and no global settings.

Colours are those of Okabe and Ito (2008), which colour-blind readers can tell apart; the same data give the same bytes.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text

from tailor.errors import UsageError

INK, GREY, FAINT = "#1f2933", "#66717e", "#e4e7eb"
BLUE, VERMILION, PALE = "#0072b2", "#d55e00", "#86b6d8"
COLOURS = (BLUE, "#e69f00", "#009e73", "#cc79a7", "#56b4e9", VERMILION, INK)
DOTS_PER_INCH = 160


@contextmanager
def literal() -> Iterator[None]:
    """Names are drawn as they are: a dollar begins no formula, what the font lacks is a box and no warning."""
    with rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        yield


@literal()
def sheet(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A white figure of that many inches and its plain axes, row by row."""
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(w_pad=0.12, h_pad=0.12)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes:
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0, labelsize=9, colors=INK, pad=5)
    return figure, axes


def head(ax: Axes, title: str, note: str = "") -> None:
    """The title, to the left in bold, and a smaller line below it."""
    ax.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=24 if note else 10)
    if note:
        ax.annotate(note, (0, 1), (0, 9), "axes fraction", textcoords="offset points", fontsize=9, color=GREY)


def save(figure: Figure, out: Path | str) -> Path:
    """Writes a `.png` or `.svg` (its suffix decides) and returns the path; the same figure gives the same bytes."""
    path = Path(out)
    metadata = {".png": {"Software": None}, ".svg": {"Date": None, "Creator": None}}.get(path.suffix)
    if metadata is None:
        raise UsageError(f"cannot draw to `{path.name}`: its suffix names no format", hint="end it in `.png` or `.svg`")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn = BytesIO()
        with literal(), rc_context({"svg.hashsalt": "tailor"}):
            for text in figure.findobj(Text):
                text.set_parse_math(False)
            figure.savefig(drawn, format=path.suffix[1:], metadata=metadata)
        path.write_bytes(drawn.getbuffer())
    except OSError as error:
        raise UsageError(
            f"cannot write `{path}`: {error.strerror or error}", hint="give a path in a writable folder"
        ) from None
    return path
