"""A palette on disk: whole or in part it computes what it did; what is missing, changed or of another is refused."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

import tiny
from tailor import backbones
from tailor.build import build
from tailor.bundle.files import sha256
from tailor.bundle.live import restore_palette
from tailor.bundle.palette import (
    BASE,
    BaseRef,
    RouteRecord,
    load_base_,
    read_base,
    read_palette,
    write_base,
    write_palette,
)
from tailor.bundle.read import read, read_manifest, restore
from tailor.bundle.verify import is_palette
from tailor.errors import BundleError, ModelError, PlanError
from tailor.palette import Palette, excerpt
from tailor.preprocessing import Preprocessing
from tailor.pruning.layers import LayerPlan
from tailor.spec import BackboneRef, Spec
from tailor.stitching.adapt import Adapt, adapt_, bias_plan, tune_plan
from tailor.stitching.join import shape_of
from tailor.stitching.plan import RouteBiasPlan
from tailor.stitching.routed import Routed
from tailor.stitching.space import Space, stitch_plan
from tailor.tasks.classification import ClassifierHead
from tailor.tuning.plan import TunePlan

HEAD, PRE = ClassifierHead(("a", "b", "c")), Preprocessing((64, 64))


def spec(name, weights="pretrained", plans=()):
    digest = backbones.digest(backbones.create(name)) if weights == "pretrained" else ""
    return Spec(BackboneRef(name, weights, digest), HEAD, PRE, plans)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A trained palette of three anchors, the last shortened and with tensors of its own, written to disk."""
    out = tmp_path_factory.mktemp("palettes") / "p"
    short = LayerPlan(tuple(range(4)), tuple(f"blocks.{i}" for i in range(4, 12)))
    specs = (spec("tailor_mini_ti"), spec("tailor_mini_s"), spec("tailor_mini_b", "random", (short,)))
    anchors = [build(one) for one in specs]
    tiny.shake_(anchors[2], 5)
    anatomies = [backbones.describe(anchor) for anchor in anchors]
    shapes = [shape_of(anchor, anatomy) for anchor, anatomy in zip(anchors, anatomies, strict=True)]
    plan = stitch_plan(shapes, Space(window=1))
    model = Routed(anchors, anatomies, plan).eval()
    tiny.shake_(model.layers, 4)
    tune, biases = tune_plan(model, Adapt()), bias_plan(model, Adapt())
    palette = Palette(specs, (False, False, True), plan, tune, biases)
    joints = list(zip(plan.layers, model.layers, strict=True))
    digest = write_base(out / BASE, specs, palette.stored, anchors, joints, {"images": 2})
    assert read_base(out / BASE, palette).facts == {"images": 2}
    adapt_(model, tune, biases)
    tiny.trained_(model, 6)
    records = [RouteRecord(route.name, 10, 20, 0) for route in plan.routes]
    write_palette(out, palette, model, BaseRef(BASE, digest), records, {"seconds": 1.0}, {})
    return out, palette, model.eval()


def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_what_is_read_is_what_was_written(made):
    out, palette, model = made
    found = read_palette(out)
    again, same = restore_palette(found)
    assert is_palette(out)
    assert same == palette == found.palette
    for number in range(len(palette.plan.routes)):
        assert_close(again.set_route_(number)(images()), model.set_route_(number)(images()), rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", ["0", "2", "0.5-1.5", "1.3-2.1"])
def test_a_route_alone_is_the_same_and_needs_no_other_anchor(made, name, monkeypatch):
    out, palette, model = made
    number = palette.plan.find(name)
    route = palette.plan.routes[number]
    made_of = []
    create = backbones.create
    monkeypatch.setattr(
        backbones, "create", lambda name, *rest, **more: made_of.append(name) or create(name, *rest, **more)
    )
    again, part = restore_palette(read_palette(out), (number,))
    assert made_of == [palette.anchors[leg.anchor].backbone.name for leg in route.legs]
    assert len(part.plan.routes) == 1
    assert len(again.layers) == len(route.layers)
    assert_close(again.set_route_(0)(images()), model.set_route_(number)(images()), rtol=0, atol=0)


def test_a_moved_base_is_named(made, tmp_path):
    out, *_ = made
    shutil.copytree(out, tmp_path / "p")
    shutil.move(tmp_path / "p" / BASE, tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="there is no stitch base"):
        read_palette(tmp_path / "p")
    assert read_palette(tmp_path / "p", tmp_path / "elsewhere").base.facts == {"images": 2}


def test_what_anchors_lack_here_is_fetched_with_leave_only(made, monkeypatch):
    def absent(name, weights):
        if weights == "pretrained":
            raise ModelError(f"`{name}` is not on this machine")
        return name, weights

    monkeypatch.setattr(backbones, "local", absent)
    with pytest.raises(ModelError, match="is not on this machine"):
        read(made[0], "0")
    assert read(made[0], "0", download=True).spec.backbone.name == "tailor_mini_ti"


def edited(folder, file, change):
    raw = json.loads((folder / file).read_text())
    change(raw)
    (folder / file).write_text(json.dumps(raw))


def test_strangers_files_are_refused(made, tmp_path):
    out, *_ = made

    def fresh(name):
        return shutil.copytree(out, tmp_path / name)

    with pytest.raises(BundleError, match="is a palette of several models"):
        read_manifest(out)
    with pytest.raises(PlanError, match="has no route `9`"):
        read(out, "9")
    folder = fresh("other-base")
    edited(folder / BASE, "base.json", lambda raw: raw["facts"].update(images=3))
    with pytest.raises(BundleError, match="not the one that"):
        read_palette(folder)
    folder = fresh("other-anchors")
    edited(folder / BASE, "base.json", lambda raw: raw["anchors"][0].__setitem__(1, "sha256:0"))
    with pytest.raises(BundleError, match="of other anchors"):
        read_palette(folder)
    folder = fresh("cut")
    data = (folder / BASE / "tensors.safetensors").read_bytes()
    (folder / BASE / "tensors.safetensors").write_bytes(data[:-8])
    with pytest.raises(BundleError, match="changed or cut short"):
        read_palette(folder)

    def elsewhere(raw):
        raw["palette"]["plan"]["routes"][0]["legs"][0].update(anchor=9)

    for name, change, message in [
        ("key", lambda raw: raw["palette"].update(extra=1), "not valid at `palette.extra`"),
        (
            "leg",
            lambda raw: raw["palette"]["plan"]["routes"][0]["legs"][0].update(anchor=9),
            "not valid|no route|anchor 9",
        ),
        ("layer", lambda raw: raw["palette"]["plan"]["routes"][-1].update(layers=[7000]), "no stitching layer 7000"),
        ("records", lambda raw: raw["routes"].pop(), "does not list the routes"),
        ("type", lambda raw: raw.update(routes="all"), "not valid at `routes`"),
    ]:
        folder = fresh(name)
        edited(folder, "bundle.json", change)
        with pytest.raises(BundleError, match=message):
            read_palette(folder)
    folder = fresh("site")
    edited(folder, "bundle.json", lambda raw: raw["palette"]["biases"]["sites"].append("anchors.0.head"))
    with pytest.raises(BundleError, match="lies in no block"):
        restore_palette(read_palette(folder))
    folder = fresh("rank")
    edited(folder, "bundle.json", lambda raw: raw["palette"]["tune"]["tunes"][0]["method"].update(rank=50_000))
    with pytest.raises(BundleError, match="stored numbers do not fit"):
        restore_palette(read_palette(folder))

    def wide(raw):
        raw["palette"]["plan"]["layers"][0].update(inputs=10**6, outputs=10**6)

    folder = fresh("wide")
    edited(folder, "bundle.json", wide)
    with pytest.raises(BundleError, match="of other anchors"):
        read_palette(folder)
    edited(folder / BASE, "base.json", lambda raw: raw["layers"][0].__setitem__(slice(2, 4), [10**6, 10**6]))
    edited(folder, "bundle.json", lambda raw: raw["base"].update(sha256=sha256(folder / BASE / "base.json")))
    with pytest.raises(BundleError, match="more than the base holds"):
        restore_palette(read_palette(folder))


def test_contradictions_are_refused(made):
    _, palette, _ = made
    other = Spec(palette.anchors[1].backbone, ClassifierHead(("x", "y")), PRE)
    with pytest.raises(PlanError, match="have other classes or images"):
        Palette((palette.anchors[0], other), (False, False), palette.plan, TunePlan("pst"), RouteBiasPlan(()))
    with pytest.raises(PlanError, match="anchor 2 of 2"):
        Palette(palette.anchors[:2], (False, False), palette.plan, TunePlan("pst"), RouteBiasPlan(()))


def test_an_excerpt_names_tensors_of_the_whole(made):
    _, palette, _ = made
    number = palette.plan.find("1.3-2.1")
    part = excerpt(palette, (number,))
    assert part.anchors == (1, 2)
    assert part.whole("anchors.0.blocks.3.attn.qkv.up") == "anchors.1.blocks.3.attn.qkv.up"
    assert part.whole("layers.0.down") == f"layers.{palette.plan.routes[number].layers[0]}.down"
    assert part.whole("biases.0") == f"biases.{number}"


@torch.no_grad()
def test_a_palette_read_as_a_bundle_is_one_of_its_routes(made):
    out, palette, model = made
    for name, expected in (("0.5-1.5", "0.5-1.5"), (None, palette.plan.routes[0].name)):
        found = read(out, name)  # none is deployed and all cost the same: the first stands for all
        plain = restore(found)
        assert found.manifest.metrics["route"] == expected
        route = model.set_route_(palette.plan.find(expected))
        assert_close(plain(images()), route(images()), rtol=0, atol=1e-5)


def test_a_base_serves_another_task(made):
    out, palette, _ = made
    base = read_base(out / BASE, palette)
    anchors = [build(one) for one in palette.anchors]
    model = Routed(anchors, [backbones.describe(a) for a in anchors], palette.plan)
    load_base_(model, out / BASE, base)
    assert sha256(out / BASE / "base.json") == read_palette(out).manifest.base.sha256
    fresh = {n: t.clone() for n, t in model.layers.state_dict().items()}
    again, _ = restore_palette(read_palette(out))
    assert_close(again.layers[0].base.weight, fresh["0.weight"], rtol=0, atol=0)


def test_anchors_of_a_stranger_are_looked_for_on_this_machine(made, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("timm.create_model", lambda *name, **more: pytest.fail(f"{name} was asked for"))
    found = read_palette(made[0])
    for name, weights in (("resnet18", "pretrained"), ("hf-hub:evil/beacon", "random")):
        anchors = tuple(
            replace(one, backbone=replace(one.backbone, name=name, weights=weights)) for one in found.palette.anchors
        )
        with pytest.raises(ModelError, match="would be fetched"):
            restore_palette(replace(found, palette=replace(found.palette, anchors=anchors)))
