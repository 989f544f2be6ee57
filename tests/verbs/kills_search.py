"""Run by `test_spvit.py`: a search is killed (SIGKILL) in the middle, resumed, and held against one that was not.

Children are forked, so that torch is loaded once.
"""

import importlib
import os
import signal
import sys
from pathlib import Path

import torch

import tailor
from tailor import bundle
from tailor.training import checkpoint


def run(out, *, kill=False, resume=False):
    """The exit code of a child that prunes; killed just after the second checkpoint of its search, if it is to be."""
    child = os.fork()
    if not child:
        importlib.import_module("tailor.workflow.prune").SECONDS = 0.2
        whole, written = checkpoint.write, []

        def write(*args, **kwargs):
            whole(*args, **kwargs)
            written.append(args)
            if kill and len(written) == 2:
                os.kill(os.getpid(), signal.SIGKILL)

        checkpoint.write = write
        settings = {"updates": 16, "gate_lr": 0.25, "batch_size": 12}
        tailor.prune(
            "tailor_mini_ti",
            method="spvit",
            macs="60%",
            data=sys.argv[1],
            weights="random",
            image_size=32,
            spvit=settings,
            out=out,
            resume=resume,
            progress=None,
        )
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


whole, broken = Path(sys.argv[2]) / "whole", Path(sys.argv[2]) / "broken"
assert run(whole) == 0
assert run(broken, kill=True) == -signal.SIGKILL
assert any((broken / "supernet" / "checkpoints").iterdir())
assert not (broken / "plan.json").exists()
assert run(broken, resume=True) == 0
assert bundle.read(whole).spec == bundle.read(broken).spec
first, second = (tailor.load(folder).state_dict() for folder in (whole, broken))
assert all(torch.equal(second[name], tensor) for name, tensor in first.items())
