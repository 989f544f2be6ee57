import json
import os
import subprocess
import sys
from pathlib import Path

import kills
import pytest


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_killed_anywhere_ends_bit_for_bit_as_if_never_killed(tmp_path):
    # Every 11th of the moments before, in and after a write, fsync or rename (11 and the 3 moments share no divisor).
    command = [sys.executable, str(Path(kills.__file__)), str(tmp_path), "11"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert {name: outcome for name, outcome in found.items() if outcome != "same"} == {}, done.stderr[-3000:]
    assert len(found) >= 15
