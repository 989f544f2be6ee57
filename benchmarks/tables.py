"""The tables of the docs, made from stored rows: `python -m benchmarks.tables` writes them into the pages again.

A page holds a table between `<!-- rows: NAME -->` and `<!-- /rows -->`; a test compares. Where no row is stored yet,
the command that makes them stands there instead of figures.
"""

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import (
    controls,
    dense,
    dense_ladder,
    hierarchical,
    layers,
    methods_on_families,
    north_star,
    palette,
    prunability,
    quality,
    ranking,
    recovery,
    samples,
    sensitivity,
    sls,
    spt_statistics,
    spvit,
    step,
    storage,
    thesis,
    tuning_cost,
    widths,
)
from benchmarks.rows import Row, Rows

DOCS = Path("docs")
STORES = DOCS / "benchmarks"
PLACE = re.compile(r"<!-- rows: (?P<name>[\w-]+) -->\n.*?<!-- /rows -->", flags=re.DOTALL)


@dataclass(frozen=True)
class Table:
    """A table of a page under docs/: the store of its rows, how it is made of them, and what makes them."""

    page: str
    store: str
    make: Callable[[Path], str]
    command: str


def plain(make: Callable[[list[Row]], str]) -> Callable[[Path], str]:
    """From the lines of a store."""
    return lambda store: make([json.loads(line) for line in store.read_text().splitlines()])


def families(which: Callable[[dict[str, Row]], str]) -> Callable[[Path], str]:
    """From rows by family."""
    return plain(lambda rows: which({row["family"]: row for row in rows}))


def kept(make: Callable[[Rows], str]) -> Callable[[Path], str]:
    """From rows with keys."""
    return lambda store: make(Rows(store))


def _thesis(name: str) -> Table:
    command = f"python -m benchmarks.thesis {name} --store docs/benchmarks/thesis.jsonl"
    return Table("benchmarks.md", "thesis", kept(lambda rows: thesis.shown(name, rows)), command)


def _own(name: str, make: Callable[[Path], str], page: str = "benchmarks.md") -> Table:
    return Table(page, name, make, f"python -m benchmarks.{name} --store docs/benchmarks/{name}.jsonl")


TABLES = {
    "controls": _own("controls", kept(lambda rows: controls.table(rows, controls.FOUR, 20))),
    **{name: Table("benchmarks.md", "dense_ladder", kept(make), "python -m benchmarks.dense_ladder")
       for name, make in dense_ladder.TABLES.items()},
    "finest-level": Table("benchmarks.md", "dense", kept(dense.memory_table),
                          "python -m benchmarks.dense --batch 4 --rounds 0"),
    "hierarchical": _own("hierarchical", kept(hierarchical.table)),
    "layers": _own("layers", kept(layers.tables)),
    "methods": Table("tunability.md", "methods_on_families",
                     families(lambda rows: methods_on_families.table(rows, "methods")),
                     "python -m benchmarks.methods_on_families"),
    "north_star": _own("north_star", kept(lambda rows: north_star.table(rows, list(north_star.DATA)))),
    "palette": _own("palette", plain(palette.table)),
    "prunability": _own("prunability", families(prunability.table), "prunability.md"),
    "quality": _own("quality", plain(quality.table)),
    "ranking": _own("ranking", families(ranking.table), "prunability.md"),
    "recovery": _own("recovery", kept(lambda rows: recovery.table(rows, list(recovery.NETS)))),
    "samples": _own("samples", kept(samples.table), "methods/spt.md"),
    "sensitivity": _own("sensitivity", kept(sensitivity.table)),
    "sls": _own("sls", kept(sls.table)),
    "spvit": _own("spvit", kept(spvit.table)),
    "spvit-further": Table("benchmarks.md", "spvit", kept(spvit.further_table),
                           'python -m benchmarks.spvit --only "teachers,random search"'),
    "spt_statistics": _own("spt_statistics", kept(spt_statistics.table), "benchmarks/spt_statistics.md"),
    "step": _own("step", kept(step.table)),
    "storage": _own("storage", plain(storage.table)),
    "tuning_cost": _own("tuning_cost", kept(tuning_cost.table)),
    "widths": _own("widths", kept(lambda rows: widths.table(rows, list(widths.NETS)))),
    "wrappers": Table("tunability.md", "methods_on_families",
                      families(lambda rows: methods_on_families.table(rows, "wrappers")),
                      "python -m benchmarks.methods_on_families"),
    **{f"thesis-{name}": _thesis(name) for name in thesis.TABLES},
}  # fmt: skip


def made(name: str) -> str:
    """The table, or what makes its rows."""
    table = TABLES[name]
    store = STORES / f"{table.store}.jsonl"
    text = table.make(store) if store.is_file() else ""
    return text if text.count("\n") > 1 else f"No rows are stored yet: `{table.command}` makes them."


def written(page: str) -> str:
    """The page with all its tables made again."""
    return PLACE.sub(lambda m: f"<!-- rows: {m['name']} -->\n{made(m['name'])}\n<!-- /rows -->", page)


def main() -> None:
    """Write the pages; say which changed."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    for page in sorted({table.page for table in TABLES.values()}):
        text = (DOCS / page).read_text()
        again = written(text)
        if again != text:
            (DOCS / page).write_text(again)
            print(f"docs/{page} written")


if __name__ == "__main__":
    main()
