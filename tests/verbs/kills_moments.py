"""Run by `test_interrupted.py`: a verb is killed (SIGKILL) at moments of chance, and done again as a person would.

Forked, so that torch is imported once; prints for each moment whether what it ended with is that of an undisturbed run.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from kills import child

import tailor

SETTINGS = {"epochs": 2, "batch_size": 8, "progress": None}


def adapt(photos: str, root: Path, out: Path) -> None:
    tailor.adapt(photos, model="tailor_mini_ti", method="spt-lora", budget="1%", out=out, resume=True, **SETTINGS)


def prune(photos: str, root: Path, out: Path) -> None:
    cut = {"method": "isomorphic", "macs": "60%", "retrain": "1clr"}
    tailor.prune(root / "adapted", data=photos, out=out, resume=True, **cut, **SETTINGS)


def export(photos: str, root: Path, out: Path) -> None:
    tailor.export(root / "adapted", out=f"{out}.onnx", overwrite=True, progress=None)


VERBS: dict[str, Callable[[str, Path, Path], None]] = {"adapt": adapt, "prune": prune, "export": export}


def left(out: Path) -> str:
    """The digest of the weights, and what lies in the folder or beside the file."""
    file = out / "tensors.safetensors" if out.is_dir() else out.with_name(out.name + ".onnx")
    names = [p.name for p in out.iterdir()] if out.is_dir() else []
    halves = [p.name for p in out.parent.iterdir() if p.name.startswith(f".{out.name}")]
    return f"{hashlib.sha256(file.read_bytes()).hexdigest()} {sorted(names)} {halves}"


def main(photos: str, root: Path, verb: str, moments: int) -> None:
    work, chance, found = VERBS[verb], random.Random(verb), {}
    assert verb == "adapt" or child(lambda: adapt(photos, root, root / "adapted")) == 0
    start = time.monotonic()
    assert child(lambda: work(photos, root, root / "reference")) == 0
    seconds, expected = time.monotonic() - start, left(root / "reference").replace("reference", "NAME")
    for number in range(moments):
        out, moment = root / f"moment-{number}", chance.uniform(0.02, 1) * seconds
        pid = os.fork()
        if pid == 0:
            work(photos, root, out)
            os._exit(0)
        time.sleep(moment)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        code = child(lambda out=out: work(photos, root, out))
        ended = left(out).replace(out.name, "NAME") if code == 0 else ""
        found[f"{number}: after {moment:.2f} of {seconds:.2f} s"] = (
            "same" if ended == expected else f"ended with {code}: {ended}, not {expected}"
        )
    print(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
