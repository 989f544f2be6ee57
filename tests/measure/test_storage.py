from pathlib import Path

import pytest

from tailor.errors import UsageError
from tailor.measure.machine import machine
from tailor.measure.storage import bytes_by_file, total_bytes


def test_every_file_counts_largest_first_but_no_link(tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_bytes(b"x" * 10)
    (tmp_path / "tensors.safetensors").write_bytes(b"x" * 1000)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "state.safetensors").write_bytes(b"x" * 300)
    (tmp_path / "link").symlink_to(tmp_path / "tensors.safetensors")
    expected = {"tensors.safetensors": 1000, "checkpoints/state.safetensors": 300, "bundle.json": 10}
    assert bytes_by_file(tmp_path) == expected
    assert list(bytes_by_file(tmp_path)) == list(expected)
    assert total_bytes(tmp_path) == 1310
    assert total_bytes(tmp_path, skip=("checkpoints",)) == 1010
    assert bytes_by_file(tmp_path / "bundle.json") == {"bundle.json": 10}


def test_a_missing_path_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file or folder"):
        total_bytes(tmp_path / "missing")


def test_the_machine_is_described_without_its_name() -> None:
    import json
    import platform

    described = machine()
    assert {"cpu", "cores", "threads", "torch", "dtype", "gpu"} <= set(described)
    assert described["cores"] >= 1
    text = json.dumps(described)
    assert platform.node() not in text
    assert "/" not in text.replace(described["cpu"], "")
