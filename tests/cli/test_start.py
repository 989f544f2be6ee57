"""What can be told without torch is told without it: help, lists, and words that mean nothing."""

import subprocess
import sys

HELD = "lora"
"""A folder that holds a bundle; it has a method's name, for what goes below."""
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
    (["adapt", "photos", "--model", "x", "--epochs", "0"], 2),
    (["adapt", "photos", "--model", "x", "--lr", "-1"], 2),
    (["adapt", "photos", "--model", "x", "--method", "lora", "--budget", "5ms"], 2),
    (["adapt", "photos", "--model", "x", "--budget", "lots"], 2),
    (["adapt", "photos", "--model", "x", "--method", "noah", "--budget", "0"], 2),
    (["adapt", "photos", "--model", "x", "-o", HELD], 2),
    (["adapt", "photos", "--model", "x", "-o", HELD, "--overwrite", "--resume"], 2),
    (["adapt", "photos", "--model", HELD, "-o", HELD, "--overwrite"], 2),
    (["adapt", "photos", "--model", "x", "--method", "lora,linear", "-o", HELD], 2),
    (["fit", "plan", "--data", "photos", "--epochs", "0"], 2),
    (["fit", "plan", "--data", "photos", "-o", HELD], 2),
    (["prune", "x", "--data", "photos", "--retrain", "1clr", "--lr", "0"], 2),
    (["prune", "x", "--data", "photos", "-o", HELD], 2),
    (["prune", "x", "--method", "isomorphic", "--macs", "50"], 2),
    (["prune", "x", "--method", "spvit", "--data", "photos", "--macs", "half"], 2),
    (["stitch", "photos", "--models", "a,b", "--epochs", "0"], 2),
    (["stitch", "photos", "--models", "a,b", "-o", HELD], 2),
    (["pick", "x", "--macs", "5ms"], 2),
    (["pick", "x", "-o", HELD], 2),
    (["merge", "x", "-o", HELD], 2),
    (["export", "x", "-o", f"{HELD}/bundle.json"], 2),
    (["export", "x", "-o", "m.onx"], 2),
    (["predict", "x", "photo.jpg", "-o", f"{HELD}/bundle.json"], 2),
    (["evaluate", "x", "photos", "-o", f"{HELD}/bundle.json"], 2),
]
RUN = f"""
import contextlib, io, sys
from pathlib import Path
from tailor.cli import main

for folder in (Path({HELD!r}), Path({HELD!r}) / "lora"):
    folder.mkdir()
    (folder / "bundle.json").write_text("{{}}")
for arguments, code in {SAID!r}:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as told:
        try:
            main(arguments)
        except SystemExit as done:
            assert (done.code or 0) == code, (arguments, done.code, told.getvalue())
    said = told.getvalue().splitlines()
    assert code == 0 or (len(said) == 2 and "Traceback" not in told.getvalue()), (arguments, said)
    heavy = {{"torch", "timm", "numpy"}} & sys.modules.keys()
    assert not heavy, (arguments, heavy)
"""


def test_help_and_mistakes_load_neither_torch_nor_timm(tmp_path):
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
