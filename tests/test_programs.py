"""Benchmarks and scripts follow the package: what they import from it is there. Running them takes minutes to hours."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAMS = sorted([*ROOT.glob("benchmarks/*.py"), *ROOT.glob("scripts/*.py")])


@pytest.mark.parametrize("path", PROGRAMS, ids=[str(path.relative_to(ROOT)) for path in PROGRAMS])
def test_what_a_program_imports_from_the_package_is_there(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("tailor"):
                    importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("tailor"):
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")


def test_no_two_test_files_share_a_name():
    """pytest imports each under its bare name, so that of two only one could be collected."""
    names = [path.name for path in ROOT.glob("tests/**/test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []
