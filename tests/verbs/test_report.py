"""`tailor report`: a run's evidence says what its result said, and the page is made of it."""

import json
import shutil

import pytest
import yaml

import tailor
from tailor.bundle.evidence import read_evidence
from tailor.errors import UsageError
from tailor.workflow.evidence import spent
from tailor.workflow.opened import open_bundle


@pytest.fixture(scope="module")
def adapted(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "a"
    found = tailor.adapt(
        photos,
        model="tailor_mini_ti",
        method="spt-lora",
        budget="0.9%",
        epochs=2,
        batch_size=12,
        out=out,
        progress=None,
    )
    return out, found


@pytest.fixture(scope="module")
def pruned(adapted, photos, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tailor.workflow.prune.SECONDS", 0.2)
        out = tmp_path_factory.mktemp("runs") / "p"
        found = tailor.prune(
            adapted[0], data=photos, method="isomorphic", macs="60%", samples=12, out=out, progress=None
        )
    return out, found


def test_the_evidence_of_adapting_is_what_the_result_says(adapted):
    out, found = adapted
    made = read_evidence(out)
    assert made.score.after == found.accuracy and made.score.n == 12 and made.score.split == "test"
    assert sum(row[i] for i, row in enumerate(made.confusion)) == round(found.accuracy * 12)
    assert [one.epoch for one in made.epochs] == [1, 2] and made.chosen == found.epoch
    assert made.budget.cost == found.trainable_params
    assert sum(map(sum, made.budget.sensitivity)) == pytest.approx(1, abs=1e-3)
    assert sum(map(sum, made.budget.shares)) <= 1 + 1e-3
    plan = json.loads((out / "plan.json").read_text())["spec"]["plans"][0]
    assert sum(map(sum, made.budget.whole)) == len(plan["tunes"])
    assert made.costs.after.macs == tailor.bench(out, quick=True, progress=None).macs
    assert made.versions["tailor"] == tailor.__version__


def test_the_evidence_of_a_cut_is_what_the_result_says(pruned, adapted):
    out, found = pruned
    made = read_evidence(out)
    assert (made.score.before, made.score.cut, made.score.after) == (
        found.accuracy_before,
        found.accuracy_cut,
        found.accuracy_after,
    )
    assert made.score.repaired == found.accuracy_after != found.accuracy_cut  # closed form, nothing trained
    assert (made.costs.before.macs, made.costs.after.macs) == (found.macs_before, found.macs_after)
    assert (made.costs.ratio, made.seconds) == (found.throughput_ratio, round(found.seconds, 1))
    cuts = {
        c["group"]: len(c["keep"]) for c in json.loads((out / "bundle.json").read_text())["spec"]["plans"][-1]["cuts"]
    }
    assert {one.group: one.kept for one in made.network.widths} == cuts
    assert len(made.network.blocks) == found.blocks
    assert made.budget == read_evidence(adapted[0]).budget  # it is still known where the budget went


def test_the_command_in_the_evidence_makes_the_bundle_again(pruned, adapted, photos):
    asked = read_evidence(pruned[0]).asked
    assert (asked.verb, asked.words) == ("prune", (str(adapted[0]),))
    assert asked.flags == {"data": photos, "method": "isomorphic", "macs": "60%", "samples": 12}
    asked = read_evidence(adapted[0]).asked
    assert (asked.verb, asked.words) == ("adapt", (photos,))
    given = {"model": "tailor_mini_ti", "method": "spt-lora", "budget": "0.9%", "epochs": 2, "batch_size": 12}
    assert asked.flags == given and asked.sections == {}


def test_every_run_leaves_its_page_and_tells_hubs(pruned, adapted):
    for out, found in (adapted, pruned):
        page = (out / "report.html").read_text()
        assert str(out) in page and "://" not in page and "<img" not in page
        card = yaml.safe_load((out / "README.md").read_text().split("---\n")[1])
        score = getattr(found, "accuracy_after", None) or found.accuracy
        assert card["model-index"][0]["results"][0]["metrics"][0]["value"] == pytest.approx(score, abs=1e-6)


def test_a_report_sets_runs_side_by_side(pruned, adapted, tmp_path):
    made = tailor.report(pruned[0], adapted[0], out=tmp_path / "r.html", progress=None)
    page = (tmp_path / "r.html").read_text()
    assert made.bytes == len(page.encode()) and "Side by side" in page
    assert len(made.verdicts) == 2 and made.verdicts[1].endswith(": measured")
    assert all(one.rpartition(":")[0] in page for one in made.verdicts)
    with pytest.raises(UsageError, match="exists"):
        tailor.report(pruned[0], out=tmp_path / "r.html", progress=None)
    tailor.report(pruned[0], out=tmp_path / "r.html", overwrite=True, progress=None)
    with pytest.raises(UsageError, match="is not called"):
        tailor.report(pruned[0], out=tmp_path / "r.txt", progress=None)


def test_data_bring_pictures_and_exports_their_lights(adapted, photos, tmp_path):
    tailor.report(adapted[0], out=tmp_path / "r.html", data=photos, exports=True, progress=None)
    page = (tmp_path / "r.html").read_text()
    assert page.count("<img") == 12 and page.count("data:image/jpeg;base64,/9j/") == 12
    assert page.count('<li class="good">') == 2 and "torch.export" in page
    assert "://" not in page


def test_a_bundle_without_evidence_shows_what_it_says(adapted, tmp_path):
    shutil.copytree(adapted[0], tmp_path / "b")
    (tmp_path / "b" / "evidence.json").unlink()
    made = tailor.report(tmp_path / "b", out=tmp_path / "r.html", progress=None)
    assert f"{100 * adapted[1].accuracy:.1f}" in made.verdicts[0]


@pytest.mark.parametrize("figures", [{"n": "ten"}, {"n": -1}, {"macs": "x", "params": 1}, {"accuracy": 10**400}])
def test_a_strangers_figures_of_no_kind_are_left_out(adapted, tmp_path, figures):
    shutil.copytree(adapted[0], tmp_path / "b")
    (tmp_path / "b" / "evidence.json").unlink()
    manifest = json.loads((tmp_path / "b" / "bundle.json").read_text())
    manifest["metrics"] |= figures
    (tmp_path / "b" / "bundle.json").write_text(json.dumps(manifest))
    made = tailor.report(tmp_path / "b", out=tmp_path / "r.html", progress=None)
    assert made.verdicts[0].endswith(": measured")


def test_the_budget_names_layers_as_the_backbone_does(adapted):
    operations, _ = spent(open_bundle(str(adapted[0])))
    assert operations and not any("parametrizations" in name for name in operations)
