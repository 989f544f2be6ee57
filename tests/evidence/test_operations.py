"""Figures of hybrids hold what they were given, and come out the same each time."""

import numpy as np
import pytest

from tailor.evidence import operations
from tailor.evidence.operations import Hybrid

HYBRIDS = [
    Hybrid("70 % of the MACs", ("conv3", "none", "attention"), (30, 100, 128), (128, 128, 128)),
    Hybrid("50 %", ("conv1", "none", "none"), (3, 10, 12), (128, 128, 128)),
]
DRAWN = {
    "operations": lambda out: operations.operations(HYBRIDS, out),
    "looked_at": lambda out: operations.looked_at(
        {"block 1": np.eye(4)[None].repeat(2, 0), "block 2": np.ones((1, 4, 4))}, (1, 2), out, title="Query"
    ),
    "distances": lambda out: operations.distances(
        [[1.0, 2.5], [0.5], [3.0, 1.0]], HYBRIDS[0].operations, out, title="How far heads look"
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_the_same_figure_each_time(name, tmp_path):
    first = DRAWN[name](tmp_path / "a.svg").read_bytes()
    assert DRAWN[name](tmp_path / "b.svg").read_bytes() == first
    assert DRAWN[name](tmp_path / "c.png").stat().st_size > 2000


def test_the_bars_are_the_units(tmp_path):
    from matplotlib.figure import Figure

    kept = []
    original = Figure.savefig
    Figure.savefig = lambda self, *args, **kwargs: kept.append(self)
    try:
        operations.operations(HYBRIDS, tmp_path / "any.png")
    finally:
        Figure.savefig = original
    for ax, hybrid in zip(kept[0].axes, HYBRIDS, strict=True):
        heights = [patch.get_height() for patch in ax.patches]
        assert heights == [*hybrid.dense, *hybrid.hidden]
        letters = [text.get_text() for text in ax.texts]
        assert letters == [operations.LOOKS[operation][1] for operation in hybrid.operations]
