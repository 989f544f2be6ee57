"""Figures hold what they were given, say it in words, never cover a name, and come out the same each time."""

import re
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from tailor.errors import UsageError
from tailor.evidence import plots
from tailor.evidence.canvas import INK, sheet
from tailor.evidence.labels import place_labels
from tailor.evidence.plots import Point, accuracy_vs_params, bars, heatmap, sc_curve, scatter_tsne, short

ROWS, COLUMNS = ["block 1", "block 2"], ["qkv", "proj", "fc1"]
SHARES = np.array([[0.5, 0.0, 0.001], [0.2, 0.25, 0.049]])
POINTS = [Point("full", 2e7, 88.0), Point("linear", 3e4, 71.0), Point("spt-lora", 3e5, 89.0, highlight=True)]


def draw_heatmap(out: Path) -> Path:
    return heatmap(SHARES, ROWS, COLUMNS, "Budget", out, marked=SHARES > 0.1, note="of 0.4 M")


def draw_curve(out: Path) -> Path:
    return sc_curve(range(1, 7), [float("nan"), 0.01, 0.1, 0.3, 0.4, 0.5], 0.15, 4, out)


def draw_maps(out: Path) -> Path:
    random = np.random.default_rng(0)
    labels = [i % 9 for i in range(45)]
    maps = {f"layer {i}": random.normal(size=(45, 2)) for i in range(5)}
    return scatter_tsne(maps, labels, [f"class {i}" for i in range(9)], out)


def draw_points(out: Path) -> Path:
    return accuracy_vs_params(POINTS, out)


def draw_bars(out: Path) -> Path:
    return bars(
        ["lora", "spt-lora"], [85.25, 88.0], "Top-1", "%", out, spreads=[(84, 86), (87, 89)], highlight=["lora"]
    )


DRAW = {f.__name__: f for f in (draw_heatmap, draw_curve, draw_maps, draw_points, draw_bars)}


@pytest.mark.parametrize("suffix", [".png", ".svg"])
@pytest.mark.parametrize("draw", DRAW.values(), ids=DRAW)
def test_the_same_values_give_the_same_bytes(draw: Callable[[Path], Path], suffix: str, tmp_path: Path) -> None:
    first, second = draw(tmp_path / "new" / f"a{suffix}"), draw(tmp_path / f"b{suffix}")
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")


def words(path: Path) -> set[str]:
    """Texts of an SVG; matplotlib leaves each as a comment before its outlines."""
    return {text.strip() for text in re.findall(r"<!--(.*?)-->", path.read_text(encoding="utf-8"))}


@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (
            draw_heatmap,
            {"Budget", "of 0.4 M", "50%", "25%", "5%", "block 2", "fc1", "share of the selected parameters"},
        ),
        (
            draw_curve,
            {
                "4 of 6 layers stay; 1 not looked at (?)",
                "?",
                "threshold 0.15",
                "cut",
                "silhouette coefficient",
                "layer",
            },
        ),
        (draw_maps, {"layer 0", "layer 4", "class 0", "class 8"}),
        (draw_points, {"full", "linear", "spt-lora", "100K", "10M", "top-1 accuracy (%)"}),
        (draw_bars, {"Top-1", "lora", "spt-lora", "85.2", "88.0", "%"}),
    ],
)
def test_a_figure_says_what_it_shows(draw: Callable[[Path], Path], expected: set[str], tmp_path: Path) -> None:
    found = words(draw(tmp_path / "a.svg"))
    assert expected <= found, expected - found


def test_none_is_told_from_little_and_only_marks_have_a_legend(tmp_path: Path) -> None:
    plain = words(heatmap(SHARES, ROWS, COLUMNS, "Budget", tmp_path / "a.svg"))
    assert not any("whole matrix" in text for text in plain)
    assert any("whole matrix" in text for text in words(draw_heatmap(tmp_path / "b.svg")))


def test_nothing_is_cut_when_all_layers_stay(tmp_path: Path) -> None:
    assert "cut" not in words(sc_curve(range(1, 4), [0.1, 0.2, 0.3], 0.35, 3, tmp_path / "a.svg"))


@pytest.mark.parametrize("panels", [1, 2, 5])
@pytest.mark.parametrize(
    "classes", [["rose", "sunflower", "dandelion"], [f"a plant with a long name {i}" for i in range(8)]]
)
def test_the_maps_leave_no_word_outside(
    panels: int, classes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(plots, "save", lambda figure, out: drawn.append(figure) or out)
    maps = {f"block {i}, SC 0.10": np.random.default_rng(i).normal(size=(16, 2)) for i in range(panels)}
    scatter_tsne(maps, [i % len(classes) for i in range(16)], classes, tmp_path / "a.png")
    (figure,) = drawn
    figure.draw_without_rendering()
    written = [text for text in figure.findobj(Text) if text.get_text()]
    assert {text.get_text() for text in written} >= {*classes, *maps}
    for text in written:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text.get_text()


def test_empty_and_single_values_are_drawn(tmp_path: Path) -> None:
    heatmap(np.zeros((2, 3)), ROWS, COLUMNS, "Nothing chosen", tmp_path / "a.png")
    accuracy_vs_params(POINTS[:1], tmp_path / "b.png")
    bars(["none"], [0.0], "Nothing", "%", tmp_path / "c.png")
    assert len(list(tmp_path.iterdir())) == 3


def test_a_map_without_blocks_is_a_sheet_that_says_so(tmp_path: Path) -> None:
    found = words(heatmap((), (), (), "spt-lora: where 100 parameters went", tmp_path / "map.svg", marked=[]))
    assert any("no described blocks" in text for text in found)


@pytest.mark.parametrize("seed", range(4))
def test_no_name_covers_another_or_a_point(seed: int) -> None:
    random = np.random.default_rng(seed)
    figure, (ax,) = sheet(7, 4.5)
    points = [(float(x), float(y)) for x, y in random.normal(0.5, 0.08, size=(18, 2))]
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    boxes = place_labels(ax, points, [f"method-{i}" for i in range(18)], [INK] * 18)
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    assert not any(box.contains(*centre) for box in boxes for centre in ax.transData.transform(points))
    figure.draw_without_rendering()
    drawn = {text.get_text(): Text.get_window_extent(text) for text in ax.texts}  # without their lines
    for index, box in enumerate(boxes):
        assert np.allclose(drawn[f"method-{index}"].extents, box.extents, atol=1.5)


def test_the_frontier_is_what_nothing_cheaper_equals() -> None:
    points = [Point("a", 10, 50), Point("b", 10, 60), Point("c", 20, 60), Point("d", 30, 55), Point("e", 40, 61)]
    assert [point.name for point in plots._frontier(points)] == ["b", "e"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(12, "12"), (999.7, "1K"), (27_296, "27.3K"), (345_000, "345K"), (86.6e6, "86.6M"), (1.756e10, "17.6G")],
)
def test_counts_are_short(value: float, text: str) -> None:
    assert short(value) == text


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="its suffix names no format"):
        draw_bars(tmp_path / "a.jpeg2000")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        draw_bars(tmp_path / "file" / "a.png")


def test_pyplot_and_its_global_state_are_never_loaded(tmp_path: Path) -> None:
    code = (
        "import sys, matplotlib; from tailor.evidence.plots import bars; before = matplotlib.rcParams.copy();"
        f"bars(['a'], [1.0], 't', 'u', {str(tmp_path / 'a.svg')!r});"
        "assert 'matplotlib.pyplot' not in sys.modules; assert matplotlib.rcParams.copy() == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_are_drawn_as_they_are(tmp_path):
    odd = ["$\\frac{$", "a_b^$c$", "日本", "a\\x1b"]
    points = np.random.default_rng(0).normal(size=(8, 2))
    scatter_tsne({"block $1$": points}, [0, 1, 2, 3] * 2, odd, tmp_path / "a.svg")
    bars(odd, [1.0, 2.0, 3.0, 4.0], "$title$ {", "%", tmp_path / "b.svg")
    heatmap(SHARES, odd[:2], COLUMNS, "Budget", tmp_path / "c.svg")
    accuracy_vs_params([Point(name, 10.0 ** (i + 3), 50.0 + i) for i, name in enumerate(odd)], tmp_path / "d.svg")
