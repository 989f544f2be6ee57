"""A CSV of numbers from end to end: trained, interrupted and resumed, pruned, evaluated, predicted."""

import importlib
import json
import os
import signal
from pathlib import Path

import numbered
import pytest
from safetensors.torch import load_file

import tailor
from tailor.cli import main
from tailor.errors import TailorError, UsageError
from tailor.training import Interrupted

SETTINGS = {
    "task": "regression",
    "model": "tailor_mini_ti",
    "method": "lora-2",
    "epochs": 2,
    "batch_size": 8,
    "lr": 0.01,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return numbered.listed(tmp_path_factory.mktemp("numbers"))


@pytest.fixture(scope="module")
def adapted(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("regression")
    return folder, tailor.adapt(data.csv, out=folder / "a", **SETTINGS)


def command(capsys, *words):
    """What the command line says with `--json`."""
    with pytest.raises(SystemExit) as done:
        main([*map(str, words), "--json"])
    printed = capsys.readouterr()
    assert done.value.code == 0, printed.err
    return json.loads(printed.out.splitlines()[-1])


def test_numbers_are_learnt_only_where_they_are_asked_for(data, adapted):
    folder, told = adapted
    assert (told.metric, told.split) == ("rmse", "test") and told.rmse == told.score > 0
    spec = json.loads((folder / "a" / "bundle.json").read_text())["spec"]
    assert spec["head"] == {"seed": 0, "classes": [], "kind": "regressor"}
    rows = [json.loads(line) for line in (folder / "a" / "metrics.jsonl").read_text().splitlines()]
    best = min(rows, key=lambda row: row["rmse"])
    assert told.epoch == best["epoch"]  # the smallest error chooses
    assert "task | regression |" in (folder / "a" / "README.md").read_text()


def test_interrupted_and_resumed_it_ends_as_the_undisturbed_run(data, adapted, tmp_path):
    folder, told = adapted

    def stop(event):
        if event.stage == "training" and event.done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        tailor.adapt(data.csv, out=tmp_path / "a", progress=stop, **SETTINGS)
    assert not (tmp_path / "a" / "bundle.json").exists()
    again = tailor.adapt(data.csv, out=tmp_path / "a", resume=True, **SETTINGS)
    assert (again.rmse, again.epoch) == (told.rmse, told.epoch)
    ours, theirs = (load_file(place / "a" / "tensors.safetensors") for place in (folder, tmp_path))
    assert ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in ours)
    assert tailor.adapt(data.csv, out=tmp_path / "a", resume=True, **SETTINGS).rmse == told.rmse  # finished already


def test_evaluate_leads_with_the_error_and_predict_gives_the_number(data, adapted, capsys):
    folder, told = adapted
    found = command(capsys, "evaluate", folder / "a", data.csv)
    assert list(found)[:3] == ["rmse", "mae", "n"] and found["rmse"] == pytest.approx(told.rmse) and found["n"] == 6
    one = command(capsys, "predict", folder / "a", data.image)
    assert list(one) == ["path", "value"] and isinstance(one["value"], float)
    assert tailor.Predictor(folder / "a")(data.image).value == pytest.approx(one["value"], abs=1e-5)


def test_widths_go_by_what_the_numbers_need(data, adapted, monkeypatch, capsys):
    folder, told = adapted
    monkeypatch.setattr(importlib.import_module("tailor.workflow.prune"), "SECONDS", 0.1)
    made = command(
        capsys,
        *("prune", folder / "a", "--data", data.csv, "--method", "isomorphic", "--criterion", "taylor"),
        *("--macs", "80%", "--retrain", "ft", "--epochs", "1", "-o", folder / "b"),
    )
    assert made["macs_after"] <= 0.8 * made["macs_before"]
    assert made["rmse_before"] == pytest.approx(told.rmse) and made["rmse_cut"] > 0 and "accuracy_before" not in made
    assert command(capsys, "evaluate", folder / "b", data.csv)["rmse"] == pytest.approx(made["rmse_after"])


def test_what_compares_classes_refuses_numbers_in_a_sentence(data, adapted, tmp_path):
    folder, _ = adapted
    with pytest.raises(UsageError, match="this method compares classes, and regression has none") as caught:
        tailor.prune(folder / "a", data=data.csv, method="sls", out=tmp_path / "c")
    assert "isomorphic" in caught.value.hint and not (tmp_path / "c").exists()


def test_labels_that_are_no_numbers_are_named(tmp_path, data):
    listed = Path(data.csv)
    words = listed.with_name("words.csv")
    words.write_text(listed.read_text().replace("-0.9375", "bright"))
    with pytest.raises(TailorError, match=r"train0\.png` is not a number: bright"):
        tailor.adapt(words, out=tmp_path / "a", **SETTINGS)
    assert not (tmp_path / "a").exists()
