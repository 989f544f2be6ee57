"""Bundles that go on from others are told in order, and a ring of them is refused without building anything."""

import json

import pytest

import tailor
from tailor import bundle
from tailor.errors import BundleError


def put(folder, weights):
    spec = {"backbone": {"name": "tailor_mini_s", "weights": weights, "digest": ""}}
    folder.mkdir()
    manifest = {"format": 1, "spec": spec, "files": {}, "tensors": {}}
    (folder / "bundle.json").write_text(json.dumps(manifest))


def test_what_a_bundle_goes_on_from_is_told_in_order(tmp_path):
    put(tmp_path / "a", "pretrained")
    put(tmp_path / "b", f"bundle:{tmp_path / 'a'}")
    put(tmp_path / "c", f"bundle:{tmp_path / 'b'}")
    put(tmp_path / "d", f"bundle:{tmp_path / 'gone'}")
    assert bundle.sources(tmp_path / "a") == []
    assert bundle.sources(tmp_path / "c") == [tmp_path / "b", tmp_path / "a"]
    assert bundle.sources(tmp_path / "d") == [tmp_path / "gone"]


@pytest.mark.parametrize("first", ["a", "b"])
def test_a_ring_is_said_by_inspect(tmp_path, first):
    put(tmp_path / "a", f"bundle:{tmp_path / 'b'}")
    put(tmp_path / "b", f"bundle:{tmp_path / first}")
    with pytest.raises(BundleError, match="lead back to it"):
        bundle.sources(tmp_path / "a")
    with pytest.raises(BundleError, match="lead back to it"):
        tailor.inspect(tmp_path / "a")
