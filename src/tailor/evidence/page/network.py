"""The network as a column of blocks: where the budget went, what shrank, what was dropped, what gave way."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

from tailor.bundle.evidence import Budget, Network, Width
from tailor.evidence.page.run import PageRun

LEFT, WIDE, ROW, BAR, TOP = 58.0, 250.0, 18.0, 9.0, 58.0
MOST_BLOCKS, MOST_CELLS, MOST_BARS = 400, 24, 6
WORDS = {"attention": "attention", "conv3": "3x3 convolution", "conv1": "1x1 convolution", "none": "nothing"}
LETTERS = {"attention": "A", "conv3": "3", "conv1": "1", "none": "\u2013"}


@dataclass(frozen=True)
class Cell:
    """An operation of a block: its shade from 0 to 1, the bar of its share, and whether a module stands there."""

    x: float
    wide: float
    shade: float
    bar: float
    whole: bool
    text: str


@dataclass(frozen=True)
class Bar:
    """A width of a block: what stays, inside the outline of what there was."""

    y: float
    kept: float
    text: str
    label: str


@dataclass(frozen=True)
class DrawnBlock:
    """One block of the drawing, from `y` on, `tall` units high."""

    y: float
    tall: float
    name: str
    dropped: bool
    operation: str
    letter: str
    cells: tuple[Cell, ...]
    bars: tuple[Bar, ...]
    text: str


@dataclass(frozen=True)
class OperationColumn:
    """An operation over all blocks: its share of the budget and of the sensitivity, and its modules."""

    name: str
    share: float
    felt: float
    modules: int


@dataclass(frozen=True)
class Sum:
    """Widths of one name over all blocks that stay."""

    name: str
    groups: int
    size: int
    kept: int


@dataclass(frozen=True)
class NetworkDrawing:
    """The whole column; `heads` stand above the cells. `places` and `sums` say the same in numbers."""

    tall: float
    heads: tuple[tuple[float, str], ...]
    blocks: tuple[DrawnBlock, ...]
    places: tuple[OperationColumn, ...]
    sums: tuple[Sum, ...]
    shaded_by: str
    widths: bool
    operations: bool
    dropped: int


def network(run: PageRun) -> NetworkDrawing | None:
    """The drawing; None where the blocks are not known, or nothing happened to them."""
    found, budget = run.evidence.network or Network(()), run.evidence.budget
    count = len(found.blocks) or (len(budget.shares) if budget else 0)
    if not count or (not budget and not found.dropped and not found.widths and not found.operations):
        return None
    shown = budget if budget and len(budget.shares) == count and budget.operations else None
    paths = found.blocks or tuple(f"block {i + 1}" for i in range(count))
    widths = _by_block(found.widths, paths)
    shades = _shades(shown)
    blocks, y = [], TOP if shown else 18.0
    for index, path in enumerate(paths[:MOST_BLOCKS]):
        bars = widths.get(path, ())
        tall = (ROW if shown or not bars else 0.0) + len(bars) * (BAR + 3) + 6
        blocks.append(_block(index, path, y, tall, found, shown, shades, bars))
        y += tall + 6
    cell = WIDE / len(shown.operations[:MOST_CELLS]) if shown else 0.0
    return NetworkDrawing(
        y + 6,
        tuple((LEFT + cell * (i + 0.5), name) for i, name in enumerate(shown.operations[:MOST_CELLS])) if shown else (),
        tuple(blocks),
        _places(shown) if shown else (),
        _sums(widths, found.dropped),
        "" if not shown else "sensitivity" if shown.sensitivity else "share of the budget",
        any(block.bars for block in blocks),
        bool(found.operations),
        len(found.dropped),
    )


def _by_block(widths: Sequence[Width], paths: Sequence[str]) -> dict[str, tuple[Width, ...]]:
    """Widths by the block that their group lies in; those of none under no name."""
    own: dict[str, list[Width]] = defaultdict(list)
    known = set(paths)
    for one in widths:
        pieces = one.group.split(".")
        starts = (".".join(pieces[:n]) for n in range(len(pieces), 0, -1))
        own[next((start for start in starts if start in known), "")].append(one)
    return {path: tuple(some[:MOST_BARS]) for path, some in own.items()}


def _places(budget: Budget) -> tuple[OperationColumn, ...]:
    rows = range(len(budget.shares))
    return tuple(
        OperationColumn(
            name,
            sum(_at(budget.shares, row, column) for row in rows),
            sum(_at(budget.sensitivity, row, column) for row in rows),
            sum(bool(_at(budget.whole, row, column)) for row in rows),
        )
        for column, name in enumerate(budget.operations[:MOST_CELLS])
    )


def _sums(widths: Mapping[str, Sequence[Width]], dropped: Sequence[str]) -> tuple[Sum, ...]:
    """Widths by the name that they have in their block."""
    found: dict[str, list[Width]] = defaultdict(list)
    for path, some in widths.items():
        for one in some if path not in dropped else ():
            found[one.group.removeprefix(f"{path}.") if path else one.group].append(one)
    sums = (
        Sum(name, len(some), max(sum(one.size for one in some), 1), sum(one.kept for one in some))
        for name, some in found.items()
    )
    return tuple(sums)[:MOST_CELLS]


def _shades(budget: Budget | None) -> list[list[float]]:
    """Shades from 0 to 1 by the square root, so that a small share is told from none."""
    if budget is None:
        return []
    table = budget.sensitivity if len(budget.sensitivity) == len(budget.shares) else budget.shares
    top = max((max(row, default=0.0) for row in table), default=0.0) or 1.0
    return [[sqrt(max(value, 0.0) / top) for value in row] for row in table]


def _block(
    index: int,
    path: str,
    y: float,
    tall: float,
    found: Network,
    budget: Budget | None,
    shades: list[list[float]],
    widths: Sequence[Width],
) -> DrawnBlock:
    dropped = path in found.dropped
    operation = found.operations[index] if index < len(found.operations) else ""
    bars = tuple(
        Bar(
            y + 3 + (ROW if budget else 0.0) + i * (BAR + 3),
            round(WIDE * min(one.kept / max(one.size, 1), 1.0), 1),
            f"{one.kept:,} of {one.size:,}",
            one.group.removeprefix(path + "."),
        )
        for i, one in enumerate(widths)
    )
    said = [f"block {index + 1}"]
    said += ["dropped"] if dropped else [WORDS.get(operation, "")] if operation else []
    said += [f"{bar.label} {bar.text}" for bar in bars]
    return DrawnBlock(
        y,
        tall,
        str(index + 1),
        dropped,
        operation,
        LETTERS.get(operation, ""),
        _cells(budget, index, shades) if budget else (),
        bars,
        ", ".join(said),
    )


def _cells(budget: Budget, index: int, shades: list[list[float]]) -> tuple[Cell, ...]:
    names = budget.operations[:MOST_CELLS]
    wide, top = WIDE / len(names), max((max(row, default=0.0) for row in budget.shares), default=0.0) or 1.0
    cells = []
    for column, name in enumerate(names):
        share, shade = _at(budget.shares, index, column), _at(shades, index, column)
        felt = f", {_at(budget.sensitivity, index, column):.2%} of the sensitivity" if budget.sensitivity else ""
        whole = bool(_at(budget.whole, index, column))
        cells.append(
            Cell(
                round(LEFT + wide * column, 2),
                round(wide, 2),
                round(min(shade, 1.0), 3),
                round((wide - 4) * sqrt(max(share, 0.0) / top), 1),
                whole,
                f"block {index + 1}, {name}: {share:.2%} of the budget{felt}{', through a module' if whole else ''}",
            )
        )
    return tuple(cells)


def _at(table: Sequence[Sequence[float]], row: int, column: int) -> float:
    """A cell of a table that a stranger may have cut short."""
    return table[row][column] if row < len(table) and column < len(table[row]) else 0.0
