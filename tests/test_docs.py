"""What the documents point at is there: links between files, and the names in the reference."""

import importlib
import re
from pathlib import Path

import pytest

import tailor

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
REFERENCE = re.findall(r"^::: (\S+)$", (ROOT / "docs/reference.md").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_between_files_lead_somewhere(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (page.parent / link).exists()] == []


def test_anchors_in_the_readme_are_headings():
    for page, anchor in re.findall(r"\]\(([^)#\s]+)#([^)\s]+)\)", (ROOT / "README.md").read_text()):
        headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), flags=re.MULTILINE)
        slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
        assert anchor in slugs, f"{page}#{anchor}"


@pytest.mark.parametrize("name", REFERENCE)
def test_names_in_the_reference_exist(name):
    module, _, attribute = name.rpartition(".")
    assert getattr(importlib.import_module(module), attribute).__doc__


def test_the_reference_has_every_public_function():
    assert {name for name in dir(tailor) if not name.startswith("_")} <= {n.rpartition(".")[2] for n in REFERENCE}
