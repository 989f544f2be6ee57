"""`prune --method spvit` and its controls: searched, written, read again, and composed with everything else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import tailor
from tailor import backbones, bundle
from tailor.cli import main
from tailor.data.images import open_data
from tailor.errors import PlanError, UsageError
from tailor.inputs import Inputs
from tailor.measure import count

QUICK = {"updates": 16, "gate_lr": 0.25, "batch_size": 12}
SMALL = {"weights": "random", "image_size": 32, "progress": None}
pytestmark = pytest.mark.usefixtures("hurried")


def kinds(path):
    return [plan.kind for plan in bundle.read(Path(path)).spec.plans]


@pytest.fixture(scope="module")
def tuned(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("tuned") / "a"
    return tailor.adapt(
        photos, model="tailor_mini_ti", method="spt-lora", budget="2%", epochs=1, out=out, **SMALL
    ).bundle


@pytest.fixture(scope="module")
def searched(tuned, photos, tmp_path_factory):
    import importlib

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module("tailor.workflow.prune"), "SECONDS", 0.2)
        out = tmp_path_factory.mktemp("searched") / "b"
        return tailor.prune(tuned, method="spvit", data=photos, macs="30%", spvit=QUICK, out=out, progress=None)


def test_the_search_meets_its_target_and_its_bundle_computes_the_same(searched):
    assert searched.macs_after == pytest.approx(0.3 * searched.macs_before, rel=0.03)
    assert kinds(searched.bundle).count("swap") == 1
    read = bundle.read(Path(searched.bundle))
    swaps = next(plan for plan in read.spec.plans if plan.kind == "swap")
    model = tailor.load(searched.bundle)
    assert count.macs(model, Inputs.images(3, 32, 32)) == searched.macs_after == swaps.facts["cost"]
    blocks = backbones.describe(model).blocks
    assert sum(block.attention is None for block in blocks) == len(swaps.swaps) > 0
    drawn = tailor.inspect(searched.bundle, progress=None)["diagram"]
    assert len(drawn) == 1 + len(blocks)
    for line, operation, width in zip(drawn[1:], swaps.facts["operations"], swaps.facts["hidden"], strict=True):
        assert line.split()[1] == operation
        assert line.endswith(f" {width} of 256")
    names = {path.name for path in Path(searched.bundle).iterdir()}
    assert {"operations.png", "bundle.json"} <= names
    assert "decided.safetensors" not in names


def test_the_chain(searched, photos, tmp_path):
    """Searched after SPT-LoRA was merged; then layers, widths, tunes again, a file."""
    shorter = tailor.prune(searched.bundle, data=photos, sls={"lowest": 6}, out=tmp_path / "c", progress=None)
    narrow = tailor.prune(
        shorter.bundle, method="isomorphic", criterion="l1", macs="70%", out=tmp_path / "d", progress=None
    )
    assert narrow.macs_after <= 0.7 * shorter.macs_after
    again = tailor.adapt(
        photos, model=narrow.bundle, method="spt-lora", budget="3%", epochs=1, out=tmp_path / "e", progress=None
    )
    merged = tailor.merge(again.bundle, out=tmp_path / "f", progress=None)
    file = tailor.export(merged.bundle, out=tmp_path / "model.onnx", progress=None)
    assert file.difference < 1e-4
    model = tailor.load(merged.bundle)
    swapped = [b for b in backbones.describe(model).blocks if b.attention is None]
    assert swapped


def test_the_warm_start_is_that_of_the_search(searched, tuned, photos, tmp_path):
    """The same architecture as written starts from the dense weights, and is another function."""
    swaps = next(plan for plan in bundle.read(Path(searched.bundle)).spec.plans if plan.kind == "swap")
    letters = {"none": "S", "conv1": "1", "conv3": "3", "attention": "A"}
    written = {
        "operations": "".join(letters[o] for o in swaps.facts["operations"]),
        "hidden": tuple(swaps.facts["hidden"]),
    }
    made = tailor.prune(tuned, method="swap", swap=written, out=tmp_path / "w", progress=None)
    assert made.macs_after == searched.macs_after
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    one, other = tailor.load(made.bundle), tailor.load(searched.bundle)
    assert {n: t.shape for n, t in one.state_dict().items()} == {n: t.shape for n, t in other.state_dict().items()}
    assert (one(images) - other(images)).abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_a_hybrid_is_tuned_with_a_bundle_as_its_teacher(kind, searched, tuned, photos, tmp_path):
    """One update of all images at no rate: the loss is the mixture, reckoned here."""
    recipe = {"distil": {"kind": kind, "weight": 0.25}, "warmup_epochs": 0.0, "min_lr": 0.0, "drop_path": 0.0}
    how = {"method": "full", "epochs": 1, "lr": 1e-12, "batch_size": 24, "recipe": recipe, "teacher": tuned}
    made = tailor.adapt(photos, model=searched.bundle, out=tmp_path / "b", progress=None, **how)
    told = json.loads((tmp_path / "b" / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    student, teacher = tailor.Predictor(made.bundle), tailor.load(tuned)
    split = open_data(photos).splits["train"]
    images = torch.stack([student.transform(split.read(i)) for i in range(len(split))])
    labels = torch.tensor([split.sample(i)[1] for i in range(len(split))])
    with torch.no_grad():
        given, wanted = student.model.train()(images), teacher(images)
    if kind == "hard":
        learnt = F.cross_entropy(given, wanted.argmax(1))
    else:
        learnt = (wanted.softmax(1) * (wanted.log_softmax(1) - given.log_softmax(1))).sum(1).mean()
    assert told == pytest.approx(float(0.75 * F.cross_entropy(given, labels) + 0.25 * learnt), rel=1e-4)


@pytest.mark.parametrize("method", ["nas-heads", "step", "random-blocks"])
def test_controls(method, photos, tmp_path):
    section = {"nas-heads": "spvit", "step": "step"}.get(method)
    settings = {section: {**QUICK, **({} if method == "step" else {"tolerance": 0.1})}} if section else {}
    made = tailor.prune(
        "tailor_mini_s", method=method, data=photos, macs="85%", out=tmp_path / "b", **settings, **SMALL
    )
    assert made.macs_after == pytest.approx(0.85 * made.macs_before, rel=0.1)
    assert count.macs(tailor.load(made.bundle), Inputs.images(3, 32, 32)) == made.macs_after


def test_the_released_arithmetic_is_a_table_too(searched, photos, tmp_path):
    settings = {**QUICK, "table": "released", "tolerance": 0.02}
    made = tailor.prune(
        "tailor_mini_ti", method="spvit", data=photos, macs="30%", spvit=settings, out=tmp_path / "b", **SMALL
    )
    facts = next(plan for plan in bundle.read(Path(made.bundle)).spec.plans if plan.kind == "swap").facts
    assert facts["cost"] == pytest.approx(0.3 * facts["dense"], rel=0.02)
    assert facts["dense"] != made.macs_before
    with pytest.raises(PlanError, match="is for dense models"):
        tailor.prune(
            searched.bundle, method="spvit", data=photos, macs="90%", spvit=settings, out=tmp_path / "c", progress=None
        )


@pytest.mark.slow  # what is measured is this machine, busy or not
def test_a_latency_is_searched_for(photos, tmp_path, monkeypatch):
    import importlib

    monkeypatch.setattr(importlib.import_module("tailor.workflow.planners.convolve"), "SECONDS", 0.5)
    made = tailor.prune(
        "tailor_mini_ti", method="spvit", data=photos, latency="60%", spvit=QUICK, out=tmp_path / "b", **SMALL
    )
    facts = next(plan for plan in bundle.read(Path(made.bundle)).spec.plans if plan.kind == "swap").facts
    assert facts["measure"] == "ms"
    assert facts["cost"] <= 0.62 * facts["dense"]


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"macs": "50%", "spvit": {"updates": 100}}, PlanError, "no gate could close"),
        ({"macs": "1%"}, PlanError, "the search can reach"),
        ({"macs": "100%"}, PlanError, "the target is not below that"),
        ({}, UsageError, "nothing says how much may remain"),
        ({"macs": "5ms"}, UsageError, "has the wrong unit"),
        ({"macs": "50%", "spvit": {"update": 100}}, UsageError, "did you mean `updates`"),
        ({"method": "swap"}, UsageError, "no architecture is written"),
        ({"macs": "50%", "alpha": 0.3}, UsageError, "is not for `spvit`"),
    ],
)
def test_mistakes(settings, error, says, photos, tmp_path):
    with pytest.raises(error, match=says) as caught:
        tailor.prune("tailor_mini_ti", data=photos, out=tmp_path / "b", **{"method": "spvit", **settings}, **SMALL)
    assert caught.value.hint
    assert not (tmp_path / "b" / "bundle.json").exists()


def test_a_killed_search_goes_on_as_if_it_had_not_stopped(photos, tmp_path):
    script = Path(__file__).with_name("kills_search.py")
    done = subprocess.run([sys.executable, str(script), photos, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_from_the_command_line(photos, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("swap: {operations: 13SAAAAAAAAA, skip: norm, folded: true}\n")
    with pytest.raises(SystemExit) as done:
        options = ["--weights", "random", "--image-size", "32", "--json", "--config", str(tmp_path / "c.yaml")]
        main(["prune", "tailor_mini_ti", "--method", "swap", *options, "-o", str(tmp_path / "b")])
    assert not done.value.code
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["macs_after"] < found["macs_before"]
    blocks = backbones.describe(tailor.load(tmp_path / "b")).blocks
    assert [bool(b.convolution) for b in blocks[:4]] == [True, True, False, False]
