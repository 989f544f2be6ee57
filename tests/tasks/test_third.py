import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_a_task_by_one_class_and_one_row_trains_prunes_evaluates_and_predicts(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(HERE / "third.py"), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert "side" in told["listed"] and told["summary"] == 1
    assert told["told"]["right"] >= 0 and told["told"]["split"] == "test"
    pruned = told["pruned"]
    assert pruned["macs_after"] <= 0.8 * pruned["macs_before"]
    assert pruned["right_before"] == told["told"]["right"] and 0 <= pruned["right_after"] <= 1
    assert list(told["evaluated"])[:1] == ["right"] and told["evaluated"]["right"] == pruned["right_after"]
    assert told["evaluated"]["n"] == 6 and isinstance(told["predicted"]["above"], bool)
    assert "| task | side |" in told["card"]
