import numpy as np

from tailor.evidence.terminal import MARK, heatmap_text

ROWS, COLUMNS = ["block 1", "block 12"], ["q", "norm+bias"]


def test_shades_go_from_blank_to_full_and_shares_add_up() -> None:
    text = heatmap_text([[0.0, 0.06], [0.001, 0.939]], ROWS, COLUMNS)
    assert text.splitlines() == [
        "           q    norm+bias",
        " block 1        ▒▒▒▒▒▒▒▒▒    6%",
        "block 12  ░░░░  █████████   94%",
        "           0%      100%",
    ]


def test_marked_cells_are_marked_and_explained() -> None:
    text = heatmap_text(np.ones((2, 2)), ROWS, COLUMNS, [[True, False], [False, False]])
    assert text.splitlines()[1] == f" block 1  █{MARK}██  █████████   50%"
    assert text.splitlines()[-1].endswith(f"{MARK} whole matrix through a module")


def test_without_blocks_there_is_nothing_to_shade() -> None:
    assert heatmap_text((), (), ()) == ""
    assert heatmap_text(((), ()), ROWS, ()) == ""


def test_a_plan_of_nothing_is_blank() -> None:
    assert not set("░▒▓█") & set(heatmap_text(np.zeros((2, 2)), ROWS, COLUMNS))
