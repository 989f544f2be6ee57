"""The example in docs/extend.md is a method like any other: written down, given its row, it passes the contracts."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
RUN = """
import importlib.util, sys
from tailor.tuning.methods import MODULES

spec = importlib.util.spec_from_file_location("tailor.tuning.methods.scaled", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)
MODULES.rows["scaled"] = "tailor.tuning.methods.scaled.Scaled"  # the one row, before plans are read with the table

import pytest
sys.exit(pytest.main(["-p", "no:cacheprovider", "-k", "scaled", "tests/contracts/test_methods.py"]))
"""


def test_the_page_s_method_passes_the_contracts_with_its_file_and_row(tmp_path):
    page = (ROOT / "docs" / "extend.md").read_text()
    code = next(block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "class Scaled" in block)
    (tmp_path / "scaled.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path / "scaled.py")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 5, done.stdout[-500:]
