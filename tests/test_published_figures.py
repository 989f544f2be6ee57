"""A published table is what its stored rows say: each line of it is made from them again."""

import json
from pathlib import Path

import pytest
from benchmarks import prunability, quality, storage, widths
from benchmarks.rows import Rows

ROOT = Path(__file__).parents[1]
PAGES = {"prunability": "prunability.md"}
STORES = ROOT / "docs/benchmarks"


def stored(name: str) -> list[dict]:
    return [json.loads(line) for line in (STORES / f"{name}.jsonl").read_text().splitlines()]


TABLES = {
    "prunability": lambda: prunability.table({row["family"]: row for row in stored("prunability")}),
    "quality": lambda: quality.table(quality.finished(STORES / "quality.jsonl")),
    "storage": lambda: storage.table(stored("storage")),
    "widths": lambda: widths.table(Rows(STORES / "widths.jsonl"), list(widths.NETS)),
}


@pytest.mark.parametrize("name", TABLES)
def test_every_line_of_a_table_is_made_from_stored_rows(name):
    page = (ROOT / "docs" / PAGES.get(name, "benchmarks.md")).read_text()
    made = TABLES[name]().splitlines()
    assert len(made) > 2 and [line for line in made if line not in page] == []
