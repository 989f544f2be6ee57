"""Run by `test_interrupted.py`: the whole of `tailor.adapt` is killed (SIGKILL) where it touches files, then resumed;
prints for each point whether the bundle ended byte for byte as that of an undisturbed run."""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import torch
from kills import child, killing

import tailor

SETTINGS = {"model": "tailor_mini_ti", "method": "spt-lora", "budget": "1%", "epochs": 2, "batch_size": 8}


def adapt(photos: str, out: Path) -> None:
    torch.manual_seed(os.getpid())  # whatever the caller's generator holds must not matter
    tailor.adapt(photos, out=out, resume=True, spt={"samples": 8}, **SETTINGS)


def left(out: Path) -> dict[str, str]:
    """Digests of what a finished run holds, and all its names; the seconds it took differ from run to run."""
    told = json.loads((out / "bundle.json").read_text())
    told["metrics"].pop("seconds")
    told["files"].pop("README.md")  # which says the seconds too
    files = ("tensors.safetensors", "plan.json", "sensitivity.safetensors", "metrics.jsonl")
    digests = {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in files}
    return digests | {"bundle.json": json.dumps(told), "names": str(sorted(p.name for p in out.iterdir()))}


def at_a_touch(photos: str, root: Path, point: int) -> str:
    out = root / f"touch-{point}"
    code = child(lambda: (killing(point), adapt(photos, out)))
    if code != -signal.SIGKILL:
        return f"was not killed: {code}"
    if (code := child(lambda: adapt(photos, out))) != 0:
        return f"did not resume: {code}"
    ours, theirs = left(out), left(root / "reference")
    return "same" if ours == theirs else f"differs: {[name for name in theirs if ours.get(name) != theirs[name]]}"


def main(photos: str, root: Path, parts: int) -> None:
    counter = root / "touches"
    assert child(lambda: adapt(photos, root / "reference")) == 0
    assert child(lambda: (killing(10**9, counter), adapt(photos, root / "counted"))) == 0
    touches = int(counter.read_text())
    points = range(1, touches, max(1, touches // parts))
    print(json.dumps({f"touch {point} of {touches}": at_a_touch(photos, root, point) for point in points}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
