"""A published table is what its stored rows say: each line of it is made from them again."""

from pathlib import Path

import pytest
from benchmarks import quality, widths
from benchmarks.rows import Rows

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/benchmarks.md").read_text()
STORES = ROOT / "docs/benchmarks"
TABLES = {
    "quality": lambda: quality.table(quality.finished(STORES / "quality.jsonl")),
    "widths": lambda: widths.table(Rows(STORES / "widths.jsonl"), list(widths.NETS)),
}


@pytest.mark.parametrize("name", TABLES)
def test_every_line_of_a_table_is_made_from_stored_rows(name):
    made = TABLES[name]().splitlines()
    assert len(made) > 2 and [line for line in made if line not in PAGE] == []
