"""Adapt, fit, evaluate, predict, merge, export: the verbs agree with each other and with the function they replace."""

import importlib
import json
from pathlib import Path

import pytest
import torch

import tailor
from tailor.bundle.plan_file import read_plan
from tailor.cli import main
from tailor.data.images import open_data
from tailor.errors import BundleError, PlanError, UsageError
from tailor.preprocessing import Preprocessing
from tailor.tasks.classification import ClassifierHead
from tailor.tuning.spt import scores
from tailor.workflow.data import divided, in_order

X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
SHORT = {"model": "tailor_mini_s", "epochs": 1, "batch_size": 8}


@pytest.fixture(scope="module")
def adapted(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "a"
    return tailor.adapt(photos, method="spt-lora", budget="1%", out=out, **SHORT)


def test_spt_stays_within_its_budget_and_reports_test(adapted):
    assert adapted.split == "test"
    assert 0 < adapted.trainable_percent <= 1.0
    assert 0 <= adapted.accuracy <= 1


def test_evaluate_measures_what_adapt_reported(adapted, photos):
    again = tailor.evaluate(adapted.bundle, photos)
    assert again.accuracy == adapted.accuracy
    assert again.split == "test"
    assert again.n == 12
    assert set(again.per_class) == {"red", "green", "blue"}


def test_predict_agrees_with_the_loaded_model(adapted, photos):
    found = tailor.predict(adapted.bundle, str(Path(photos) / "test"))
    model = tailor.load(adapted.bundle)
    data = open_data(photos)
    by_path = {p.path: p.label for p in found}
    (batch,) = in_order(data.splits["test"], Preprocessing((64, 64)), ClassifierHead(data.classes))
    with torch.no_grad():
        labels = model(batch.images).argmax(-1)
    assert [by_path[s] for s in batch.sources] == [data.classes[i] for i in labels]


def test_the_same_seed_gives_the_same_weights(photos, adapted, tmp_path):
    again = tailor.adapt(photos, method="spt-lora", budget="1%", out=tmp_path / "b", **SHORT)
    ours, theirs = (tailor.load(r.bundle).state_dict() for r in (adapted, again))
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_a_plan_that_is_fitted_equals_adapt(photos, adapted, tmp_path):
    planned = tailor.adapt(photos, method="spt-lora", budget="1%", out=tmp_path / "p", plan_only=True, **SHORT)
    assert planned.trainable_params == read_plan(tmp_path / "p").spec.plans[0].cost
    settings = {k: v for k, v in SHORT.items() if k != "model"}
    fitted = tailor.fit(tmp_path / "p", data=photos, out=tmp_path / "f", **settings)
    ours, theirs = (tailor.load(r.bundle).state_dict() for r in (adapted, fitted))
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_an_edited_plan_is_counted_again(photos, tmp_path):
    tailor.adapt(photos, method="lora-2", out=tmp_path / "p", plan_only=True, **SHORT)
    text = json.loads((tmp_path / "p/plan.json").read_text())
    text["spec"]["plans"][0]["tunes"] = text["spec"]["plans"][0]["tunes"][:3]
    (tmp_path / "p/plan.json").write_text(json.dumps(text))
    fitted = tailor.fit(tmp_path / "p", data=photos, out=tmp_path / "f", epochs=1, batch_size=8)
    assert fitted.trainable_params == 3 * 2 * 4 * 96


def test_merging_keeps_the_function_and_drops_the_plan(adapted, tmp_path):
    merged = tailor.merge(adapted.bundle, out=tmp_path / "m")
    before, after = tailor.load(adapted.bundle), tailor.load(merged.bundle)
    with torch.no_grad():
        torch.testing.assert_close(after(X), before(X), rtol=1e-4, atol=1e-5)
    assert "blocks.0.attn.qkv.weight" in after.state_dict()


def test_several_methods_give_a_bundle_each(photos, tmp_path):
    results = tailor.adapt(photos, method="linear,bias,mlp-2", out=tmp_path, **SHORT)
    assert [r.method for r in results] == ["linear", "bias", "mlp-2"]
    assert [r.bundle for r in results] == [str(tmp_path / r.method) for r in results]
    assert results[0].trainable_params == 0
    assert results[2].trainable_params == 96 * 97 + 2 * 96  # the hidden layer is the method's, the classifier is not
    assert results[2].head_params == results[0].head_params


def test_another_budget_takes_the_saved_scores(photos, adapted, tmp_path):
    told = []
    settings = {**SHORT, "method": "spt-lora", "budget": "2%", "plan_only": True}
    fresh = tailor.adapt(photos, out=tmp_path / "fresh", **settings)
    again = tailor.adapt(photos, out=tmp_path / "again", scores=adapted.bundle, progress=told.append, **settings)
    assert any("scores taken from" in event.text for event in told)
    assert read_plan(tmp_path / "again").spec == read_plan(tmp_path / "fresh").spec
    assert again.diagram == fresh.diagram


def test_scores_of_other_weights_are_refused(photos, adapted, tmp_path):
    with pytest.raises(PlanError, match="other weights"):
        tailor.adapt(
                photos, model="tailor_mini_s", method="spt-lora", weights="random", scores=adapted.bundle,
                out=tmp_path / "r",
            )  # fmt: skip


def test_scores_are_no_use_to_a_method_that_scores_nothing(photos, adapted, tmp_path):
    with pytest.raises(UsageError, match="is not for `lora`"):
        tailor.adapt(photos, method="lora,linear", scores=adapted.bundle, out=tmp_path / "r", **SHORT)


def test_a_plan_alone_shows_no_figures_of_training(photos, tmp_path, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(f"adapt {photos} --model tailor_mini_s --method lora --plan-only -o {tmp_path / 'p'}".split())
    shown = capsys.readouterr().out
    assert "trainable params" in shown
    assert "plan.json" in shown.replace("\n", "").replace(" ", "")  # a narrow terminal folds the path
    assert "epoch" not in shown and "bundle" not in shown


def test_a_finished_run_resumed_says_the_same(photos, adapted):
    again = tailor.adapt(photos, method="spt-lora", budget="1%", out=adapted.bundle, resume=True, **SHORT)
    assert again.accuracy == adapted.accuracy
    assert again.bundle_bytes == adapted.bundle_bytes


def test_a_run_is_not_resumed_on_another_backbone(photos, adapted, tmp_path):
    planned = tailor.adapt(photos, method="lora", out=tmp_path / "p", plan_only=True, **SHORT)
    with pytest.raises(BundleError, match="was begun with `tailor_mini_s`"):
        tailor.adapt(photos, method="lora", out=planned.bundle, resume=True, **{**SHORT, "model": "tailor_mini_ti"})


def test_noah_searches_a_plan_within_its_budget(photos, tmp_path):
    counts = {"generations": 2, "population": 4, "mutations": 2, "crossovers": 2, "top": 2}
    small = {"widths": [1, 2], "depths": [1, 2], **counts}
    run = tailor.adapt(photos, method="noah", budget="1%", noah=small, out=tmp_path / "n", **SHORT)
    assert run.method == "noah"
    assert 0 < run.trainable_percent <= 1
    assert tailor.evaluate(run.bundle, photos).accuracy == run.accuracy


def test_random_weights_are_all_in_the_bundle(photos, tmp_path):
    run = tailor.adapt(photos, method="lora", weights="random", out=tmp_path / "r", **SHORT)
    summary = tailor.inspect(run.bundle)
    assert summary["complete"]
    assert tailor.evaluate(run.bundle, photos).accuracy == run.accuracy


def test_inspect_builds_nothing(adapted, monkeypatch):
    monkeypatch.setattr("tailor.backbones.create", None)
    found = tailor.inspect(adapted.bundle)
    assert found["kind"] == "bundle"
    assert found["classes"] == ["blue", "green", "red"]
    assert found["plans"][0]["method"] == "spt-lora"


def test_json_is_one_object_on_the_last_line(photos, tmp_path, capsys):
    with pytest.raises(SystemExit) as done:
        main(
            [
                "adapt",
                photos,
                "--model",
                "tailor_mini_s",
                "--method",
                "linear",
                "--epochs",
                "1",
                "-o",
                str(tmp_path / "j"),
                "--json",
            ]
        )
    assert not done.value.code
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"bundle", "accuracy", "trainable_params", "trainable_percent", "bundle_bytes", "seconds"} <= row.keys()


def test_a_file_of_flags_and_recipe_is_followed(photos, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(
        f"model: tailor_mini_s\nmethod: linear\nepochs: 1\nout: {tmp_path / 'c'}\nrecipe:\n  optimizer: sgd\n"
    )
    with pytest.raises(SystemExit):
        main(["adapt", photos, "--config", str(tmp_path / "c.yaml"), "--lr", "0.01", "--json"])
    capsys.readouterr()
    resolved = (tmp_path / "c/config.yaml").read_text()
    assert "optimizer: sgd" in resolved
    assert "lr: 0.01" in resolved


def test_spts_settings_come_from_the_file(photos, tmp_path):
    settings = {**SHORT, "method": "spt-lora", "plan_only": True}
    made = tailor.adapt(photos, out=tmp_path / "s", spt={"rule": "thesis", "samples": 9}, **settings)
    facts = read_plan(tmp_path / "s").spec.plans[0].facts
    assert facts["rule"] == "thesis"
    assert facts["samples"] == 9
    assert made.trainable_percent <= 0.47
    with pytest.raises(UsageError, match="`sampels`") as caught:
        tailor.adapt(photos, out=tmp_path / "t", spt={"sampels": 9}, **settings)
    assert "`samples`" in caught.value.hint


def test_noahs_settings_are_checked_by_name_and_value(photos, tmp_path):
    settings = {**SHORT, "method": "noah"}
    with pytest.raises(UsageError, match="`generation`") as caught:
        tailor.adapt(photos, out=tmp_path / "a", noah={"generation": 2}, **settings)
    assert "`generations`" in caught.value.hint
    with pytest.raises(UsageError, match="`population` of `noah:`"):
        tailor.adapt(photos, out=tmp_path / "b", noah={"population": "many"}, **settings)


def test_a_teacher_must_know_the_same_classes(photos, adapted, tmp_path):
    student = {**SHORT, "method": "linear", "teacher": adapted.bundle}
    taught = tailor.adapt(photos, out=tmp_path / "t", **student)
    assert taught.split == "test"
    with pytest.raises(UsageError, match="classes"):
        tailor.adapt("builtin/digits", out=tmp_path / "d", **student)


def test_scoring_with_class_means_gives_another_plan(photos, tmp_path):
    settings = {**SHORT, "method": "spt-lora", "plan_only": True}
    plans = []
    for head in ("random", "class-means"):
        tailor.adapt(photos, out=tmp_path / head, spt={"head": head}, **settings)
        plans.append(read_plan(tmp_path / head).spec.plans[0])
    assert plans[0].facts["head"] == "own"
    assert plans[1].facts["head"] == "ncm"
    assert (plans[0].tunes, plans[0].entries) != (plans[1].tunes, plans[1].entries)


def test_a_fitted_plan_keeps_the_seed_it_was_made_with(photos, tmp_path, monkeypatch):
    fit = importlib.import_module("tailor.workflow.fit")
    seen = []
    monkeypatch.setattr(fit, "divided", lambda data, seed, report: seen.append(seed) or divided(data, seed, report))
    tailor.adapt(photos, method="lora-2", out=tmp_path / "p", plan_only=True, seed=7, **SHORT)
    for settings in ({}, {"seed": 3}):
        tailor.fit(tmp_path / "p", data=photos, out=tmp_path / f"f{settings}", epochs=1, batch_size=8, **settings)
    assert seen == [7, 3]


def test_a_plan_is_fitted_beside_itself_once(photos, tmp_path):
    planned = tailor.adapt(photos, method="spt-lora", budget="1%", out=tmp_path / "p", plan_only=True, **SHORT)
    short = {"data": photos, "out": tmp_path / "p", "epochs": 1, "batch_size": 8}
    tailor.fit(planned.bundle, **short)
    with pytest.raises(BundleError, match="holds a bundle already"):
        tailor.fit(planned.bundle, **short)
    tailor.fit(planned.bundle, overwrite=True, **short)
    assert read_plan(tmp_path / "p").spec.plans
    assert (tmp_path / "p/sensitivity.safetensors").is_file()


@pytest.mark.parametrize(
    ("changed", "says"),
    [({"budget": "2%"}, "budget `1%`"), ({"method": "lora"}, "method `spt-lora`"), ({"seed": 5}, "another seed")],
)
def test_a_run_is_resumed_with_what_began_it(photos, adapted, changed, says):
    with pytest.raises(BundleError, match=f"was begun with.* {says}|was begun with.*{says}"):
        tailor.adapt(
            photos, out=adapted.bundle, resume=True, **{**SHORT, "method": "spt-lora", "budget": "1%", **changed}
        )


def test_scores_are_taken_only_as_they_were_made(photos, adapted, tmp_path):
    wanted = {**SHORT, "method": "spt-lora", "budget": "2%", "plan_only": True, "scores": adapted.bundle}
    assert scores.load(Path(adapted.bundle) / "sensitivity.safetensors").facts["unit"] == "sample"
    with pytest.raises(PlanError, match="made with unit `sample`, not `batch`"):
        tailor.adapt(photos, out=tmp_path / "u", spt={"unit": "batch"}, **wanted)
    with pytest.raises(PlanError, match="made with head `own`, not `ncm`"):
        tailor.adapt(photos, out=tmp_path / "h", spt={"head": "class-means"}, **wanted)


def test_a_budget_above_the_backbone_is_refused(photos, tmp_path):
    with pytest.raises(UsageError, match="more than the backbone's"):
        tailor.adapt(photos, method="spt-lora", budget="900M", out=tmp_path / "b", **SHORT)
    assert not (tmp_path / "b" / "plan.json").exists()
