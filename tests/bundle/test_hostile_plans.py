"""Plans from files that nobody made: each is refused with a sentence, before memory is taken or anything runs."""

import json
import os
import shutil
import time

import pytest
import torch
from torch import nn

import tailor
from bundle.made import spec_and_model
from tailor import bundle
from tailor.bundle.manifest import MOST_PLANS
from tailor.errors import BundleError, PlanError, TailorError
from tailor.pruning.layers import LayerPlan, apply_layers_
from tailor.strangers import DEEPEST, LARGEST, MOST_PARTS
from tailor.tracing import Cut, WidthPlan, cut_
from tailor.tracing.widths.layout import parse
from tailor.tracing.widths.plan import Recorded, Replay, Rescale, Setting, Slice


class Net(nn.Module):
    """Two linear layers with six hidden units, and an attribute that follows them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.width = nn.Linear(4, 6), nn.Linear(6, 2), 6
        self.sizes, self.flag, self.rate = (6, 4), True, 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x))


SLICES = (Slice("a.weight", ("h", "4")), Slice("a.bias", ("h",)), Slice("b.weight", ("2", "h")))


def plan(**changes) -> WidthPlan:
    return WidthPlan(**{"cuts": (Cut("h", 6, (0, 2, 5)),), "slices": SLICES, **changes})


def refused(model: nn.Module, wrong: WidthPlan, says: str) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(PlanError, match=says):
        cut_(model, wrong)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_plan_that_the_others_differ_from_cuts():
    assert cut_(Net(), plan(settings=(Setting("", "width", 3),))).a.weight.shape == (3, 4)


@pytest.mark.parametrize(
    ("method", "change"),
    [
        ("adapter", lambda tune: tune["geometry"].update(width=60_000)),
        ("adapter", lambda tune: tune["method"].update(width=1 << 16)),
        ("lora", lambda tune: tune["method"].update(rank=1 << 16)),
        ("mlp", lambda tune: tune["method"].update(layers=1 << 16)),
    ],
)
def test_modules_larger_than_what_is_stored_are_never_made(tmp_path, method, change):
    spec, model = spec_and_model(method)
    out = bundle.write(tmp_path / "b", spec, bundle.state(model, False), complete=False, metrics={}, provenance={})
    manifest = json.loads((out / "bundle.json").read_text())
    change(manifest["spec"]["plans"][0]["tunes"][0])
    (out / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="do not fit the plan"):
        tailor.load(out)


HUGE = 10**12
WRONG = {
    "a group of a size that no memory holds": ({"cuts": (Cut("h", HUGE, (0,)),)}, "shape"),
    "such a group that lies nowhere": ({"cuts": (Cut("h", 6, (0,)), Cut("x", HUGE, (0,)))}, "no tensor holds"),
    "such a group times zero": (
        {"cuts": (Cut("h", 6, (0,)), Cut("x", HUGE, (0,))), "slices": (*SLICES, Slice("b.bias", ("0*x + 2",)))},
        "does not fit",
    ),
    "a group that is not cut": ({"slices": (Slice("a.weight", ("y", "4")),)}, "not cut: `y`"),
    "a group twice": ({"cuts": (Cut("h", 6, (0,)), Cut("h", 6, (1,)))}, "twice"),
    "a tensor twice": ({"slices": (*SLICES, SLICES[0])}, "twice"),
    "a tensor that is not there": ({"slices": (*SLICES, Slice("c.weight", ("h",)))}, "no tensor `c.weight`"),
    "another rank": ({"slices": (Slice("a.weight", ("h",)),)}, "shape"),
    "a number of many digits": ({"slices": (Slice("a.weight", ("9" * 5000, "4")),)}, "not a layout"),
    "brackets without end": ({"slices": (Slice("a.weight", ("(" * 5000 + "h" + ")" * 5000, "4")),)}, "not a layout"),
    "code for a layout": ({"slices": (Slice("a.weight", ("__import__('os')", "4")),)}, "not cut: `__import__`"),
    "a method for an attribute": ({"settings": (Setting("", "forward", 3),)}, "missing"),
    "the class": ({"settings": (Setting("", "__class__", 3),)}, "missing"),
    "its tables": ({"settings": (Setting("", "_parameters", 3),)}, "is a dict"),
    "a flag": ({"settings": (Setting("", "training", 1),)}, "is a bool"),
    "a size that grows": ({"settings": (Setting("", "width", HUGE),)}, "the plan sets it to: 1000000000000"),
    "a size below one": ({"settings": (Setting("", "width", -1),)}, "the plan sets it to: -1"),
    "a list of another length": ({"settings": (Setting("", "sizes", (3,)),)}, "the plan sets it to"),
    "an attribute twice": ({"settings": (Setting("", "width", 3), Setting("", "width", 2))}, "twice"),
    "a module that is not there": ({"settings": (Setting("os", "width", 3),)}, "no module `os`"),
    "rows that are not there": ({"rescales": (Rescale("a.weight", ((0, 7),), 0.5),)}, "has 6 rows"),
    "rows twice": ({"rescales": (Rescale("a.weight", ((0, 4), (2, 6)), 0.5),)}, "has 6 rows"),
    "rows from the end": ({"rescales": (Rescale("a.weight", ((-3, 2),), 0.5),)}, "has 6 rows"),
    "a factor below zero": ({"rescales": (Rescale("a.weight", ((0, 2),), -1.0),)}, "factor"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_width_plan_that_does_not_fit_is_refused_whole(what):
    changes, says = WRONG[what]
    refused(Net(), plan(**changes), says)


X = {"value": 0}


def call(operator: str, *args: object, **kwargs: object) -> Recorded:
    return Recorded(operator, args, kwargs)


CALLS = {
    "an operator without a rule": (call("from_file.default", "/etc/passwd"), "no operator known"),
    "an attribute of the table": (call("__class__.default", X), "no operator known"),
    "another name space": (call("os.system", "true"), "no operator known"),
    "no such overload": (call("relu.__init__", X), "no operator known"),
    "an argument it does not take": (call("relu.default", X, out=X), "does not take"),
    "too many arguments": (call("relu.default", X, X, X), "does not take"),
    "memory without end": (call("zeros.default", [HUGE, HUGE]), "asks for"),
    "a NaN": (call("add.Scalar", X, float("nan")), "NaN"),
    "a method for a tensor": (call("relu.default", {"tensor": "forward"}), "no tensor of its module"),
    "globals for a tensor": (call("relu.default", {"tensor": "__init__.__globals__"}), "no tensor of its module"),
    "a value before the first": (call("relu.default", {"value": -1}), "refers to no value"),
    "a number as a string": (call("relu.default", {"value": "0"}), "refers to no value"),
    "half a part": (call("relu.default", {"part": [0]}), "refers to no value"),
    "an unknown type": (call("to.dtype", X, {"dtype": "torch.os"}), "no type known"),
    "an unknown kind": (call("relu.default", {"call": "os.system"}), "unknown kind"),
    "two kinds at once": (call("relu.default", {"value": 0, "tensor": "a"}), "unknown kind"),
    "lists in lists in lists": (call("cat.default", [[[[[[X]]]]]]), "too deep"),
}


@pytest.mark.parametrize("what", CALLS)
def test_a_recorded_call_is_refused_before_it_runs(what):
    step, says = CALLS[what]
    refused(Net(), plan(replays=(Replay("a", (step,), ({"value": 1},), True),)), says)


def test_a_recording_of_the_whole_model_or_of_nothing_is_refused():
    for module in ("", "os", "a.weight"):
        refused(Net(), plan(replays=(Replay(module, (), (X,), True),)), "no module")


def test_a_value_that_was_never_made_is_a_sentence_when_it_is_asked_for():
    model = cut_(Net(), plan(replays=(Replay("a", (), ({"value": 7},), True),)))
    with pytest.raises(PlanError, match="refers to value 7 of 1"):
        model(torch.zeros(1, 4))


def test_a_long_layout_is_read_in_no_time():
    began = time.process_time()
    parse("+".join(["1"] * 30_000))
    with pytest.raises(PlanError):
        parse("1+" * 10_000_000)
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("dropped", "says"), [(("blocks.0",) * 2, "twice"), (("blocks.0", "blocks.²"), "not a block|no module")]
)
def test_a_layer_plan_drops_each_block_once_and_blocks_only(dropped, says):
    model = nn.ModuleDict({"blocks": nn.ModuleList(nn.Linear(1, 1) for _ in range(4))})
    with pytest.raises(PlanError, match=says):
        apply_layers_(model, LayerPlan(kept=(0, 1), dropped=dropped))


WIDTH = {"kind": "width", "cuts": [], "slices": []}
SPECS = {
    "numbers as strings": [{**WIDTH, "cuts": [{"group": "h", "size": "6", "keep": [0]}]}],
    "units twice": [{**WIDTH, "cuts": [{"group": "h", "size": 6, "keep": [0, 0]}]}],
    "units unsorted": [{**WIDTH, "cuts": [{"group": "h", "size": 6, "keep": [3, 1]}]}],
    "units below zero": [{**WIDTH, "cuts": [{"group": "h", "size": 6, "keep": [-1, 1]}]}],
    "units out of range": [{**WIDTH, "cuts": [{"group": "h", "size": 6, "keep": [6]}]}],
    "no units": [{**WIDTH, "cuts": [{"group": "h", "size": 6, "keep": []}]}],
    "true for a number": [{**WIDTH, "cuts": [{"group": "h", "size": True, "keep": [0]}]}],
    "NaN for a factor": [{**WIDTH, "rescales": [{"tensor": "a", "ranges": [[0, 1]], "factor": float("nan")}]}],
    "infinity for a value": [{**WIDTH, "settings": [{"module": "", "attribute": "scale", "value": float("inf")}]}],
    "an unknown key": [{**WIDTH, "import": "os"}],
    "an unknown kind": [{"kind": "pickle", "cuts": []}],
    "thousands of plans": [WIDTH] * (MOST_PLANS + 1),
    "a rank without end": [
        {
            "kind": "tune",
            "method": "lora",
            "tunes": [{"site": "blocks.0.attn.qkv", "method": {"kind": "lora", "rank": HUGE}}],
        }
    ],
    "entries below zero": [{"kind": "tune", "method": "x", "entries": [{"tensor": "head.weight", "indices": [-1]}]}],
    "a list named by a list": [{**WIDTH, "cuts": {"tensor": [], "sha256": ""}}],
    "blocks that are not there": [{"kind": "layers", "kept": [0, 99], "dropped": ["blocks.1"]}],
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("hostile") / "b"
    spec, model = spec_and_model()
    bundle.write(out, spec, bundle.state(model, False), complete=False, metrics={}, provenance={})
    return out, json.loads((out / "bundle.json").read_text())


@pytest.mark.parametrize("what", SPECS)
def test_a_spec_that_nobody_made_is_refused_when_it_is_read(written, what):
    out, manifest = written
    spec = {**manifest["spec"], "plans": SPECS[what]}
    (out / "bundle.json").write_text(json.dumps({**manifest, "spec": spec}))
    with pytest.raises(BundleError) as caught:
        bundle.read(out)
    assert len(caught.value.message) < 300 and caught.value.hint


def test_images_without_end_are_refused(written):
    out, manifest = written
    for part, change in (("preprocessing", {"size": [HUGE, HUGE]}), ("backbone", {"image_size": HUGE})):
        spec = {**manifest["spec"], part: {**manifest["spec"][part], **change}}
        (out / "bundle.json").write_text(json.dumps({**manifest, "spec": spec}))
        with pytest.raises(BundleError, match="pixels"):
            bundle.read(out)


NAN, INF = float("nan"), float("inf")
OUT_OF_RANGE = {
    "a mean that is no number": {"preprocessing": {"mean": [NAN, 0.5, 0.5]}},
    "a mean without end": {"preprocessing": {"mean": [0.5, INF, 0.5]}},
    "a deviation that is no number": {"preprocessing": {"std": [NAN, 0.5, 0.5]}},
    "a deviation of zero": {"preprocessing": {"std": [0.5, 0.5, 0.0]}},
    "a deviation that makes infinite pixels": {"preprocessing": {"std": [0.5, 0.5, 1e-300]}},
    "a crop that resizes to a million pixels": {"preprocessing": {"crop_pct": 1e-6}},
    "a crop that is no number": {"preprocessing": {"crop_pct": NAN}},
    "an image of no pixel": {"preprocessing": {"size": [0, 64]}},
    "a seed below zero": {"backbone": {"seed": -1}},
    "a seed of many digits": {"head": {"seed": 1 << 64}},
    "a seed with a fraction": {"head": {"seed": 1.5}},
    "two classes of one name": {"head": {"classes": ["ash", "birch", "ash"]}},
    "a classifier of one class": {"head": {"classes": ["ash"]}},
}
SETTINGS = {
    "alpha": [NAN, INF, -1.0, 1e30],
    "dropout": [NAN, -0.1, 1.0, 2.0],
    "drop_path": [NAN, 1.0],
    "rank": [-1, 1 << 20],
}
ROWS = [[96, 0], [-96, 96], [0, 10_000], [10_000, 10_001], [5, 5]]


def changed(written, **parts):
    """The bundle with parts of its spec replaced."""
    out, manifest = written
    spec = dict(manifest["spec"])
    for part, change in parts.items():
        spec[part] = {**spec[part], **change} if isinstance(change, dict) else change
    (out / "bundle.json").write_text(json.dumps({**manifest, "spec": spec}))
    return out


@pytest.mark.parametrize("what", OUT_OF_RANGE)
def test_a_number_out_of_range_is_refused_before_anything_is_built(written, what):
    with pytest.raises(BundleError) as caught:
        bundle.read(changed(written, **OUT_OF_RANGE[what]))
    assert "not valid" in caught.value.message or "the spec" in caught.value.message


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in SETTINGS.items() for value in values])
def test_a_setting_out_of_range_is_refused_before_anything_is_built(written, name, value):
    plan = json.loads(json.dumps(written[1]["spec"]["plans"][0]))
    plan["tunes"][0]["method"][name] = value
    with pytest.raises(BundleError, match=f"`{name}`"):
        bundle.read(changed(written, plans=[plan]))


@pytest.mark.parametrize("rows", ROWS)
def test_rows_out_of_order_or_range_are_refused(written, rows):
    plan = json.loads(json.dumps(written[1]["spec"]["plans"][0]))
    plan["tunes"][0]["rows"] = rows
    with pytest.raises(BundleError, match=r"rows|fit the plan"):
        tailor.load(changed(written, plans=[plan]))


def test_rows_that_overlap_are_refused(written):
    plan = json.loads(json.dumps(written[1]["spec"]["plans"][0]))
    one = next(tune for tune in plan["tunes"] if tune["site"].startswith("blocks.0.attn.qkv"))
    plan["tunes"] = [{**one, "rows": rows} for rows in ([0, 96], [95, 192])]
    with pytest.raises(BundleError, match="overlap"):
        tailor.load(changed(written, plans=[plan]))


@pytest.mark.parametrize("verb", [bundle.read, lambda out: tailor.inspect(str(out))], ids=["read", "inspect"])
def test_a_manifest_that_takes_long_is_refused_at_once(written, verb):
    out, _ = written
    for text in ("[" + "[]," * (MOST_PARTS + 1) + "0]", '{"a": ' + " " * LARGEST + "0}"):
        (out / "bundle.json").write_text(text)
        began = time.process_time()
        with pytest.raises(BundleError, match="more than"):
            verb(out)
        assert time.process_time() - began < 2
    (out / "bundle.json").write_text('{"a": [' + "{}," * (MOST_PARTS - 9) + "0]}")
    began = time.process_time()
    with pytest.raises(BundleError):
        verb(out)
    assert time.process_time() - began < 15


def test_inspect_looks_at_digests_and_plans_too(written):
    out = changed(written, plans=[WIDTH] * 10_000)
    with pytest.raises(BundleError, match="10000 plans"):
        tailor.inspect(str(out))
    changed(written)
    assert tailor.inspect(str(out))["kind"] == "bundle"
    whole = (out / "README.md").read_bytes()
    (out / "README.md").write_bytes(whole + b" ")
    with pytest.raises(BundleError, match="digest"):
        tailor.inspect(str(out))
    (out / "README.md").write_bytes(whole)


@pytest.mark.parametrize("name", ["tensors.safetensors", "README.md", "bundle.json"])
@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_link_of_either_kind_is_refused(written, tmp_path, name, link):
    copy = tmp_path / "copy"
    shutil.copytree(changed(written), copy)
    (copy / name).rename(tmp_path / "elsewhere")
    link(tmp_path / "elsewhere", copy / name)
    with pytest.raises(BundleError, match="link"):
        bundle.read(copy)


@pytest.mark.parametrize("depth", [DEEPEST + 1, 500, 100_000])
def test_nesting_is_refused_before_anything_recurses(written, depth):
    out, manifest = written
    text = json.dumps({**manifest, "spec": {**manifest["spec"], "plans": "HERE"}})
    (out / "bundle.json").write_text(text.replace('"HERE"', "[" * depth + "]" * depth))
    with pytest.raises(BundleError, match=r"nested deeper|not JSON"):
        bundle.read(out)


@pytest.mark.parametrize(
    "spec", [{}, {"backbone": 3}, {"backbone": {"name": "x", "digest": ""}, "head": [], "plans": 1}]
)
def test_inspect_says_it_in_a_sentence(written, spec):
    out, manifest = written
    (out / "bundle.json").write_text(json.dumps({**manifest, "spec": spec}))
    with pytest.raises(TailorError, match="the spec is not valid at"):
        tailor.inspect(str(out))


@pytest.mark.parametrize(
    ("method", "change", "says"),
    [
        ("vpt-deep", {"geometry": {"width": -(10**28)}}, "geometry"),
        ("convpass", {"geometry": {"width": 0}}, "geometry"),
        ("convpass", {"geometry": {"grid": [0, 8]}}, "geometry"),
        ("convpass", {"geometry": {"grid": None}}, "do not fit its backbone"),
        ("adapter", {"geometry": None}, "do not fit its backbone"),
        ("lora", {"method": {"rank": 0}}, "`rank`"),
    ],
)
def test_a_place_that_cannot_be_is_refused(tmp_path, method, change, says):
    spec, model = spec_and_model(method)
    out = bundle.write(tmp_path / "b", spec, bundle.state(model, False), complete=False, metrics={}, provenance={})
    manifest = json.loads((out / "bundle.json").read_text())
    tune = manifest["spec"]["plans"][0]["tunes"][0]
    for part, values in change.items():
        tune[part] = {**tune[part], **values} if values else values
    (out / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=says):
        tailor.load(out)


def test_a_weights_file_with_a_name_too_long_is_not_there(written):
    with pytest.raises(TailorError, match="no weights file"):
        tailor.load(changed(written, backbone={"weights": "x" * 5000}))
