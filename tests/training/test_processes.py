import os
import subprocess
import sys
from pathlib import Path

import pytest
import toys
import two
from safetensors.torch import load_file

from tailor.surgery import trainable

PROCESSES = 2


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The folder of what two CPU processes ended with."""
    folder = tmp_path_factory.mktemp("together")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(PROCESSES)]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*launch, str(Path(two.__file__)), str(folder)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", two.CASES)
def test_two_processes_end_where_one_does(together, tmp_path, name):
    alone = two.train(name, tmp_path)
    fresh = two.begin(name)  # or the comparison would say nothing:
    moved = {key for key, p in trainable(fresh).items() if float((p.detach() - alone[key]).abs().max()) > 1e-3}
    still = ("idle", ".k.bias")  # a shift of all keys changes no softmax
    assert moved == {key for key in trainable(fresh) if not any(part in key for part in still)}
    for process in range(PROCESSES):
        ended = load_file(together / f"{name}-{process}-of-{PROCESSES}.safetensors")
        assert toys.furthest(alone, ended) < 1e-8
    assert (together / name / "metrics.jsonl").read_text().count("\n") == 5  # one process writes


def test_every_process_hears_of_the_bad_image(together):
    first, second = ((together / f"nan-{process}.txt").read_text() for process in range(PROCESSES))
    assert first == second and "the loss is nan at update 1" in first
    assert first.count(".png") == 8 and "and 8 more" in first  # names of both shares


def test_no_process_group_outlives_its_process(together):
    assert [(together / f"left-{process}.txt").read_text() for process in range(PROCESSES)] == ["False", "False"]


def test_what_only_the_main_process_looks_at_ends_all_of_them(together):
    """Else the others would wait at a barrier that nobody else reaches."""
    first, second = ((together / f"taken-{process}.txt").read_text() for process in range(PROCESSES))
    assert first == second and "exists and is not empty" in first
    own, others = ((together / f"mistake-{process}.txt").read_text() for process in range(PROCESSES))
    assert own.startswith("ZeroDivisionError") and "the main process stopped: ZeroDivisionError" in others
