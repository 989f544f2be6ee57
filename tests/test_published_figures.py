"""A published table is what its stored rows say: each line of it is made from them again."""

import json
from pathlib import Path

import pytest
from benchmarks import methods_on_families, palette, prunability, quality, ranking, spvit, storage, widths
from benchmarks.rows import Rows

ROOT = Path(__file__).parents[1]
PAGES = {
    "prunability": "prunability.md",
    "ranking": "prunability.md",
    "wrappers": "tunability.md",
    "methods": "tunability.md",
}
STORES = ROOT / "docs/benchmarks"


def stored(name: str) -> list[dict]:
    return [json.loads(line) for line in (STORES / f"{name}.jsonl").read_text().splitlines()]


def families(name: str) -> dict[str, dict]:
    return {row["family"]: row for row in stored(name)}


TABLES = {
    "methods": lambda: methods_on_families.table(families("methods_on_families"), "methods"),
    "palette": lambda: palette.table(stored("palette")),
    "prunability": lambda: prunability.table(families("prunability")),
    "quality": lambda: quality.table(quality.finished(STORES / "quality.jsonl")),
    "ranking": lambda: ranking.table(families("ranking")),
    "spvit": lambda: spvit.table(Rows(STORES / "spvit.jsonl")),
    "storage": lambda: storage.table(stored("storage")),
    "widths": lambda: widths.table(Rows(STORES / "widths.jsonl"), list(widths.NETS)),
    "wrappers": lambda: methods_on_families.table(families("methods_on_families"), "wrappers"),
}


@pytest.mark.parametrize("name", TABLES)
def test_every_line_of_a_table_is_made_from_stored_rows(name):
    page = (ROOT / "docs" / PAGES.get(name, "benchmarks.md")).read_text()
    made = TABLES[name]().splitlines()
    assert len(made) > 2 and [line for line in made if line not in page] == []
