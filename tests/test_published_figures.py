"""Published tables are what their stored rows say: every one is made from them again."""

import re
from pathlib import Path

import pytest
from benchmarks import tables

ROOT = Path(__file__).parents[1]
PAGES = sorted({table.page for table in tables.TABLES.values()})


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("page", PAGES)
def test_every_table_of_a_page_is_made_from_stored_rows(page):
    text = (ROOT / "docs" / page).read_text()
    places = re.findall(r"<!-- rows: (\S+) -->", text)
    assert sorted(places) == sorted(name for name, table in tables.TABLES.items() if table.page == page)
    assert text.count("<!-- /rows -->") == len(places)
    assert tables.written(text) == text, "write it anew: python -m benchmarks.tables"


def test_where_no_row_is_stored_the_command_stands_and_no_figure(monkeypatch, tmp_path):
    monkeypatch.setattr(tables, "STORES", tmp_path)
    for name, table in tables.TABLES.items():
        assert tables.made(name) == f"No rows are stored yet: `{table.command}` makes them."
