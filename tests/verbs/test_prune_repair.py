"""`prune --repair`: what was repaired is what is written, measured and read back; where it cannot be, a sentence."""

import importlib
import json
from pathlib import Path

import pytest
import torch

import tailor
from tailor import bundle
from tailor.errors import UsageError
from tailor.pruning.sls import Curve
from tailor.tracing import cut_

VERB = importlib.import_module("tailor.workflow.prune")
CUT = {"method": "uniform", "criterion": "l1", "mlp": "50%", "progress": None}
X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def adapted(photos, tmp_path_factory):
    made = {"model": "resnet10t", "weights": "random", "image_size": 32, "method": "lora-2", "progress": None}
    return tailor.adapt(photos, out=tmp_path_factory.mktemp("run") / "a", epochs=1, batch_size=12, **made).bundle


@pytest.fixture(scope="module")
def made(adapted, photos, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VERB, "SECONDS", 0.2)
        out, told = tmp_path_factory.mktemp("run"), []
        settings = CUT | {"progress": told.append}
        results = {
            how: tailor.prune(adapted, data=photos, repair=how, out=out / str(how), **settings)
            for how in (None, "norms", "none")
        }
        return results, told


def test_it_is_the_default_with_data_and_says_what_it_did(made):
    results, told = made
    assert [results[how].repair for how in results] == ["ridge", "norms", ""]
    (text, norms) = [event.text for event in told if event.stage == "repaired"]
    assert "layers repaired on" in text and "->" in text and "batch norms" in norms
    assert results[None].repair_seconds > 0 and json.loads((Path(results[None].bundle) / "bundle.json").read_text())
    assert results[None].accuracy_repaired == results[None].accuracy_after
    assert results[None].accuracy_cut == results["none"].accuracy_after == results["none"].accuracy_cut


def test_the_repaired_tensors_are_the_bundles(made, adapted, photos):
    results, _ = made
    dense = tailor.load(adapted)
    models = {how: tailor.load(one.bundle) for how, one in results.items()}
    plan = bundle.read(results["none"].bundle).spec.pruning[-1]
    with torch.no_grad():
        error = {how: float((model(X) - dense(X)).square().mean()) for how, model in models.items()}
        assert error[None] < error["none"]
    assert {how: bundle.read(one.bundle).spec.pruning[-1] == plan for how, one in results.items()}
    merged = tailor.load(tailor.merge(adapted, out=Path(adapted).parent / "m", progress=None).bundle)
    plain = cut_(merged, plan).state_dict()
    for name, tensor in models["none"].state_dict().items():
        assert torch.equal(plain[name], tensor)
    changed = {name for name, tensor in models[None].state_dict().items() if not torch.equal(plain[name], tensor)}
    assert any(name.endswith("conv2.weight") for name in changed)
    moved = {name for name, tensor in models["norms"].state_dict().items() if not torch.equal(plain[name], tensor)}
    norms = {path for path, module in models["norms"].named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    assert moved and {name.rpartition(".")[0] for name in moved} <= norms
    assert tailor.evaluate(results[None].bundle, photos).accuracy == results[None].accuracy_after


def test_a_resumed_run_repairs_nothing_again(made, adapted, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(VERB, "SECONDS", 0.2)
    settings = CUT | {"data": photos, "out": tmp_path / "b", "retrain": "ft", "epochs": 1, "batch_size": 12}

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(VERB, "train_", stop)
        tailor.prune(adapted, **settings)
    monkeypatch.setattr("tailor.workflow.recover.repair_", stop)
    done = tailor.prune(adapted, resume=True, **settings)
    assert done.repair == "ridge" and done.accuracy_repaired == made[0][None].accuracy_after
    assert not list((tmp_path / "b").glob("decided*"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"adapters": "keep", "repair": "ridge"}, "`--adapters keep` does not hold"),
        ({"repair": "norms"}, "no data was named, and `--repair norms`"),
        ({"repair": "rigde"}, "rigde"),
        ({"method": "sls", "criterion": None, "mlp": None, "repair": "ridge"}, "`--repair ridge` is not for `sls`"),
    ],
)
def test_what_cannot_be_repaired_is_said(adapted, tmp_path, settings, said):
    with pytest.raises(UsageError, match=said):
        tailor.prune(adapted, out=tmp_path / "b", **CUT | settings)


def test_a_linear_map_in_place_of_blocks_is_stored_and_read_back(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(VERB, "SECONDS", 0.2)
    made = {"model": "tailor_mini_ti", "method": "lora-2", "progress": None}
    adapted = tailor.adapt(photos, out=tmp_path / "a", epochs=1, batch_size=12, **made).bundle
    curve = Curve((0.1,) * 8 + (0.95, 0.97, 0.98, 1.0), {i: torch.zeros(30, 2).numpy() for i in range(12)})
    given = torch.cat([X, X, X, X]).view(2, 3, 64, 64)
    monkeypatch.setattr("tailor.pruning.sls.measure", lambda *_, **__: curve)
    monkeypatch.setattr("tailor.workflow.planners.layers._draw", lambda *_: None)
    settings = {"data": photos, "alpha": 0.9, "progress": None}
    plain = tailor.prune(adapted, out=tmp_path / "b", **settings)
    made = tailor.prune(adapted, out=tmp_path / "c", bypass="linear", **settings)
    (plan,) = bundle.read(made.bundle).spec.pruning
    assert plan.dropped and len(plan.bypasses) == 1 and len(plan.dropped) == made.blocks - made.kept_blocks
    assert made.repair == "ridge" and made.params_after > plain.params_after
    assert made.accuracy_cut == plain.accuracy_cut
    dense = tailor.load(adapted)
    with torch.no_grad():
        error = {one.bundle: (tailor.load(one.bundle)(given) - dense(given)).square().mean() for one in (plain, made)}
    assert error[made.bundle] < error[plain.bundle]
    assert tailor.evaluate(made.bundle, photos).accuracy == made.accuracy_after
    merged = tailor.merge(made.bundle, out=tmp_path / "m", progress=None)
    with torch.no_grad():
        torch.testing.assert_close(
            tailor.load(merged.bundle)(given), tailor.load(made.bundle)(given), rtol=1e-4, atol=1e-5
        )
    more = {"bypass": "linear", "retrain": "1clr", "epochs": 1, "batch_size": 12}
    trained = tailor.prune(adapted, out=tmp_path / "d", **more, **settings)
    assert tailor.evaluate(trained.bundle, photos).accuracy == trained.accuracy_after
