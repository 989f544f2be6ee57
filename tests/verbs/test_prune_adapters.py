"""Widths cut with the tunes kept or pruned, through the verb: what is stored, what trains, and what comes after."""

import importlib
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

import tailor
from tailor import bundle
from tailor.errors import UsageError
from tailor.inputs import Inputs
from tailor.workflow.planners.widths import CutWidths

VERB = importlib.import_module("tailor.workflow.prune")
X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
SHORT = {"epochs": 1, "batch_size": 12}
pytestmark = pytest.mark.usefixtures("hurried")


@pytest.fixture(scope="module")
def adapted(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "a"
    return tailor.adapt(photos, model="tailor_mini_ti", method="spt-lora", budget="1%", out=out, **SHORT)


def cut(name, photos, out, **settings):
    return tailor.prune(
        name, data=photos, out=out, **{"method": "isomorphic", "criterion": "l1", "macs": "60%", **settings}
    )


@pytest.fixture(scope="module")
def kept(adapted, photos, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VERB, "SECONDS", 0.2)
        return cut(adapted.bundle, photos, tmp_path_factory.mktemp("run") / "k", adapters="keep")


def outputs(path):
    with torch.no_grad():
        return tailor.load(path)(X)


def test_the_bundle_holds_the_tunes_and_the_plan_only(kept, adapted, photos):
    assert 0.5 < kept.macs_after / kept.macs_before <= 0.6
    assert not tailor.inspect(kept.bundle)["complete"] and kept.bundle_bytes < 150_000
    width, tune = bundle.read(kept.bundle).spec.plans
    assert width.kind == "width" and tune.cost <= adapted.trainable_params
    assert tailor.evaluate(kept.bundle, photos).accuracy == kept.accuracy_after
    assert [t.method for t in tune.tunes] == [t.method for t in bundle.read(adapted.bundle).spec.tuning[0].tunes]


def test_a_new_process_reads_the_same_model_on_stock_classes(kept, tmp_path):
    program = (
        "import sys, torch, tailor; from safetensors.torch import save_file;"
        "x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3));"
        "model = tailor.load(sys.argv[1]);"
        "assert type(model).__name__ == 'VisionTransformer';"
        "save_file({'y': model(x).detach()}, sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", program, kept.bundle, str(tmp_path / "y")], check=True)
    assert torch.equal(load_file(tmp_path / "y")["y"], outputs(kept.bundle))


def test_the_tunes_still_merge_exactly_and_the_merged_model_is_cut_again(kept, photos, tmp_path):
    merged = tailor.merge(kept.bundle, out=tmp_path / "m")
    torch.testing.assert_close(outputs(merged.bundle), outputs(kept.bundle), rtol=1e-4, atol=1e-5)
    again = cut(merged.bundle, photos, tmp_path / "n")
    assert again.macs_before == kept.macs_after
    assert tailor.evaluate(again.bundle, photos).accuracy == again.accuracy_after


@pytest.mark.parametrize("adapters", ["merge", "prune"])
def test_what_was_kept_is_cut_again_in_any_way(kept, photos, tmp_path, adapters):
    again = cut(kept.bundle, photos, tmp_path / "n", macs="70%", adapters=adapters)
    assert again.macs_before == kept.macs_after and again.accuracy_before == kept.accuracy_after
    kinds = [plan.kind for plan in bundle.read(again.bundle).spec.plans]
    assert sorted(kinds) == ["tune", "width", "width"]
    assert tailor.evaluate(again.bundle, photos).accuracy == again.accuracy_after


def test_blocks_go_from_a_model_with_kept_tunes(kept, photos, tmp_path):
    both = tailor.prune(kept.bundle, data=photos, alpha=-1, out=tmp_path / "s")
    assert both.macs_before == kept.macs_after and both.kept_blocks < 12
    assert tailor.evaluate(both.bundle, photos).accuracy == both.accuracy_after


def test_retraining_the_tunes_leaves_the_cut_backbone_alone(adapted, kept, photos, tmp_path):
    made = cut(adapted.bundle, photos, tmp_path / "k", adapters="keep", retrain="1clr", **SHORT)
    assert made.train == "tunes"
    before, after = bundle.read(kept.bundle).tensors, bundle.read(made.bundle).tensors
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before if "head" not in name)
    assert bundle.read(made.bundle).spec.pruning == bundle.read(kept.bundle).spec.pruning


def test_everything_trains_on_request(adapted, photos, tmp_path):
    made = cut(adapted.bundle, photos, tmp_path / "k", adapters="keep", retrain="1clr", train="full", **SHORT)
    loaded = bundle.read(made.bundle)
    assert "patch_embed.proj.weight" in loaded.tensors and loaded.spec.tuning[0].tunes
    start = tailor.load(adapted.bundle).patch_embed.proj.weight
    assert not torch.equal(tailor.load(made.bundle).patch_embed.proj.weight, start)
    assert tailor.evaluate(made.bundle, photos).accuracy == made.accuracy_after


def test_after_a_merge_the_classifier_alone_may_train(adapted, photos, tmp_path):
    none = cut(adapted.bundle, photos, tmp_path / "n")
    made = cut(adapted.bundle, photos, tmp_path / "h", retrain="1clr", train="tunes", **SHORT)
    before, after = tailor.load(none.bundle).state_dict(), tailor.load(made.bundle).state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(name.startswith("head.") for name in moved)


def test_an_interrupted_retraining_of_kept_tunes_decides_nothing_again(adapted, photos, tmp_path, monkeypatch):
    settings = {"adapters": "prune", "retrain": "1clr", **SHORT}
    with monkeypatch.context() as patch:
        patch.setattr(VERB, "train_", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            cut(adapted.bundle, photos, tmp_path / "b", **settings)
    whole = cut(adapted.bundle, photos, tmp_path / "whole", **settings)
    monkeypatch.setattr(CutWidths, "plan", None)
    made = cut(adapted.bundle, photos, tmp_path / "b", resume=True, **settings)
    assert torch.equal(outputs(made.bundle), outputs(whole.bundle))


def test_steps_score_anew_meet_the_target_and_resume(adapted, photos, tmp_path, monkeypatch):
    seen, plan = [], CutWidths.plan
    monkeypatch.setattr(CutWidths, "plan", lambda self, context: seen.append(self.goal) or plan(self, context))
    settings = {"macs": "50%", "adapters": "keep", "steps": 2, "recover": 1, "batch_size": 12}
    made = cut(adapted.bundle, photos, tmp_path / "s", **settings)
    assert len(seen) == 2 and made.steps == 2
    assert 0.4 < made.macs_after / made.macs_before <= 0.5
    first = tailor.inspect(str(tmp_path / "s" / "steps" / "1"))["metrics"]
    assert made.macs_before == first["macs_before"] > first["macs_after"] > made.macs_after
    assert first["macs_after"] / made.macs_before == pytest.approx(0.5**0.5, abs=0.03)
    assert [plan.kind for plan in bundle.read(made.bundle).spec.plans] == ["width", "width", "tune"]
    assert tailor.evaluate(made.bundle, photos).accuracy == made.accuracy_after
    (tmp_path / "s" / "bundle.json").unlink()
    (tmp_path / "s" / "plan.json").unlink()
    again = cut(adapted.bundle, photos, tmp_path / "s", resume=True, **settings)
    assert len(seen) == 3  # the first step is done
    assert torch.equal(outputs(again.bundle), outputs(made.bundle))


def test_shares_go_in_steps_too(adapted, photos, tmp_path):
    made = cut(adapted.bundle, photos, tmp_path / "s", macs=None, mlp="50%", steps=2, recover=0, method="uniform")
    assert {block.mlp.fc1.out_features for block in tailor.load(made.bundle).blocks} == {128}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"train": "full"}, "nothing is trained"),
        ({"steps": 0}, "cannot be"),
        ({"steps": 2, "method": "sls", "macs": None}, "`--steps 2` is not for `sls`"),
        ({"steps": 2, "data": None}, "needs labelled images"),
    ],
)
def test_what_means_nothing_is_said(adapted, photos, tmp_path, settings, says):
    settings = {"data": photos, "method": "uniform", "macs": "50%", **settings}
    with pytest.raises(UsageError, match=says):
        tailor.prune(adapted.bundle, out=tmp_path / "b", **settings)
    assert not (tmp_path / "b").exists()


class Stub:
    """Milliseconds that follow the MACs, so that no clock decides."""

    def __init__(self, monkeypatch, floor=0.0):
        reaching = importlib.import_module("tailor.workflow.counts")
        self.macs, self.floor = reaching.macs, floor
        monkeypatch.setattr(reaching, "latency", self)

    def __call__(self, model, inputs, **_):
        return type("Timing", (), {"median": self.floor + self.macs(model, inputs) / 1e7})


def test_a_target_in_milliseconds_is_met_as_it_was_measured(adapted, photos, tmp_path, monkeypatch):
    stub = Stub(monkeypatch)
    made = cut(adapted.bundle, photos, tmp_path / "l", macs=None, latency="3ms")
    assert stub(tailor.load(made.bundle), Inputs.images(3, 64, 64)).median <= 3 < made.macs_before / 1e7
    shared = cut(adapted.bundle, photos, tmp_path / "m", macs=None, latency="60%")
    assert shared.macs_after <= 0.6 * shared.macs_before


def test_milliseconds_out_of_reach_are_said_with_what_is_possible(adapted, photos, tmp_path, monkeypatch, capsys):
    Stub(monkeypatch, floor=2.0)
    arguments = [adapted.bundle, "--method", "uniform", "--criterion", "l1", "--latency", "1ms", "--data", photos]
    with pytest.raises(SystemExit) as done:
        tailor_main(["prune", *arguments, "-o", str(tmp_path / "l")])
    said = capsys.readouterr().err
    assert done.value.code == 2 and "out of reach" in said and "Traceback" not in said
    assert not (tmp_path / "l" / "bundle.json").exists()


def tailor_main(arguments):
    from tailor.cli import main

    main(arguments)


def test_the_flags_are_there(adapted, photos, tmp_path, capsys):
    arguments = ["prune", adapted.bundle, "--method", "uniform", "--mlp", "50%", "--adapters", "keep"]
    with pytest.raises(SystemExit) as done:
        tailor_main([*arguments, "--criterion", "l1", "-o", str(tmp_path / "n"), "--json"])
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert not done.value.code and (row["adapters"], row["train"], row["steps"]) == ("keep", "tunes", 1)
