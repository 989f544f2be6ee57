"""Index lists as gaps: the same list again, short, refused where the bytes are none; files of format 1 still read."""

import hashlib
import json

import pytest
import torch
from made import sparse_plan, spec_and_model
from safetensors.torch import load_file, save_file

from tailor import bundle
from tailor.bundle import gaps
from tailor.bundle.manifest import FORMAT, pack, unpack
from tailor.errors import BundleError


@pytest.mark.parametrize("most", [2**7, 2**14, 2**21, 2**31])
def test_a_list_comes_back_whatever_its_gaps(most):
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, most, (3000,), generator=generator).unique().tolist()
    for indices in (drawn, drawn[:1], [0], [most - 1], list(range(200))):
        assert gaps.fits(indices) and gaps.decode(gaps.encode(indices), "x") == indices


def test_indices_close_together_take_a_byte_each():
    rows, columns = range(0, 768, 3), range(0, 768, 16)
    indices = [row * 768 + column for row in rows for column in columns]
    assert len(gaps.encode(indices)) < 1.1 * len(indices)


@pytest.mark.parametrize("odd", [[], [3, 3], [4, 2], [-1, 5], [1 << 35]])
def test_other_lists_are_not_told_by_gaps(odd):
    assert not gaps.fits(odd)


@pytest.mark.parametrize("data", [[], [128], [5, 200], [128, 128, 128, 128, 128, 1]])
def test_bytes_that_are_no_list_are_refused(data):
    with pytest.raises(BundleError, match="`x` is no list of gaps"):
        gaps.decode(torch.tensor(data, dtype=torch.uint8), "x")


def test_a_sorted_list_is_told_by_gaps_and_changed_bytes_are_refused():
    spec, _ = spec_and_model(plan=sparse_plan())
    values, lists = pack(spec)
    (name,) = lists
    stored = values["plans"][0]["entries"][0]["indices"]
    assert stored["coding"] == "gaps" and lists[name].dtype == torch.uint8 and len(lists[name]) == 1500
    assert unpack(values, lists) == spec
    for wrong in ("int32", "zip"):
        with pytest.raises(BundleError, match="missing or was changed"):
            values["plans"][0]["entries"][0]["indices"] = {**stored, "coding": wrong}
            unpack(values, lists)


def test_a_bundle_of_format_1_is_read(tmp_path):
    """Written as it was then: int32, no coding, format 1."""
    spec, model = spec_and_model(plan=sparse_plan())
    out = bundle.write(
        tmp_path / "b", spec, bundle.state(model, False), complete=False, metrics={}, provenance={"data": "old"}
    )
    manifest = json.loads((out / "bundle.json").read_text())
    assert manifest["format"] == FORMAT
    indices = spec.plans[0].entries[0].indices
    name, old = "plan:plans.0.entries.0.indices", torch.tensor(indices, dtype=torch.int32)
    save_file(
        {**load_file(out / "tensors.safetensors"), name: old}, out / "tensors.safetensors", {"format": "tailor-1"}
    )
    data = (out / "tensors.safetensors").read_bytes()
    digest = hashlib.sha256(old.numpy().tobytes()).hexdigest()
    manifest["format"] = 1
    manifest["spec"]["plans"][0]["entries"][0]["indices"] = {"tensor": name, "sha256": digest}
    manifest["tensors"][name] = ["int32", [len(indices)]]
    manifest["files"]["tensors.safetensors"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (out / "bundle.json").write_text(json.dumps(manifest))
    assert bundle.read(out).spec == spec
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(bundle.load(out)(x), model(x))
