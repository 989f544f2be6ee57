"""Pruning in steps, and resumed: where the steps end, what they pass over, and what a resumed run must ask."""

import importlib
import json
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import timm
from timm.models import register_model

import tailor
from tailor import bundle
from tailor.cli import show
from tailor.errors import BundleError, PlanError
from tailor.workflow.smaller import smaller

VERB, REACHING = (importlib.import_module(f"tailor.workflow.{name}") for name in ("prune", "counts"))
SHORT = {"epochs": 1, "batch_size": 12}
pytestmark = pytest.mark.usefixtures("hurried")


@register_model
def tailor_test_shallow(pretrained=False, **settings):
    """A ViT of two blocks, 64 wide, with four heads."""
    small = {"embed_dim": 64, "depth": 2, "num_heads": 4, "patch_size": 8, "img_size": 32, "mlp_ratio": 1}
    return timm.create_model("vit_tiny_patch16_224", **{**small, **settings})


@pytest.fixture(scope="module")
def adapted(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "a"
    made = {"model": "tailor_test_shallow", "weights": "random", "image_size": 32, "method": "lora-2"}
    return tailor.adapt(photos, out=out, **made, **SHORT).bundle


def cut(name, out, **settings):
    """A cut that needs no data, unless told."""
    return tailor.prune(name, out=out, **{"method": "uniform", "criterion": "l1", **settings})


def sizes(path):
    model = tailor.load(path)
    blocks = [(b.attn.num_heads, b.attn.head_dim, b.mlp.fc1.out_features) for b in model.blocks]
    return model.num_features, *blocks


@pytest.mark.parametrize("steps", [2, 5])
def test_shares_in_steps_end_where_one_cut_does(adapted, tmp_path, steps):
    shares = {"emb": "25%", "mlp": "20%", "heads": "50%"}
    once = cut(adapted, tmp_path / "1", **shares)
    made = cut(adapted, tmp_path / "k", steps=steps, recover=0, **shares)
    assert sizes(made.bundle) == sizes(once.bundle) == (48, (2, 16, 48), (2, 16, 48))
    assert (made.macs_before, made.macs_after, made.steps) == (once.macs_before, once.macs_after, steps)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_share_of_zero_leaves_a_part_alone(adapted, tmp_path, steps):
    settings = {"steps": steps, "recover": 0} if steps > 1 else {}
    made = cut(adapted, tmp_path / "b", ratio="50%", heads="0%", **settings)
    assert sizes(made.bundle) == (32, (4, 16, 32), (4, 16, 32))


def test_kept_tunes_shrink_in_steps_to_what_one_cut_leaves(adapted, tmp_path):
    shares = {"mlp": "25%", "adapters": "prune", "widths": {"round_to": 2}}
    once = cut(adapted, tmp_path / "1", **shares)
    made = cut(adapted, tmp_path / "k", steps=3, recover=0, **shares)
    plans = [bundle.read(run.bundle).spec.tuning for run in (once, made)]
    assert plans[0] == plans[1] and sizes(made.bundle) == sizes(once.bundle)


def test_a_step_that_removes_nothing_trains_nothing(adapted, photos, tmp_path):
    settings = {"data": photos, "heads": "50%", "steps": 4, "recover": 1, "batch_size": 12}
    made = cut(adapted, tmp_path / "s", **settings)
    steps = [tmp_path / "s" / "steps" / str(k) for k in (1, 2, 3)]
    left = [sizes(step)[1][0] for step in steps]
    trained = [(step / "metrics.jsonl").is_file() for step in steps]
    assert left == [3, 2, 2] and trained == [True, True, False]  # of four heads
    assert sizes(made.bundle) == sizes(steps[2])


def test_steps_that_remove_nothing_at_all_are_said(adapted, tmp_path):
    with pytest.raises(PlanError, match="nothing is left to go"):
        cut(adapted, tmp_path / "s", mlp="1%", steps=2, recover=0)
    assert not (tmp_path / "s" / "bundle.json").exists()
    with pytest.raises(PlanError, match="is not below what the model has"):
        cut(adapted, tmp_path / "t", params="100%", steps=2, recover=0)


class Clock:
    """Milliseconds that fall as MACs do, but in few jumps, so that a step may end far below its target."""

    def __init__(self, monkeypatch):
        self.macs, self.timed = REACHING.macs, []
        monkeypatch.setattr(REACHING, "latency", self)

    def __call__(self, model, inputs, **_):
        macs = self.macs(model, inputs)
        self.timed.append(macs)
        share = macs / max(self.timed)
        return SimpleNamespace(median=next(ms for least, ms in ((0.8, 10), (0.4, 5), (0, 2)) if share > least))


def test_milliseconds_in_steps_pass_over_what_is_met_and_resume(adapted, tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    settings = {"latency": "4ms", "steps": 4, "recover": 0}
    made = cut(adapted, tmp_path / "s", **settings)  # steps to 8.0, 6.3, 5.0 and 4 ms; the first ends at 5
    left = [tailor.inspect(str(tmp_path / "s/steps" / str(k)))["metrics"]["macs_after"] for k in (1, 2, 3)]
    assert left[0] == left[1] == left[2] > made.macs_after
    assert clock.timed.count(made.macs_before) == 2  # before the first step, and by its search
    for name in ("bundle.json", "plan.json"):
        (tmp_path / "s" / name).unlink()
    clock.timed = [made.macs_before]
    again = cut(adapted, tmp_path / "s", resume=True, **settings)
    assert clock.timed.count(made.macs_before) == 1 and sizes(again.bundle) == sizes(made.bundle)
    assert again.macs_before == made.macs_before


def test_milliseconds_are_reported_where_they_were_asked_for(adapted, tmp_path, monkeypatch, capsys):
    Clock(monkeypatch)
    made = cut(adapted, tmp_path / "l", latency="6ms")
    assert made.latency_ms_before > 0 and made.latency_ms_after > 0
    again = cut(adapted, tmp_path / "l", latency="6ms", resume=True)
    assert (again.latency_ms_before, again.latency_ms_after) == (made.latency_ms_before, made.latency_ms_after)
    show.print_people("prune", made)
    show.print_json("prune", made)
    table, _, told = capsys.readouterr().out.rstrip().rpartition("\n")
    assert "latency ms before" in table and json.loads(told)["latency_ms_after"] == made.latency_ms_after
    show.print_people("prune", replace(made, latency_ms_before=math.nan, latency_ms_after=math.nan))
    assert "latency" not in capsys.readouterr().out


@pytest.fixture(scope="module")
def begun(adapted, tmp_path_factory):
    """A run without data, finished."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VERB, "SECONDS", 0.2)
        return cut(adapted, tmp_path_factory.mktemp("run") / "b", mlp="50%", steps=2, recover=0)


def test_a_finished_run_without_data_says_again_what_it_said(begun, adapted):
    again = cut(f"{adapted}/", begun.bundle, mlp="50%", steps=2, recover=0, resume=True)  # as a shell completes it
    first, second = (show.as_values(run) | {"seconds": 0} for run in (begun, again))
    assert first == second and again.steps == 2 and again.accuracy_after != again.accuracy_after


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"method": "isomorphic"}, "`method`: uniform"),
        ({"mlp": "60%"}, "`mlp`: 50%"),
        ({"mlp": None, "macs": "50%"}, "`macs`: none"),
        ({"emb": "50%"}, "`emb`: none"),
        ({"criterion": "l2"}, "`criterion`: l1"),
        ({"seed": 1}, "`seed`: 0"),
        ({"widths": {"round_to": 4}}, "`widths`: {'ranking': 'uniform'}"),
        ({"adapters": "keep"}, "`adapters`: merge"),
        ({"steps": 3}, "`steps`: 2"),
        ({"steps": 1, "recover": None}, "`steps`: 2"),
        ({"data": "builtin/digits"}, "`data`: none"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])  # an unfinished one has its first step
def test_a_run_is_resumed_with_what_began_it(begun, adapted, tmp_path, changed, says, finished):
    shutil.copytree(begun.bundle, tmp_path / "b")
    if not finished:
        for name in ("bundle.json", "plan.json"):
            (tmp_path / "b" / name).unlink()
    settings = {"mlp": "50%", "steps": 2, "recover": 0, **changed}
    with pytest.raises(BundleError, match=f"was begun with another {says}") as told:
        cut(adapted, tmp_path / "b", resume=True, **settings)
    assert "--overwrite" in told.value.hint


def test_what_no_pruning_wrote_is_not_resumed(adapted, tmp_path):
    merged = tailor.merge(adapted, out=tmp_path / "m").bundle
    with pytest.raises(BundleError, match="no pruning wrote it"):
        cut(adapted, merged, mlp="50%", resume=True)


def test_steps_of_another_run_are_replaced(adapted, tmp_path):
    first = cut(adapted, tmp_path / "s", mlp="50%", steps=2, recover=0)
    again = cut(adapted, tmp_path / "s", mlp="25%", steps=2, recover=0, overwrite=True)
    assert sizes(first.bundle) == sizes(again.bundle) == (64, (4, 16, 48), (4, 16, 48))
    assert sizes(tmp_path / "s/steps/1")[1] == (4, 16, 56)


def test_every_process_takes_what_the_main_one_decided(adapted, tmp_path, monkeypatch):
    theirs = cut(adapted, tmp_path / "main", mlp="50%", criterion="random", seed=1)
    seen = []

    class Second:
        """A process beside one that has written its plan, and in the end its bundle, when this one has waited."""

        is_main_process = False

        def wait_for_everyone(self):
            shutil.copytree(theirs.bundle, tmp_path / "b", dirs_exist_ok=True)

    monkeypatch.setattr(VERB, "processes_here", Second)
    monkeypatch.setattr(VERB, "write_bundle", lambda *_: None)
    monkeypatch.setattr(
        VERB, "smaller", lambda dense, spec, decision, **k: seen.append(spec) or smaller(dense, spec, decision, **k)
    )
    cut(adapted, tmp_path / "b", mlp="50%", criterion="random", seed=2)
    assert seen[-1].pruning == bundle.read(theirs.bundle).spec.pruning != seen[0].pruning
