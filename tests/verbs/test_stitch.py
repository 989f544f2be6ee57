"""From photos to a palette, and from the palette to an ordinary bundle: what the two verbs promise."""

import json

import pytest
import torch
from torch.testing import assert_close

import tailor
from tailor.bundle.evidence import read_evidence
from tailor.bundle.live import restore_palette
from tailor.bundle.palette import read_palette
from tailor.errors import BundleError, PlanError, TailorError, UsageError
from tailor.workflow import routes
from tailor.workflow.pick import choose
from tailor.workflow.wanted import Wanted

MODELS = "tailor_mini_ti,tailor_mini_s"


@pytest.fixture(scope="module")
def made(photos, tmp_path_factory):
    """A palette of two minis, all routes measured, every latency counted instead of timed."""
    out = tmp_path_factory.mktemp("stitched") / "p"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routes, "milliseconds", lambda model, spec: 1.0)
        found = tailor.stitch(
            photos,
            models=MODELS,
            window=1,
            intervals=4,
            samples=6,
            epochs=2,
            batch_size=8,
            evaluate_routes=True,
            out=out,
            progress=None,
        )
    return out, found


def test_the_result_says_what_was_made(made):
    out, found = made
    assert found.bundle == str(out)
    assert [r.route for r in found.routes[:3]] == ["0", "1", "0.1-1.1"]
    assert all(r.accuracy is not None and r.latency_ms for r in found.routes)
    assert found.deployed == sum(r.deployed for r in found.routes) == len({r.interval for r in found.routes})
    assert sum(r.visits for r in found.routes) == 6
    assert found.routes[0].macs < found.routes[1].macs
    assert 0 < found.trainable_percent < 40
    assert json.loads((out / "bundle.json").read_text())["kind"] == "palette"
    page = (out / "report.html").read_text()
    assert "://" not in page  # nothing from a network
    assert all(f'data-name="{r.route}"' in page for r in found.routes)
    assert f"tailor pick {out} --route 0.1-1.1 -o runs/picked" in page
    evidence = read_evidence(out)
    assert [one.scores for one in evidence.candidates] == [{"accuracy": r.accuracy} for r in found.routes]
    assert (out / "palette.png").stat().st_size > 10_000


@torch.no_grad()
@pytest.mark.parametrize("name", ["0", "0.4-1.4"])
def test_a_pick_is_an_ordinary_bundle_that_computes_the_route(made, name, tmp_path, monkeypatch):
    out, found = made
    monkeypatch.setattr("tailor.workflow.routes.SECONDS", 0.05)
    picked = tailor.pick(out, route=name, out=tmp_path / "c", progress=None)
    assert picked.route == name
    assert picked.latency_ms > 0
    model, part = restore_palette(read_palette(out))
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    plain = tailor.load(tmp_path / "c")
    assert type(plain).__name__ == "VisionTransformer"
    assert_close(plain(x), model.set_route_(part.plan.find(name))(x), rtol=0, atol=1e-5)
    record = next(r for r in found.routes if r.route == name)
    assert sum(p.numel() for p in plain.parameters()) == record.params == picked.params
    assert tailor.bench(tmp_path / "c", quick=True, progress=None).macs == record.macs


def test_a_pick_is_measured_as_its_route_was(made, photos, tmp_path, monkeypatch):
    out, _found = made
    monkeypatch.setattr("tailor.workflow.routes.SECONDS", 0.05)
    picked = tailor.pick(out, macs="100%", out=tmp_path / "c", progress=None)
    assert tailor.evaluate(tmp_path / "c", photos, progress=None).accuracy == pytest.approx(picked.accuracy)


def test_a_palette_is_used_as_one_of_its_routes(made, photos, tmp_path):
    out, found = made
    known = {r.route: r.accuracy for r in found.routes}
    assert tailor.evaluate(out, photos, route="0.4-1.4", progress=None).accuracy == pytest.approx(known["0.4-1.4"])
    file = f"{photos}/test/red/0.png"
    (one,) = tailor.predict(out, file, route="1", progress=None)
    assert one.label in ("red", "green", "blue")
    made_of = tailor.export(out, out=tmp_path / "route.onnx", route="0.4-1.4", progress=None)
    assert made_of.difference < 1e-4
    with pytest.raises(PlanError, match="has no route `7`"):
        tailor.evaluate(out, photos, route="7", progress=None)
    tailor.pick(out, route="0", out=tmp_path / "c", progress=None)
    with pytest.raises(BundleError, match="is one model and has no routes"):
        tailor.predict(tmp_path / "c", file, route="0", progress=None)


def test_what_is_asked_chooses_the_route(made):
    out, _ = made
    found = read_palette(out)
    records = found.manifest.routes
    deployed = [n for n, r in enumerate(records) if r.deployed]
    told = []
    assert records[choose(found, Wanted(), told.append)].macs == max(records[n].macs for n in deployed)
    half = choose(found, Wanted(macs="60%"), told.append)
    assert records[half].deployed
    assert records[half].macs <= 0.6 * max(r.macs for r in records)
    least = choose(found, Wanted(accuracy=0.01), told.append)
    assert records[least].macs == min(r.macs for r in records if r.accuracy >= 0.01)
    assert not told
    choose(found, Wanted(macs="9G"), told.append)
    assert "the dearest is taken" in told[0].text


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"macs": "1M"}, "below the cheapest deployed route"),
        ({"accuracy": 1.0}, "no route reaches an accuracy of 1"),
        ({"route": "5"}, "has no route `5`"),
        ({"macs": "5ms"}, "wrong unit"),
        ({"latency": "2G"}, "wrong unit"),
        ({"macs": "50%", "route": "0"}, "both choose"),
        ({"accuracy": 80}, "is no share"),
    ],
)
def test_a_pick_that_cannot_be_is_refused(made, wanted, message, tmp_path):
    out, found = made
    if wanted == {"accuracy": 1.0} and max(r.accuracy for r in found.routes) == 1.0:
        pytest.skip("a route is perfect on three flat colours")
    with pytest.raises(TailorError, match=message):
        tailor.pick(out, out=tmp_path / "c", progress=None, **wanted)


def test_a_finished_run_says_so_and_another_request_is_refused(made, photos):
    out, found = made
    same = {"models": MODELS, "window": 1, "intervals": 4, "samples": 6, "epochs": 2, "batch_size": 8}
    again = tailor.stitch(photos, out=out, resume=True, progress=None, **same)
    assert again == found
    with pytest.raises(BundleError, match="begun with another space"):
        tailor.stitch(photos, out=out, resume=True, progress=None, **{**same, "window": 2})


def test_a_base_is_shared(made, photos, tmp_path):
    out, _found = made
    settings = {"window": 1, "intervals": 4, "epochs": 1, "batch_size": 24, "base": out / "base"}
    other = tailor.stitch(photos, models=MODELS, out=tmp_path / "q", progress=None, mode="sn-net", **settings)
    assert not (tmp_path / "q" / "base").exists()
    assert other.trainable_percent > 100  # stitching layers come on top of all of the anchors
    with pytest.raises(BundleError, match="of other anchors"):
        settings["base"] = out / "base"
        tailor.stitch(photos, models="tailor_mini_s,tailor_mini_b", out=tmp_path / "r", progress=None, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"models": "tailor_mini_s"}, "two anchors or more"),
        ({"models": "tailor_mini_s,tailor_mini_s"}, "named twice"),
        ({"models": MODELS, "ranks": "a,b"}, "no whole numbers"),
        ({"models": MODELS, "ranks": "2"}, "1 ranks were given for 2 anchors"),
        ({"models": MODELS, "intervals": 400}, "400 intervals are more than"),
        ({"models": MODELS, "samples": 0}, "leaves nothing to solve on"),
        ({"models": MODELS, "recipe": {"precision": "fp16"}}, "two losses"),
        ({"models": MODELS, "ssb": "value"}, "no layer is called value"),
    ],
)
def test_what_makes_no_palette_is_refused(photos, tmp_path, settings, message):
    with pytest.raises(TailorError, match=message):
        tailor.stitch(photos, out=tmp_path / "p", progress=None, samples=settings.pop("samples", 2), **settings)


def test_usage_is_told_before_anything_is_written(photos, tmp_path):
    with pytest.raises(UsageError):
        tailor.stitch(photos, models="tailor_mini_s", out=tmp_path / "p", progress=None)
    assert not (tmp_path / "p").exists()


@pytest.fixture(scope="module")
def sizes(photos, tmp_path_factory):
    """A nested palette of one mini, all sizes measured."""
    out = tmp_path_factory.mktemp("nested") / "p"
    settings = {"models": "tailor_mini_ti", "kind": "nested", "intervals": 3, "samples": 12, "epochs": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routes, "milliseconds", lambda model, spec: 1.0)
        found = tailor.stitch(photos, batch_size=8, evaluate_routes=True, out=out, progress=None, **settings)
    return out, found, settings


def test_a_nested_palette_is_picked_from_alike(sizes, photos, tmp_path, monkeypatch):
    out, found, settings = sizes
    monkeypatch.setattr("tailor.workflow.pick.milliseconds", lambda model, spec: 2.5)
    assert [r.route for r in found.routes] == ["100%", "30%", "65%"]
    assert found.routes[1].macs <= 0.3 * found.routes[0].macs < found.routes[2].macs <= 0.65 * found.routes[0].macs
    assert all(r.accuracy is not None and r.visits for r in found.routes)
    assert found.deployed == 3
    picked = tailor.pick(out, macs="40%", out=tmp_path / "c", progress=None)
    assert picked.route == "30%"
    assert tailor.evaluate(tmp_path / "c", photos, progress=None).accuracy == pytest.approx(picked.accuracy)
    assert tailor.bench(tmp_path / "c", quick=True, progress=None).macs == picked.macs
    whole = tailor.evaluate(out, photos, progress=None)
    assert whole.accuracy == pytest.approx(found.routes[0].accuracy)
    assert tailor.stitch(photos, batch_size=8, out=out, resume=True, progress=None, **settings) == found
    with pytest.raises(BundleError, match="begun with another rank"):
        tailor.stitch(photos, batch_size=8, out=out, resume=True, progress=None, ranks="4", **settings)


def test_a_nested_palette_has_one_anchor(photos, tmp_path):
    with pytest.raises(UsageError, match="has one anchor, found 2"):
        tailor.stitch(photos, models=MODELS, kind="nested", out=tmp_path / "p", progress=None)
