"""A published configuration, small: widths, then blocks by score, retrained by its recipe, and read back."""

import importlib
import json
import math
from types import SimpleNamespace

import pytest
import timm
import torch
import yaml

import tailor
from tailor import backbones, bundle, recipes
from tailor.backbones import describe
from tailor.cli import main
from tailor.data.images import open_data
from tailor.errors import UsageError
from tailor.pruning.layers import LayerPlan, apply_layers_
from tailor.tasks.classification import Classification
from tailor.tracing import cut_
from tailor.training import Recipe
from tailor.workflow.context import Decision
from tailor.workflow.data import divided
from tailor.workflow.opened import merged, open_bundle, thawed, with_head
from tailor.workflow.planners.widths import CutWidths
from tailor.workflow.smaller import extended, smaller

VERB = importlib.import_module("tailor.workflow.prune")
NAME, STAGE = "convnext_atto", "stages.2.blocks"
X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
pytestmark = pytest.mark.usefixtures("hurried")


def settings(**changes):
    """The configuration that drops blocks, for a small model of the same kind."""
    found = recipes.read("isomorphic/convnext-4.2g") | {"name": NAME, "weights": "random", "image_size": 32}
    found["classifier"] = "fresh"
    found["widths"] = {**found["widths"], "blocks": {STAGE: 3}}
    found["recipe"] = {**found["recipe"], "epochs": 1, "batch_size": 6}
    return found | changes


@pytest.fixture(scope="module")
def cut(photos, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VERB, "SECONDS", 0.2)
        chosen = settings(retrain="none", criterion="random", data=photos, seed=1)
        return tailor.prune(**chosen, out=tmp_path_factory.mktemp("run") / "a")


def test_widths_go_then_blocks_and_the_bundle_is_the_model_cut_by_hand(cut, photos):
    loaded = bundle.read(cut.bundle)
    tune, width, layers = loaded.spec.plans
    assert (tune.kind, width.kind, layers.kind) == ("tune", "width", "layers")
    assert cut.blocks - cut.kept_blocks == 3 and all(path.startswith(STAGE) for path in layers.dropped)
    assert layers.dropped != tuple(f"{STAGE}.{i}" for i in (3, 4, 5))  # so those that stay have new numbers
    assert all(len(c.keep) % 2 == 0 and len(c.keep) < c.size for c in width.cuts)
    images = divided(open_data(photos), 1, lambda event: None)
    whole = with_head(NAME, "random", 32, images, Classification(), Recipe(seed=1)).model
    by_hand = apply_layers_(cut_(whole, width), layers).eval()
    model = tailor.load(cut.bundle)
    assert type(model) is type(timm.create_model(NAME))
    with torch.no_grad():
        torch.testing.assert_close(model(X), by_hand(X), rtol=0, atol=0)
    assert math.isnan(cut.accuracy_after)  # of a classifier that nothing has trained


@pytest.mark.parametrize("how", ["merged", "thawed"])
def test_what_was_renumbered_trains_whole_when_it_is_cut_again(cut, how):
    dense = open_bundle(cut.bundle)
    again = merged(dense, "full") if how == "merged" else thawed(dense)
    left = len(describe(again.model).blocks) - 1
    last = describe(again.model).blocks[left].path
    for plans in ((), (LayerPlan(tuple(range(left)), (last,)),)):
        model = smaller(again, extended(again, plans), Decision(plans)).model
        assert [name for name, p in model.named_parameters() if not p.requires_grad] == []


def test_a_bundle_whose_blocks_were_renumbered_is_cut_twice_more(cut, photos, tmp_path):
    settings = {"data": photos, "method": "uniform", "criterion": "l1", "mlp": "50%"}
    once = tailor.prune(cut.bundle, out=tmp_path / "1", widths={"blocks": {STAGE: 2}}, **settings)
    twice = tailor.prune(once.bundle, out=tmp_path / "2", retrain="1clr", epochs=1, batch_size=12, **settings)
    assert twice.accuracy_before == once.accuracy_after and twice.kept_blocks == cut.kept_blocks - 1
    assert tailor.evaluate(twice.bundle, photos).accuracy == twice.accuracy_after
    before, after = (tailor.load(run.bundle).state_dict() for run in (once, twice))
    same = [n for n in before if before[n].shape == after[n].shape and torch.equal(before[n], after[n])]
    assert same == []


def test_the_whole_configuration_runs_from_the_command_line(photos, tmp_path, capsys):
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(settings()))
    with pytest.raises(SystemExit) as done:
        main(["prune", "--config", str(tmp_path / "small.yaml"), "--data", photos, "-o", str(tmp_path / "b"), "--json"])
    assert not done.value.code
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert row["kept_blocks"] == row["blocks"] - 3 and row["retrain"] == "1clr" and "taylor" in row["reason"]
    assert f"3 of `{STAGE}` stay" in row["reason"]
    assert tailor.evaluate(row["bundle"], photos).accuracy == row["accuracy_after"]
    used = yaml.safe_load((tmp_path / "b" / "config.yaml").read_text())["recipe"]
    assert used["ema"] == 0.9999 and used["cutmix"] == 1.0 and used["drop_path"] == 0.4


def test_scoring_reports_how_far_it_is(photos, tmp_path):
    events = []
    chosen = settings(retrain="none", widths={"round_to": 4}, data=photos, out=tmp_path / "b", progress=events.append)
    tailor.prune(**chosen)
    told = [event for event in events if event.stage == "scoring"]
    assert [(e.done, e.total) for e in (told[0], told[-1])] == [(0, 24), (24, 24)]
    assert told[0].text == "taylor on 24 images"


def test_a_resumed_run_keeps_the_blocks_it_chose(photos, tmp_path, monkeypatch):
    chosen = settings(criterion="random", data=photos, seed=1, out=tmp_path / "b")
    with monkeypatch.context() as patch:
        patch.setattr(VERB, "train_", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tailor.prune(**chosen)
    monkeypatch.setattr(CutWidths, "plan", None)
    made = tailor.prune(**chosen, resume=True)
    assert made.kept_blocks == made.blocks - 3
    assert tailor.evaluate(made.bundle, photos).accuracy == made.accuracy_after


def test_a_backbone_keeps_its_own_classifier_where_the_classes_are_its_own():
    images = SimpleNamespace(classes=tuple(f"class {i}" for i in range(200)))
    made = with_head("tailor_mini_s", "pretrained", None, images, Classification(), Recipe(), own=True)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        assert torch.equal(made.model(x), backbones.create("tailor_mini_s")(x))
        fresh = with_head("tailor_mini_s", "pretrained", None, images, Classification(), Recipe()).model
        assert not torch.equal(made.model(x), fresh(x))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"widths": {"blocks": {"stages.2.block": 3}}}, "no list of blocks `stages.2.block`"),
        ({"widths": {"blocks": {STAGE: 6}}}, "has 6 blocks, and 6 are to stay"),
        ({"widths": {"blocks": {STAGE: 0}}}, "must keep at least 1"),
        ({"widths": {"blocks": {STAGE: 3}}, "adapters": "keep"}, "do not go together"),
        ({"steps": 2}, "do not go together"),
        ({"classifier": "own"}, "has 1000 classes, the data 3"),
        ({"classifier": "mine"}, "no classifier is called `mine`"),
    ],
)
def test_blocks_that_cannot_be_are_told(photos, tmp_path, changes, says):
    with pytest.raises(UsageError, match=says):
        tailor.prune(**settings(criterion="l1", retrain="none", data=photos, out=tmp_path / "b", **changes))
    assert not (tmp_path / "b" / "bundle.json").exists()
