"""What can be told without torch is told without it: help, lists, and words that mean nothing."""

import subprocess
import sys

SAID = [
    (["--help"], 0),
    (["adapt", "--help"], 0),
    (["prune", "--method", "isomorphic", "--help"], 0),
    (["list", "methods"], 0),
    (["list", "tasks"], 0),
    (["adapt", "photos", "--model", "x", "--method", "lorra"], 2),
    (["adapt", "photos", "--modle", "x"], 2),
    (["adapt", "photos", "--model", "x", "--task", "dancing"], 2),
    (["prune", "x", "--method", "isomorphic", "--alpha", "0.3"], 2),
    (["prune", "x", "--method", "isomorphic"], 2),
    (["prune", "x", "--method", "isomorphic", "--macs", "50%", "--criterion", "lonely"], 2),
    (["fit", "runs/plan"], 2),
]
RUN = f"""
import contextlib, io, sys
from tailor.cli import main

for arguments, code in {SAID!r}:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as told:
        try:
            main(arguments)
        except SystemExit as done:
            assert (done.code or 0) == code, (arguments, done.code, told.getvalue())
    heavy = {{"torch", "timm", "numpy"}} & sys.modules.keys()
    assert not heavy, (arguments, heavy)
"""


def test_help_and_mistakes_load_neither_torch_nor_timm():
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
