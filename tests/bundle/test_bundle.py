"""What is written is read again, bit for bit; what was damaged, is hostile or does not belong is refused in a line."""

import importlib
import json
import os
import pickle
import resource
import struct
from dataclasses import replace

import pytest
import torch
from made import sparse_plan, spec_and_model
from PIL import Image
from safetensors.torch import load_file, save_file

import tailor
from tailor import bundle
from tailor.bundle.card import card
from tailor.bundle.files import dumps, sha256, write_text
from tailor.bundle.plan_file import read_plan, write_plan
from tailor.errors import BundleError


@pytest.fixture
def written(tmp_path):
    """A LoRA bundle, with its spec and the model that was written."""
    spec, model = spec_and_model()
    out = tmp_path / "bundle"
    bundle.write(out, spec, bundle.state(model, False), complete=False, metrics={"accuracy": 0.5}, provenance={})
    return out, spec, model


X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def resealed(out, **changes):
    """Change the manifest and keep its digests right: what a hostile writer would do."""
    manifest = json.loads((out / "bundle.json").read_text())
    for name in ("tensors.safetensors", "README.md"):
        manifest["files"][name] = {"bytes": (out / name).stat().st_size, "sha256": sha256(out / name)}
    manifest.update(changes)
    (out / "bundle.json").write_text(json.dumps(manifest))


def test_a_bundle_gives_the_same_outputs(written):
    out, _, model = written
    with torch.no_grad():
        assert torch.equal(tailor.load(out)(X), model(X))


@pytest.mark.parametrize("weights", ["pretrained", "random"])
def test_sparse_entries_survive_bit_for_bit(tmp_path, weights):
    spec, model = spec_and_model(weights=weights, plan=sparse_plan())
    complete = weights == "random"
    bundle.write(tmp_path / "b", spec, bundle.state(model, complete), complete=complete, metrics={}, provenance={})
    assert bundle.read(tmp_path / "b").spec == spec
    with torch.no_grad():
        assert torch.equal(tailor.load(tmp_path / "b")(X), model(X))


def test_long_index_lists_leave_the_json(tmp_path):
    spec, model = spec_and_model(plan=sparse_plan())
    bundle.write(tmp_path / "b", spec, bundle.state(model, False), complete=False, metrics={}, provenance={})
    stored = json.loads((tmp_path / "b/bundle.json").read_text())["spec"]["plans"][0]["entries"][0]["indices"]
    assert stored["tensor"] == "plan:plans.0.entries.0.indices"
    assert load_file(tmp_path / "b/tensors.safetensors")[stored["tensor"]].dtype == torch.uint8


def test_a_plan_file_is_the_spec_again(tmp_path):
    spec, _ = spec_and_model(plan=sparse_plan())
    write_plan(tmp_path, spec, {"method": "by-hand"})
    assert read_plan(tmp_path).spec == spec


def test_only_what_differs_is_stored(written):
    out, _, _ = written
    names = load_file(out / "tensors.safetensors").keys()
    assert all(n.startswith("head.") or n.endswith((".down", ".up")) for n in names)
    assert (out / "tensors.safetensors").stat().st_size < 200_000


def test_a_bundle_without_its_manifest_is_an_unfinished_run(written):
    out, _, _ = written
    (out / "bundle.json").unlink()
    with pytest.raises(BundleError, match="unfinished run") as caught:
        bundle.read(out)
    assert "--resume" in caught.value.hint


@pytest.mark.parametrize("name", ["tensors.safetensors", "README.md", "bundle.json"])
def test_a_file_cut_short_is_refused(written, name):
    out, _, _ = written
    data = (out / name).read_bytes()
    (out / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(BundleError, match="cut short"):
        bundle.read(out)


def test_one_flipped_byte_is_refused(written):
    out, _, _ = written
    data = bytearray((out / "tensors.safetensors").read_bytes())
    data[-5] ^= 1
    (out / "tensors.safetensors").write_bytes(bytes(data))
    with pytest.raises(BundleError, match="digest differs"):
        bundle.read(out)


@pytest.mark.parametrize("change", ["renamed", "missing", "added"])
def test_other_key_sets_are_refused(written, change):
    out, _, _ = written
    tensors = load_file(out / "tensors.safetensors")
    if change == "renamed":
        tensors["blocks.0.attn.qkv.upp"] = tensors.pop("blocks.0.attn.qkv.up")
    elif change == "missing":
        del tensors["blocks.0.attn.qkv.up"]
    else:
        tensors["extra"] = torch.zeros(2)
    save_file(tensors, out / "tensors.safetensors")
    listed = {n: [str(t.dtype).removeprefix("torch."), list(t.shape)] for n, t in tensors.items()}
    resealed(out, tensors=listed)
    with pytest.raises(BundleError, match="do not fit the plan"):
        tailor.load(out)


def test_nan_is_refused(written):
    out, _, _ = written
    tensors = load_file(out / "tensors.safetensors")
    tensors["head.weight"][0, 0] = float("nan")
    save_file(tensors, out / "tensors.safetensors")
    resealed(out)
    with pytest.raises(BundleError, match=r"`head.weight`.*NaN"):
        bundle.read(out)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/b"])
def test_a_path_out_of_the_folder_is_refused(written, name):
    out, _, _ = written
    manifest = json.loads((out / "bundle.json").read_text())
    manifest["files"][name] = {"bytes": 1, "sha256": "0"}
    (out / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="outside its folder"):
        bundle.read(out)


def test_a_link_out_of_the_folder_is_refused(written, tmp_path):
    out, _, _ = written
    moved = tmp_path / "elsewhere"
    os.replace(out / "tensors.safetensors", moved)
    (out / "tensors.safetensors").symlink_to(moved)
    with pytest.raises(BundleError, match="outside its folder"):
        bundle.read(out)


def test_a_huge_declared_shape_allocates_nothing(written):
    out, _, _ = written
    manifest = json.loads((out / "bundle.json").read_text())
    manifest["tensors"]["head.weight"] = ["float32", [10**9, 10**9]]
    (out / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="more than"):
        bundle.read(out)


def test_a_huge_shape_in_the_safetensors_header_is_refused(written):
    out, _, _ = written
    header = json.dumps({"x": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}).encode()
    (out / "tensors.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    resealed(out)
    with pytest.raises(BundleError, match="not a safetensors file"):
        bundle.read(out)


def test_a_pickle_under_another_name_is_never_executed(written):
    out, _, _ = written
    marker = out / "executed"

    class Hostile:
        def __reduce__(self):
            return (os.mkdir, (str(marker),))

    (out / "tensors.safetensors").write_bytes(pickle.dumps(Hostile()))
    resealed(out)
    with pytest.raises(BundleError, match="not a safetensors file"):
        bundle.read(out)
    assert not marker.exists()


def test_another_backbones_bundle_is_refused(written):
    out, _, _ = written
    manifest = json.loads((out / "bundle.json").read_text())
    manifest["spec"]["backbone"]["digest"] = "sha256:" + "0" * 64
    (out / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="not those the bundle was made with"):
        tailor.load(out)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [("format", 99, "format 99"), ("files", [], "not valid at `files`"), ("surprise", 1, "not valid at `surprise`")],
)
def test_a_manifest_that_is_not_ours_is_refused(written, key, value, says):
    out, _, _ = written
    manifest = json.loads((out / "bundle.json").read_text())
    manifest[key] = value
    (out / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=says):
        bundle.read(out)


def test_the_output_folder_is_never_silently_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match="exists and is not empty"):
        bundle.prepare(tmp_path)
    bundle.prepare(tmp_path, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_the_halves_of_files_that_a_killed_run_left_go_and_nothing_else_does(tmp_path):
    for name in (".bundle.json.77.partial", ".mine.partial", "bundle.json", "notes.partial"):
        (tmp_path / name).write_text("")
    bundle.prepare(tmp_path, resume=True)
    assert {path.name for path in tmp_path.iterdir()} == {".mine.partial", "bundle.json", "notes.partial"}


def test_a_folder_with_a_plan_is_ready_to_train_in_until_it_holds_a_bundle(tmp_path):
    for name in ("plan.json", "plan.safetensors", "sensitivity.safetensors"):
        (tmp_path / name).write_text("")
    bundle.prepare(tmp_path, planned=True)
    for name in ("bundle.json", "tensors.safetensors"):
        (tmp_path / name).write_text("")
    with pytest.raises(BundleError, match="holds a bundle already"):
        bundle.prepare(tmp_path, planned=True)
    bundle.prepare(tmp_path, resume=True, planned=True)


def test_an_output_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="is a file"):
        bundle.prepare(tmp_path / "file", resume=True)
    with pytest.raises(BundleError, match="cannot be written"):
        bundle.prepare(tmp_path / "file" / "below")


def test_a_failed_write_leaves_no_manifest(tmp_path, monkeypatch):
    spec, model = spec_and_model()
    writer = importlib.import_module("tailor.bundle.write")
    monkeypatch.setattr(writer, "card", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        bundle.write(tmp_path / "b", spec, bundle.state(model, False), complete=False, metrics={}, provenance={})
    assert not (tmp_path / "b/bundle.json").exists()
    assert not [p for p in (tmp_path / "b").iterdir() if "partial" in p.name]


def test_lists_of_numbers_stand_on_one_line_and_strings_are_untouched():
    value = {"indices": [1, 2, -3], "rows": [[0, 4], [1.5, 2e-7]], "name": "[\n 1, 2]", "empty": [], "mixed": [1, "a"]}
    text = dumps(value)
    assert json.loads(text) == value
    assert '"indices": [1,2,-3]' in text


def test_a_name_that_no_file_holds_stands_as_json_reads_it(tmp_path):
    write_text(tmp_path / "x.json", dumps({"data": "caf\udce9 \u65e5"}))
    assert json.loads((tmp_path / "x.json").read_text()) == {"data": "caf\udce9 \u65e5"}


def test_a_class_cannot_write_the_card(tmp_path):
    spec, _ = spec_and_model()
    odd = ("a|b", "<script>x</script>", "c\n# d\x1b[0m", "`e` [f](g)")
    text = card(replace(spec, head=replace(spec.head, classes=odd)), {}, {"data": "a|b\n## c"}, 3)
    assert "<script>" not in text and "\x1b" not in text and "\n# d" not in text and "\n## c" not in text
    assert "a\\|b, \\<script\\>x" in text and r"\`e\` \[f\](g)" in text


def test_a_full_disk_is_one_error_and_leaves_no_half(tmp_path):
    spec, model = spec_and_model()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # writing more fails as on a full disk
    try:
        for write in (
            lambda: bundle.write(tmp_path, spec, bundle.state(model, False), complete=False, metrics={}, provenance={}),
            lambda: write_text(tmp_path / "x.json", "x" * 100_000),
        ):
            with pytest.raises(BundleError, match="cannot be written: File too large") as caught:
                write()
            assert "make room" in caught.value.hint and list(tmp_path.iterdir()) == []
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_one_class_is_evaluated_and_what_is_left_out_is_named(written, tmp_path):
    for number in range(3):
        (tmp_path / "photos" / "birch").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20), (80 * number, 0, 0)).save(tmp_path / "photos" / "birch" / f"{number}.png")
    os.symlink("/etc", tmp_path / "photos" / "birch" / "out")
    told = []
    found = tailor.evaluate(written[0], tmp_path / "photos", progress=lambda event: told.append(event.text))
    assert found.n == 3 and list(found.per_class) == ["birch"]
    assert any("leave the data folder" in text and "birch/out" in text for text in told)
