"""Prune from adapted bundle to written bundle: what is reported is what is read back, in a new process too."""

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tailor
from tailor import bundle
from tailor.build import build
from tailor.cli import main
from tailor.data.images import open_data
from tailor.data.loading import loader
from tailor.data.transforms import eval_transform
from tailor.errors import BundleError, DataError, PlanError, UsageError
from tailor.preprocessing import Preprocessing
from tailor.pruning.layers import LayerPlan
from tailor.pruning.sls import Curve
from tailor.surgery import changed
from tailor.tasks.classification import ClassifierHead
from tailor.tracing import cut_
from tailor.training.teacher import apart
from tailor.workflow.context import Decision
from tailor.workflow.opened import open_bundle
from tailor.workflow.smaller import extended, smaller
from tailor.workflow.teacher import guide

VERB, SLS = (importlib.import_module(f"tailor.{name}") for name in ("workflow.prune", "pruning.sls"))
X = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
SHORT = {"epochs": 1, "batch_size": 12}
pytestmark = pytest.mark.usefixtures("hurried")


@pytest.fixture(scope="module")
def adapted(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "a"
    return tailor.adapt(photos, model="tailor_mini_s", method="spt-lora", budget="1%", out=out, **SHORT)


def half_way(features, settings, **_):
    """A curve that ends the walk at the seventh of twelve blocks: flat colours are told apart after the first."""
    scores = [0.1] * 6 + [0.95, 0.95, 0.93, 0.94, 0.95, 1.0]
    return Curve(tuple(scores), {i: features.values[i][:, :2].numpy() for i in range(6, 12)})


@pytest.fixture(scope="module")
def pruned(adapted, photos, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VERB, "SECONDS", 0.2)
        patch.setattr(SLS, "measure", half_way)
        return tailor.prune(adapted.bundle, data=photos, alpha=0.9, out=tmp_path_factory.mktemp("run") / "b")


def test_inspect_says_a_digest_once(adapted):
    found = tailor.inspect(adapted.bundle, progress=None)
    assert found["digest"] and str(found).count(found["digest"]) == 1


def test_where_nothing_is_dropped_no_speed_is_measured(adapted, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(SLS, "measure", lambda *_, **__: Curve((*[0.1] * 11, 1.0), half_way(*_).planes))
    monkeypatch.setattr(VERB, "throughput", None)
    made = tailor.prune(adapted.bundle, data=photos, alpha=0.9, out=tmp_path / "b")
    assert (made.kept_blocks, made.throughput_ratio, made.throughput_seconds) == (12, 1.0, 0.0)
    assert "nothing was dropped" in made.warning


def test_what_only_training_would_use_is_said(adapted, tmp_path):
    said = []
    given = {"epochs": 7, "teacher": adapted.bundle}
    tailor.prune(
        adapted.bundle, method="uniform", mlp="50%", criterion="l1", out=tmp_path / "b", progress=said.append, **given
    )
    (warning,) = [event.text for event in said if event.stage == "warning"]
    assert "`--epochs 7`, `--teacher" in warning and "--retrain" in warning


def test_fewer_blocks_are_fewer_macs_and_parameters(pruned, adapted, photos):
    assert (pruned.kept_blocks, pruned.blocks) == (7, 12)
    block = 12 * 96 * 96 + 13 * 96
    assert pruned.params_before - pruned.params_after == block * (12 - pruned.kept_blocks)
    assert pruned.macs_before / pruned.macs_after == pytest.approx(12 / pruned.kept_blocks, rel=0.15)
    assert pruned.accuracy_before == adapted.accuracy
    assert pruned.throughput_ratio > 0 and pruned.split == "test"


def test_the_written_bundle_is_what_was_measured(pruned, photos):
    assert tailor.evaluate(pruned.bundle, photos).accuracy == pruned.accuracy_after


def test_the_bundle_is_small_and_forgets_the_dropped_blocks(pruned, adapted):
    loaded = bundle.read(pruned.bundle)
    tuning, layers = loaded.spec.plans
    assert layers.kept == tuple(range(pruned.kept_blocks))
    assert not [n for n in loaded.tensors if n.startswith(tuple(f"{p}." for p in layers.dropped))]
    assert not [t for t in tuning.tunes if t.path.startswith(layers.dropped)]
    assert tuning.cost < adapted.trainable_params
    assert pruned.bundle_bytes < adapted.bundle_bytes


def test_the_plan_holds_the_evidence(pruned):
    (plan,) = bundle.read(pruned.bundle).spec.pruning
    last = plan.curve[-1]
    assert plan.facts["threshold"] == pytest.approx(0.9 * last, abs=1e-6)
    assert plan.facts["samples"] == 33
    assert plan.facts["reason"] == pruned.reason
    card = (Path(pruned.bundle) / "README.md").read_text()
    assert f"{pruned.kept_blocks} of 12 blocks" in card
    assert {"layers.png", "tsne.png"} <= {p.name for p in Path(pruned.bundle).iterdir()}


def test_it_is_the_adapted_model_with_blocks_skipped(pruned, adapted):
    whole, cut = tailor.load(adapted.bundle), tailor.load(pruned.bundle)
    for block in whole.blocks[pruned.kept_blocks :]:
        block.register_forward_hook(lambda module, given, output: given[0])
    with torch.no_grad():
        torch.testing.assert_close(cut(X), whole(X), rtol=0, atol=0)


def test_a_new_process_reads_the_same_model(pruned, tmp_path):
    program = (
        "import sys, torch, tailor; from safetensors.torch import save_file;"
        "x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3));"
        "model = tailor.load(sys.argv[1]);"
        "kinds = {type(m).__module__.split('.')[0] for m in model.modules()};"
        "assert kinds <= {'timm', 'torch', 'tailor'}, kinds;"
        "save_file({'y': model(x).detach()}, sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", program, pruned.bundle, str(tmp_path / "y")], check=True)
    with torch.no_grad():
        assert torch.equal(load_file(tmp_path / "y")["y"], tailor.load(pruned.bundle)(X))


def test_pruning_twice_composes(pruned, photos, tmp_path):
    again = tailor.prune(pruned.bundle, data=photos, alpha=-1, out=tmp_path / "c")
    assert again.blocks == pruned.kept_blocks and again.kept_blocks < again.blocks
    assert again.accuracy_before == pruned.accuracy_after
    first, second = bundle.read(again.bundle).spec.pruning
    assert len(first.kept) == pruned.kept_blocks and len(second.kept) == again.kept_blocks
    assert tailor.evaluate(again.bundle, photos).accuracy == again.accuracy_after


def test_merging_a_pruned_bundle_keeps_its_function(pruned, photos, tmp_path):
    merged = tailor.merge(pruned.bundle, out=tmp_path / "m")
    with torch.no_grad():
        torch.testing.assert_close(tailor.load(merged.bundle)(X), tailor.load(pruned.bundle)(X), rtol=1e-4, atol=1e-5)
    again = tailor.prune(merged.bundle, data=photos, alpha=-1, out=tmp_path / "c", retrain="tfs", **SHORT)
    assert tailor.evaluate(again.bundle, photos).accuracy == again.accuracy_after


@pytest.mark.parametrize("retrain", ["ft", "tfs"])
def test_retraining_trains_what_trained_before(adapted, photos, tmp_path, retrain):
    made = tailor.prune(adapted.bundle, data=photos, alpha=0.9, out=tmp_path / "b", retrain=retrain, **SHORT)
    assert tailor.evaluate(made.bundle, photos).accuracy == made.accuracy_after
    start, end = bundle.read(adapted.bundle).tensors, bundle.read(made.bundle).tensors
    assert end.keys() < start.keys()
    moved = {n: float((end[n] - start[n]).abs().max()) for n in end}
    if retrain == "ft":
        assert max(moved.values()) < 1e-3
        assert any(moved.values())
    else:
        assert max(moved.values()) > 1e-3
    again = tailor.prune(adapted.bundle, data=photos, alpha=0.9, out=tmp_path / "b", retrain=retrain, resume=True)
    assert (again.accuracy_after, again.kept_blocks) == (made.accuracy_after, made.kept_blocks)


def test_an_interrupted_retraining_decides_nothing_again(adapted, photos, tmp_path, monkeypatch):
    settings = {"data": photos, "alpha": 0.9, "out": tmp_path / "b", "retrain": "1clr", **SHORT}
    with monkeypatch.context() as patch:
        patch.setattr(VERB, "train_", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tailor.prune(adapted.bundle, **settings)
    monkeypatch.setattr(SLS, "collect", None)
    made = tailor.prune(adapted.bundle, resume=True, **settings)
    assert made.retrain == "1clr" and made.accuracy_cut <= 1
    assert tailor.evaluate(made.bundle, photos).accuracy == made.accuracy_after


def test_a_backbone_by_name_is_pruned_too(photos, tmp_path, capsys):
    arguments = ["prune", "tailor_mini_s", "--weights", "random", "--data", photos, "--alpha", "-1"]
    with pytest.raises(SystemExit) as done:
        main([*arguments, "-o", str(tmp_path / "n"), "--json"])
    assert not done.value.code
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    wanted = "bundle kept_blocks macs_before macs_after params_before params_after accuracy_before accuracy_after"
    assert {*wanted.split(), "throughput_ratio", "seconds"} <= row.keys()
    assert tailor.inspect(row["bundle"])["complete"]
    assert row["accuracy_before"] is row["accuracy_after"] is None  # nothing has trained its classifier


@pytest.mark.parametrize("weights", ["pretrained", "random"])
def test_a_fresh_start_has_the_bundles_backbone_and_new_tunes(adapted, photos, tmp_path, weights):
    run = adapted
    if weights == "random":
        run = tailor.adapt(photos, model="tailor_mini_s", weights=weights, method="lora-2", out=tmp_path / "a", **SHORT)
    dense = open_bundle(run.bundle)
    layers = LayerPlan(tuple(range(7)), tuple(f"blocks.{i}" for i in range(7, 12)))
    spec = extended(dense, (layers,))
    whole = dense.model.state_dict()
    left, fresh = (smaller(dense, spec, Decision((layers,)), fresh=fresh).model for fresh in (False, True))
    anew = changed(build(spec))
    assert all(torch.equal(tensor, whole[name]) for name, tensor in left.state_dict().items())
    assert all(torch.equal(tensor, anew[name]) for name, tensor in changed(fresh).items())
    assert not torch.equal(fresh.head.weight, left.head.weight)
    frozen = fresh.state_dict().keys() - anew.keys() - {e.tensor for p in spec.tuning for e in p.entries}
    sparse = ("blocks.",) if weights == "pretrained" else ()  # deltas of single weights are written into their layers
    assert all(torch.equal(fresh.state_dict()[n], whole[n]) for n in frozen if not n.startswith(sparse))


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"method": "slss"}, UsageError, "unknown method `slss`"),
        ({"data": None}, UsageError, "no data was named"),
        ({"alpha": 2.0}, PlanError, "alpha lies between -1 and 1"),
        ({"data": "builtin/digits"}, DataError, "none of the model's 3 classes"),
        ({"samples": 11}, PlanError, "11 samples are too few"),
        ({"samples": 0}, UsageError, "no image would decide: `--samples 0`"),
        ({"macs": "50%"}, UsageError, "`--macs 50%` is not for `sls`"),
        ({"latency": "5ms"}, UsageError, "`--latency 5ms` is not for `sls`"),
        ({"ratio": "50%"}, UsageError, "`--ratio 50%` is not for `sls`"),
        ({"emb": "50%"}, UsageError, "`--emb 50%` is not for `sls`"),
        ({"criterion": "l1"}, UsageError, "`--criterion l1` is not for `sls`"),
        ({"adapters": "prune"}, UsageError, "`--adapters prune` is not for `sls`"),
        ({"widths": {"round_to": 4}}, UsageError, "`widths:` is not for `sls`"),
        ({"image_size": 96}, UsageError, "keeps its image size, so `--image-size 96` means nothing"),
        ({"recover": 2}, UsageError, "`--recover 2` is not for `sls`"),
    ],
)
def test_what_means_nothing_is_said(adapted, photos, tmp_path, settings, error, says):
    with pytest.raises(error, match=says):
        tailor.prune(adapted.bundle, **{"data": photos, "out": tmp_path / "b", **settings})
    assert not (tmp_path / "b" / "bundle.json").exists()


def test_a_teacher_of_other_classes_is_refused(adapted, photos, tmp_path):
    (tmp_path / "two").mkdir()
    for name in ("red", "green"):
        shutil.copytree(f"{photos}/train/{name}", tmp_path / "two" / name)
    other = tailor.adapt(str(tmp_path / "two"), model="tailor_mini_s", method="linear", out=tmp_path / "t", **SHORT)
    with pytest.raises(UsageError, match="knows 2 classes that are not the data's 3"):
        tailor.prune(adapted.bundle, data=photos, teacher=other.bundle, out=tmp_path / "b", retrain="1clr", **SHORT)


def test_a_backbone_teaches_with_its_own_classifier_if_it_has_as_many_classes(adapted, photos, tmp_path):
    taught = {"data": photos, "teacher": "tailor_mini_s", "retrain": "1clr", **SHORT}
    with pytest.raises(UsageError, match="has 200 classes of its own, the data 3"):
        tailor.prune(adapted.bundle, out=tmp_path / "b", **taught)
    teacher = guide("tailor_mini_s", ClassifierHead(tuple(str(i) for i in range(200))))
    assert teacher.opened.model(X).shape == (2, 200)


def test_features_are_learnt_in_the_channels_that_are_left(adapted, narrowed, photos, tmp_path):
    settings = {
        "method": "isomorphic",
        "macs": "50%",
        "samples": 12,
        "steps": 2,
        "recover": 0,
        "retrain": "1clr",
        "repair": "none",
    }
    longer = {"epochs": 5, "batch_size": 6}
    lessons = {"distil": {"weight": 0.0, "features": 100.0}, "select": "last"}
    dense = tailor.load(adapted.bundle)
    split, seen = open_data(photos).splits["train"], eval_transform(Preprocessing((64, 64)))
    shown = next(iter(loader(split, seen, batch_size=24, seed=0, epoch=0, shuffle=False))).images

    def distance(folder):
        made = bundle.read(folder)
        teacher = guide(adapted.bundle, made.spec.head).towards(made.spec, "head", features=True)
        own = tailor.load(folder)
        with torch.no_grad():
            whole = dense.forward_head(dense.forward_features(shown), pre_logits=True)
            left = own.forward_head(own.forward_features(shown), pre_logits=True)
        assert teacher.wanted(whole).shape == left.shape
        return apart(left, teacher.wanted(whole)).item()

    found = {}
    for name, more in {
        "alone": {"recipe": {"select": "last"}},
        "taught": {"teacher": adapted.bundle, "recipe": lessons},
    }.items():
        found[name] = distance(
            Path(tailor.prune(adapted.bundle, data=photos, out=tmp_path / name, **settings, **longer, **more).bundle)
        )
    assert found["taught"] < 0.8 * found["alone"], found
    with pytest.raises(UsageError, match="it lacks features that are to be learnt"):
        tailor.adapt(
            photos, model="tailor_mini_s", method="lora", out=tmp_path / "up", teacher=narrowed.bundle,
            recipe=lessons, **SHORT,
        )  # fmt: skip


def test_what_is_no_bundle_is_told(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match="not a bundle"):
        tailor.prune(str(tmp_path / "empty"), data=photos, out=tmp_path / "b")


@pytest.fixture(scope="module")
def narrowed(adapted, photos, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VERB, "SECONDS", 0.2)
        out = tmp_path_factory.mktemp("run") / "w"
        settings = {"method": "isomorphic", "macs": "50%", "samples": 12, "repair": "none"}
        return tailor.prune(adapted.bundle, data=photos, out=out, **settings)


def test_widths_meet_their_target_and_are_read_back(narrowed, photos):
    assert 0.4 < narrowed.macs_after / narrowed.macs_before <= 0.5
    assert narrowed.kept_blocks == 12 and "taylor" in narrowed.reason
    assert tailor.evaluate(narrowed.bundle, photos).accuracy == narrowed.accuracy_after
    tuning, plan = bundle.read(narrowed.bundle).spec.plans
    assert tuning.method == "full" and plan.kind == "width"
    assert tailor.inspect(narrowed.bundle)["complete"]


def test_salience_keeps_the_same_rate_in_every_layer(adapted, photos, tmp_path):
    settings = {"method": "uniform", "criterion": "salience", "heads": "50%", "samples": 12}
    made = tailor.prune(adapted.bundle, data=photos, out=tmp_path / "b", **settings)
    assert [len(cut.keep) for cut in bundle.read(made.bundle).spec.plans[-1].cuts] == [1] * 12  # of three, one stays
    assert "salience" in made.reason


def test_one_ratio_is_the_share_of_every_part_but_those_with_their_own(adapted, tmp_path):
    made = tailor.prune(adapted.bundle, method="uniform", ratio="50%", mlp="25%", out=tmp_path / "b")
    model = tailor.load(made.bundle)
    assert (model.num_features, model.blocks[0].mlp.fc1.out_features) == (48, 288)  # of 96 and 384
    assert {(block.attn.num_heads, block.attn.head_dim) for block in model.blocks} == {(1, 32)}  # of 3 heads


def test_a_narrow_model_is_the_merged_one_cut(narrowed, adapted, tmp_path):
    merged = tailor.load(tailor.merge(adapted.bundle, out=tmp_path / "m").bundle)
    plan = bundle.read(narrowed.bundle).spec.plans[-1]
    with torch.no_grad():
        torch.testing.assert_close(tailor.load(narrowed.bundle)(X), cut_(merged, plan)(X), rtol=0, atol=0)


def test_layers_go_from_a_narrow_model_and_it_is_retrained(narrowed, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(SLS, "measure", half_way)
    both = tailor.prune(narrowed.bundle, data=photos, out=tmp_path / "b", retrain="ft", **SHORT)
    assert both.kept_blocks == 7 and both.macs_before == narrowed.macs_after
    assert [plan.kind for plan in bundle.read(both.bundle).spec.plans] == ["tune", "width", "layers"]
    assert tailor.evaluate(both.bundle, photos).accuracy == both.accuracy_after


def test_settings_of_widths_come_from_the_file(adapted, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("method: uniform\nmlp: 50%\nwidths: {keep_at_least: 300}\n")
    with pytest.raises(SystemExit):
        main(["prune", adapted.bundle, "--config", str(tmp_path / "c.yaml"), "-o", str(tmp_path / "b"), "--json"])
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    plan = bundle.read(row["bundle"]).spec.plans[-1]
    assert [len(cut.keep) for cut in plan.cuts] == [304] * 12  # the multiple of 8 above


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({}, UsageError, "nothing says how much"),
        ({"macs": "50%", "params": "50%"}, UsageError, "two targets"),
        ({"macs": "50%", "ratio": "50%"}, UsageError, "`--ratio` and `--macs` both say how much goes"),
        ({"ratio": "100%"}, PlanError, "below 100 %"),
        ({"ratio": "2G"}, UsageError, "`--ratio 2G` is not a share"),
        ({"emb": "50%", "alpha": 0.3}, UsageError, "`--alpha 0.3` is not for `uniform`"),
        ({"emb": "50%", "method": "random", "criterion": "l1"}, UsageError, "`--method random` draws units"),
        ({"macs": "5ms"}, UsageError, "wrong unit"),
        ({"latency": "2G"}, UsageError, "wrong unit"),
        ({"emb": "100%"}, PlanError, "below 100 %"),
        ({"emb": "0"}, UsageError, "`--emb 0` is not a share"),
        ({"mlp": "20M"}, UsageError, "not a share"),
        ({"emb": "50%", "criterion": "lonely"}, UsageError, "unknown criterion `lonely`"),
        ({"emb": "50%", "criterion": "hessian"}, UsageError, "`hessian` needs labelled images"),
        ({"emb": "50%", "retrain": "ft"}, UsageError, "`--retrain ft` needs labelled images"),
        ({"emb": "50%", "widths": {"round": 4}}, UsageError, "`widths:` has no setting `round`"),
        ({"emb": "50%", "widths": {"ranking": "uniform"}}, UsageError, "no setting `ranking`"),
        ({"emb": "50%", "widths": {"rounding": "up"}}, UsageError, "`rounding` of `widths:`"),
        ({"emb": "50%", "widths": {"round_to": 0}}, UsageError, "`round_to` must be at least 1: 0"),
    ],
)
def test_goals_that_mean_nothing_are_said(adapted, tmp_path, settings, error, says):
    with pytest.raises(error, match=says):
        tailor.prune(adapted.bundle, out=tmp_path / "b", **{"method": "uniform", **settings})
    assert not (tmp_path / "b").exists()
