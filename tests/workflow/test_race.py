"""The automatic planner on a small model, its stopwatch replaced by a cost function: nothing hangs on this machine."""

import importlib
import json
import math
from pathlib import Path

import pytest
import torch
from PIL import Image

import tailor
from tailor import bundle
from tailor.bundle.evidence import read_evidence
from tailor.errors import BundleError, PlanError, TailorError, UsageError
from tailor.inputs import Inputs
from tailor.measure.count import macs
from tailor.training import Interrupted
from tailor.workflow.decision import RACE
from tailor.workflow.planners.auto import Auto
from tailor.workflow.race.ledger import LEDGER

SMALL = {"weights": "random", "image_size": 32, "progress": None}
QUICK = {"depths": 1, "entrants": 2, "samples": 12, "rounding": (8,), "rounds": (0.3,), "finding": 0.9}


@pytest.fixture(autouse=True)
def stopwatch(monkeypatch):
    """A pass takes a microsecond a MAC, and a millisecond a block; nothing waits for the comparison at the end."""

    def in_turns(inputs, runtime):
        def timed(models, batch, seconds):
            took = {name: 1e-3 * macs(model, inputs) + len(model.blocks) for name, model in models.items()}
            first = next(iter(took.values()))
            return {name: (ms, first / ms) for name, ms in took.items()}

        return timed

    monkeypatch.setattr(importlib.import_module("tailor.workflow.race.arena"), "in_turns", in_turns)
    monkeypatch.setattr(Auto, "seconds", 0.1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three classes of flat colours in train, val and test."""
    root = tmp_path_factory.mktemp("photos")
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 6), ("val", 3), ("test", 2)):
        for index, name in enumerate(("red", "green", "blue")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                noise = torch.randint(0, 60, (24, 24, 3), generator=generator, dtype=torch.uint8)
                noise[..., index] += 180
                Image.fromarray(noise.numpy()).save(root / split / name / f"{i}.png")
    return str(root)


@pytest.fixture(scope="module")
def tuned(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("tuned") / "a"
    return tailor.adapt(photos, model="tailor_mini_ti", method="lora-2", epochs=1, out=out, **SMALL).bundle


def pruned(tuned, photos, out, **settings):
    given = {"speed": "3x", "minutes": 5.0, "race": QUICK, "batch_size": 9, "epochs": 2, "progress": None, **settings}
    return tailor.prune(tuned, method="auto", data=photos, out=out, **given)


def test_the_target_is_met_by_depth_and_widths_together(tuned, photos, tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr("tailor.workflow.prune.ready", lambda model, inputs, runtime: ran.append(str(runtime)) or model)
    found = pruned(tuned, photos, tmp_path / "b", runtime="compile")
    assert ran == ["compile"] * 2 and found.runtime == "compile"
    plans = [plan.kind for plan in bundle.read(Path(found.bundle)).spec.plans]
    assert plans.count("layers") == 1
    cost = [1e-3 * one + blocks for one, blocks in ((found.macs_before, 12), (found.macs_after, found.kept_blocks))]
    assert 3.0 <= cost[0] / cost[1] <= 4.5
    model = tailor.load(found.bundle)
    assert macs(model, Inputs.images(3, 32, 32)) == found.macs_after and len(model.blocks) == found.kept_blocks < 12
    assert found.split == "test" and found.diagram[0].startswith("times faster")
    file = json.loads((Path(found.bundle) / "plan.json").read_text())["settings"]
    chosen = [one for one in file["candidates"] if one["chosen"]]
    assert len(chosen) == 1 and list(chosen[0]["scores"]) == ["cut", "repaired", "round 1", "round 2"]
    assert len(file["candidates"]) >= 2 and all(one["macs"] > 0 and one["took"] for one in file["candidates"])
    assert [path.name for path in (Path(found.bundle) / RACE).iterdir()] == [LEDGER]
    run = read_evidence(Path(found.bundle))
    assert run.costs.runtime == "compile" == run.asked.flags["runtime"]
    assert bundle.read_manifest(Path(found.bundle)).metrics["runtime"] == "compile"
    assert ", in turns, compile" in (Path(found.bundle) / "report.html").read_text()
    shown = {one.name: (one.ms, one.scores) for one in read_evidence(Path(found.bundle)).candidates}
    assert shown == {one["name"]: (one["ms"], one["scores"]) for one in file["candidates"]}


def test_an_interrupted_race_goes_on_and_finds_nothing_anew(tuned, photos, tmp_path):
    heard = []

    def stops(event):
        heard.append(event)
        if event.stage == "racing" and event.text.startswith("round 2"):
            raise Interrupted("stopped by a test", hint="")

    small = {"speed": None, "bytes": "700k"}  # needs no clock
    with pytest.raises(TailorError, match="stopped by a test"):
        pruned(tuned, photos, tmp_path / "b", progress=stops, **small)
    before = json.loads((tmp_path / "b" / RACE / LEDGER).read_text())
    again = []
    found = pruned(tuned, photos, tmp_path / "b", progress=again.append, resume=True, **small)
    assert not any(event.stage in ("candidates", "measuring") and "should meet" in event.text for event in again)
    after = json.loads((tmp_path / "b" / RACE / LEDGER).read_text())
    assert after["planned"] == before["planned"] and after["seconds"] >= before["seconds"]
    assert [one["scores"]["round 1"] for one in after["candidates"] if "round 1" in one["scores"]] == [
        one["scores"]["round 1"] for one in before["candidates"] if "round 1" in one["scores"]
    ]
    assert 400_000 <= found.bundle_bytes <= 700_000
    whole = pruned(tuned, photos, tmp_path / "whole", **small)
    assert _winner(Path(found.bundle)) == _winner(Path(whole.bundle)) and found.accuracy_after == whole.accuracy_after
    with pytest.raises(TailorError, match="begun with another `bytes`"):
        pruned(tuned, photos, tmp_path / "b", speed=None, bytes="600k", resume=True)


def _winner(folder):
    """The chosen candidate with its scores and epochs, its plans, and the bytes of its tensors."""
    (chosen,) = [
        one for one in json.loads((folder / "plan.json").read_text())["settings"]["candidates"] if one["chosen"]
    ]
    told = {name: value for name, value in chosen.items() if name != "took"}
    return told, bundle.read(folder).spec.plans, (folder / "tensors.safetensors").read_bytes()


def test_adapting_and_pruning_in_one_go(photos, tmp_path):
    settings = {"speed": "3x", "minutes": 5.0, "race": QUICK, "batch_size": 9, "epochs": 2}
    found = tailor.adapt(photos, model="tailor_mini_ti", method="lora-2", out=tmp_path / "f", **settings, **SMALL)
    assert found.bundle == str(tmp_path / "f") and found.macs_after < found.macs_before
    adapted = bundle.read(tmp_path / "f" / "adapted")
    assert adapted.manifest.metrics["accuracy"] == pytest.approx(found.accuracy_before)
    assert tailor.evaluate(found.bundle, photos, progress=None).accuracy == pytest.approx(found.accuracy_after)
    asked = read_evidence(tmp_path / "f").asked
    assert (asked.verb, asked.words) == ("adapt", (photos,)) and asked.sections == {
        "race": {**QUICK, "rounding": [8], "rounds": [0.3]}
    }
    assert asked.flags.items() >= {"model": "tailor_mini_ti", "speed": "3x", "minutes": 5.0, "epochs": 2}.items()
    assert f"tailor adapt {photos} --model tailor_mini_ti" in (tmp_path / "f" / "report.html").read_text()
    same = tailor.adapt(
        photos, model="tailor_mini_ti", method="lora-2", out=tmp_path / "f", resume=True, **settings, **SMALL
    )
    assert same.accuracy_after == found.accuracy_after


def test_a_target_out_of_reach_is_told_in_its_own_unit_and_what_was_adapted_is_kept(photos, tmp_path):
    settings = {"model": "tailor_mini_ti", "method": "linear", "epochs": 1, "batch_size": 9, **SMALL}
    out = tmp_path / "f"
    with pytest.raises(PlanError, match=r"comes to 10 bytes: one block at its least comes to [0-9,]+ bytes") as told:
        tailor.adapt(photos, out=out, bytes="10", minutes=5.0, race=QUICK, **settings)
    assert "ask for less" in told.value.hint and f"`--resume` starts from it: `{out / 'adapted'}`" in told.value.hint
    assert (out / "adapted" / "bundle.json").is_file()
    with pytest.raises(BundleError, match="begun with a target"):
        tailor.adapt(photos, out=out, resume=True, **settings)
    with pytest.raises(BundleError, match="makes nothing smaller"):
        tailor.adapt(photos, out=out / "adapted", resume=True, speed="2x", race=QUICK, **settings)


def test_what_cannot_be_is_told_before_anything_is_opened(photos, tmp_path):
    def adapt(**settings):
        return tailor.adapt(photos, model="tailor_mini_ti", out=tmp_path / "f", **settings, **SMALL)

    with pytest.raises(UsageError, match="nothing says how fast"):
        adapt(minutes=3.0)
    with pytest.raises(UsageError, match="`--minutes inf` is no time"):
        adapt(speed="2x", minutes=math.inf)
    with pytest.raises(UsageError, match="of one method"):
        adapt(speed="2x", method="lora,linear")
    with pytest.raises(UsageError, match="no speed-up"):
        adapt(speed="2")
    with pytest.raises(UsageError, match="no data was named"):
        tailor.prune("tailor_mini_ti", method="auto", speed="2x", out=tmp_path / "f", progress=None)
    assert not (tmp_path / "f").exists()


def test_a_target_out_of_reach_says_what_can_be_had(tuned, photos, tmp_path):
    with pytest.raises(PlanError, match="nothing of this model comes to 900x") as caught:
        pruned(tuned, photos, tmp_path / "b", speed="900x")
    assert caught.value.hint
