"""`tailor adapt` killed and resumed, and started in several processes, as users do it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tailor
from tailor.bundle.plan_file import read_plan

HERE = Path(__file__).parent
PATHS = os.pathsep.join([str(HERE.parent / "training"), *filter(None, [os.environ.get("PYTHONPATH")])])
ALONE = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": PATHS}
LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    "accelerate": [
        *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
    ],
}


def run(*arguments, limit=500):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], env=ALONE, capture_output=True, text=True, timeout=limit
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_adapt_killed_anywhere_ends_byte_for_byte_as_if_never_killed(photos, tmp_path):
    found = json.loads(run(HERE / "kills_verbs.py", photos, tmp_path, 4))
    assert {name: outcome for name, outcome in found.items() if outcome != "same"} == {}
    assert len(found) >= 4


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("verb", ["adapt", "prune", "export"])
def test_killed_at_ten_moments_of_chance_it_ends_as_if_never_killed(photos, tmp_path, verb):
    found = json.loads(run(HERE / "kills_moments.py", photos, tmp_path, verb, 10, limit=3000))
    assert {name: outcome for name, outcome in found.items() if outcome != "same"} == {}
    assert len(found) == 10


@pytest.fixture(scope="module")
def alone(photos, tmp_path_factory):
    """The command line but for the folder, what one process told, and the folder it wrote."""
    folder = tmp_path_factory.mktemp("alone")
    none = "recipe: {drop_path: 0}\nspt: {dropout: 0.0, drop_path: 0.0}\n"  # of what each process draws for itself
    none = f"method: spt-lora\n{none}"
    (folder / "same.yaml").write_text(none)
    command = ["-m", "tailor", "adapt", photos, "--model", "tailor_mini_ti", "--budget", "1%", "--epochs", "2"]
    command += ["--batch-size", "8", "--config", folder / "same.yaml", "--json", "-o"]
    return command, json.loads(run(*command, folder / "one")), folder / "one"


class Killed(BaseException):
    """The process ends here."""


def begun(photos, folder):
    """What the command of `alone` leaves in the folder where it is killed after its first epoch."""

    def deadly(event):
        if (folder / "metrics.jsonl").is_file() and (folder / "metrics.jsonl").read_text().count("\n") == 1:
            raise Killed

    given = {
        "model": "tailor_mini_ti",
        "method": "spt-lora",
        "budget": "1%",
        "epochs": 2,
        "batch_size": 8,
        "recipe": {"drop_path": 0},
    }
    with pytest.raises(Killed):
        tailor.adapt(photos, out=folder, spt={"dropout": 0.0, "drop_path": 0.0}, progress=deadly, **given)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_write_the_bundle_of_one(alone, photos, tmp_path, launcher):
    """From the start, and going on with what one process began."""
    command, expected, one = alone
    command = [*command, tmp_path / "two"]
    if launcher == "torchrun":
        begun(photos, tmp_path / "two")
        command.append("--resume")
    told = json.loads(run(*LAUNCHERS[launcher], *command))
    assert told["accuracy"] == expected["accuracy"]
    assert read_plan(tmp_path / "two").spec == read_plan(one).spec
    ours, theirs = (load_file(folder / "tensors.safetensors") for folder in (one, tmp_path / "two"))
    assert any(float(tensor.abs().max()) > 1e-3 for name, tensor in ours.items() if "delta" in name or "up" in name)
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=0)
    assert len((tmp_path / "two/metrics.jsonl").read_text().splitlines()) == 2  # one process writes
