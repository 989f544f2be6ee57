"""What people expect of the verbs: a bundle is a backbone, figures lie in the run, predictions go into files."""

import csv
import importlib.util
import json
from pathlib import Path

import pytest
import torch

import tailor
from tailor import bundle
from tailor.errors import TailorError, UsageError

SHORT = {"epochs": 1, "batch_size": 12, "progress": None}
NEW = {"model": "tailor_mini_ti", "method": "lora-2", **SHORT}


@pytest.fixture(scope="module")
def adapted(photos, tmp_path_factory):
    return Path(tailor.adapt(photos, out=tmp_path_factory.mktemp("run") / "a", **{**NEW, "epochs": 2}).bundle)


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}


@pytest.mark.parametrize(
    "verb",
    [
        lambda a, photos: tailor.prune(a, method="isomorphic", macs="50%", out=a, overwrite=True, progress=None),
        lambda a, photos: tailor.merge(a, out=a, overwrite=True, progress=None),
        lambda a, photos: tailor.adapt(photos, teacher=a, out=a, overwrite=True, **NEW),
        lambda a, photos: tailor.adapt(photos, model=a, out=a, overwrite=True, **SHORT),
        lambda a, photos: tailor.adapt(photos, init=a, out=a, overwrite=True, **SHORT),
    ],
    ids=["prune", "merge", "teacher", "model", "init"],
)
def test_no_verb_writes_over_the_bundle_that_it_reads(verb, adapted, photos):
    before = files(adapted)
    with pytest.raises(UsageError, match="is what is read"):
        verb(adapted, photos)
    assert files(adapted) == before


def test_a_finished_run_is_not_called_done_where_it_is_refused(adapted, photos):
    told = []
    with pytest.raises(TailorError, match="finished, with epochs 2, not 4"):
        tailor.adapt(photos, out=adapted, resume=True, **{**NEW, "epochs": 4, "progress": told.append})
    assert not any("finished already" in (event.text or "") for event in told)


def test_a_bundle_is_a_backbone_and_the_difference_is_stored(adapted, photos, tmp_path):
    made = tailor.adapt(photos, model=adapted, method="lora-1", out=tmp_path / "b", **SHORT)
    read = bundle.read_manifest(Path(made.bundle))
    assert read.spec["backbone"]["weights"].startswith("bundle:")
    stored = set(bundle.read(Path(made.bundle)).tensors)
    model = tailor.load(made.bundle)
    assert len(stored) < len(model.state_dict())
    assert not any(name.endswith("mlp.fc1.weight") for name in stored)


def test_a_bundles_training_goes_on(adapted, photos, tmp_path):
    made = tailor.adapt(photos, init=adapted, out=tmp_path / "c", lr=1e-12, recipe={"min_lr": 0.0}, **SHORT)
    ours, theirs = tailor.load(made.bundle).state_dict(), tailor.load(adapted).state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-8)


def test_figures_lie_in_the_run(adapted, photos, tmp_path):
    assert (adapted / "history.png").stat().st_size > 1000
    found = tailor.evaluate(adapted, photos, out=tmp_path / "e", progress=None)
    assert (tmp_path / "e" / "confusion.png").stat().st_size > 1000
    values = json.loads(json.dumps(found.values()))
    assert values["n"] == 12 and sum(map(sum, values["confusion"])) == 12
    assert set(values["per_class"]) == set(values["precision"]) == {"red", "green", "blue"}
    assert len(values["worst"]) == 5 and all(Path(one["source"]).is_file() for one in values["worst"])


def test_of_one_epoch_the_curve_is_a_point(photos, tmp_path):
    made = tailor.adapt(photos, out=tmp_path / "a", **{**NEW, "method": "linear"})
    assert (Path(made.bundle) / "history.png").stat().st_size > 1000


def test_predictions_go_into_files(adapted, photos, tmp_path):
    found = tailor.predict(adapted, f"{photos}/test", out=tmp_path / "p.csv", top_k=2, progress=None)
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["path"], row["label"]) for row in rows] == [(one.path, one.label) for one in found]
    tailor.predict(adapted, f"{photos}/test", out=tmp_path / "p.jsonl", top_k=2, progress=None)
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert len(lines) == 12 and all(len(line["top"]) == 2 for line in lines)


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs the extra `export`")
@pytest.mark.parametrize(("probabilities", "name"), [(False, "logits"), (True, "probabilities")])
def test_tensors_of_a_file_have_names(adapted, tmp_path, probabilities, name):
    import onnxruntime

    tailor.export(adapted, out=tmp_path / "m.onnx", probabilities=probabilities, progress=None)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape[0], made.name, made.shape[0]) == ("images", "batch", name, "batch")
    (rows,) = session.run(None, {"images": torch.randn(3, *given.shape[1:]).numpy()})
    assert (abs(rows.sum(1) - 1).max() < 1e-5) == probabilities


def test_what_cannot_be_is_refused_by_functions_as_by_commands(adapted, photos, tmp_path):
    with pytest.raises(UsageError, match="`--corrupt maybe` is no choice"):
        tailor.evaluate(adapted, photos, corrupt="maybe")
    with pytest.raises(TailorError, match="does not take images of 1 pixels"):
        tailor.adapt(Path(photos), image_size=1, out=tmp_path / "z", **NEW)
    assert not (tmp_path / "z" / "bundle.json").exists()


def test_a_figure_is_not_written_over_what_is_there(adapted, photos, tmp_path):
    (tmp_path / "confusion.png").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for out, says in (
        (tmp_path, "exists"),
        (tmp_path / "file", "is a file"),
        (f"{photos}/train/red", "is what is read"),
    ):
        with pytest.raises(TailorError, match=says):
            tailor.evaluate(adapted, photos, out=out, progress=None)
    assert (tmp_path / "confusion.png").read_text() == (tmp_path / "file").read_text() == "mine"
    assert not (Path(photos) / "train" / "red" / "confusion.png").exists()
    tailor.evaluate(adapted, photos, out=tmp_path, overwrite=True, progress=None)
    assert (tmp_path / "confusion.png").stat().st_size > 1000


def test_a_file_of_weights_is_an_input(adapted, photos, tmp_path):
    weights = tmp_path / "run" / "w.safetensors"
    weights.parent.mkdir()
    weights.write_text("mine")
    for verb in (
        lambda out: tailor.adapt(photos, weights=str(weights), out=out, overwrite=True, **NEW),
        lambda out: tailor.prune(adapted, weights=str(weights), method="isomorphic", macs="50%", out=out),
        lambda out: tailor.merge(adapted, weights=str(weights), out=out, overwrite=True),
        lambda out: tailor.evaluate(adapted, photos, weights=str(weights), out=out),
    ):
        with pytest.raises(UsageError, match="is what is read"):
            verb(weights.parent)
    assert weights.read_text() == "mine"


def test_a_model_that_cannot_compute_is_a_sentence(adapted, photos, monkeypatch):
    """Its plans fit one by one, and what they leave does not: as a bundle of a stranger may."""

    def misfit(self, images):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)\nmore")

    monkeypatch.setattr("timm.models.VisionTransformer.forward", misfit)
    for use in (
        lambda: tailor.evaluate(adapted, photos, progress=None),
        lambda: tailor.predict(adapted, f"{photos}/test", progress=None),
    ):
        with pytest.raises(TailorError, match=r"cannot compute images of \d+ x \d+: mat1") as caught:
            use()
        assert "\n" not in caught.value.message


def test_tensorboard_hears_of_every_epoch(photos, tmp_path):
    event = pytest.importorskip(
        "tensorboardX.proto.event_pb2", reason="tensorboardX, of the extra dev, is absent"
    ).Event
    tailor.adapt(photos, out=tmp_path / "run", log_with="tensorboard", **{**NEW, "epochs": 2})
    heard = {}
    for file in (tmp_path / "run").rglob("*tfevents*"):
        raw, at = file.read_bytes(), 0
        while at < len(raw):  # records: length (8 bytes), its checksum (4), an event, its checksum (4)
            size = int.from_bytes(raw[at : at + 8], "little")
            for value in event.FromString(raw[at + 12 : at + 12 + size]).summary.value:
                heard.setdefault(value.tag, []).append(value.simple_value)
            at += size + 16
    assert heard.keys() >= {"loss", "lr", "val_accuracy"} and 0 <= heard["val_accuracy"][-1] <= 1
