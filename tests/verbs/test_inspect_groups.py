"""`inspect --groups`: what is printed is what `prune` would cut, folded for people and complete as JSON."""

import importlib
import json
from collections import Counter

import pytest
import torch
from torch import Tensor, nn

import tailor
from bundle.made import spec_and_model
from tailor import bundle
from tailor.cli import main
from tailor.cli.grouped import fold, group_lines
from tailor.errors import ModelError, UsageError
from tailor.inputs import Inputs
from tailor.tracing import settle, trace
from tailor.tuning.apply import merges

WIDTHS = importlib.import_module("tailor.workflow.groups")
MINI = "tailor_mini_ti"


@pytest.fixture(scope="module")
def found():
    return tailor.inspect(MINI, groups=True)


def test_every_parameter_dim_is_in_a_group_or_pinned_with_a_reason(found):
    model = tailor.backbones.create(MINI, "random", None)
    seen = {(m["tensor"], m["dim"]) for group in found["groups"] for m in group["members"]}
    pinned = {(one["tensor"], one["dim"]) for one in found["pinned"] if one["reason"]}
    for name, parameter in model.named_parameters():
        for dim, size in enumerate(parameter.shape):
            assert size == 1 or ((name, dim) in seen) != ((name, dim) in pinned), (name, dim)


def test_the_groups_are_those_that_prune_traces(found):
    model = tailor.backbones.create(MINI, "random", None).eval()
    x = torch.randn(2, 3, 64, 64)
    groups = settle(model, trace(model, (x,)), (x,)).groups
    assert [(g["id"], g["label"], g["size"]) for g in found["groups"]] == [
        (g.id, g.label, g.size) for g in groups.groups
    ]
    assert {g["label"] for g in found["groups"]} == {"embedding", "heads", "head dim", "hidden"}


def test_repeated_blocks_are_one_line_with_a_count(found):
    lines = group_lines(found)
    (heads,) = [line.split() for line in lines if line.startswith("blocks.*.attn.heads")]
    assert heads[:4] == ["blocks.*.attn.heads", "12", "heads", str(found["groups"][1]["size"])]
    counts = [int(line.split()[1]) for line in lines[3 : 3 + lines[3:].index("")]]
    assert sum(counts) == len(found["groups"])
    assert any(line.startswith("head.weight") and line.endswith("an output of the model") for line in lines)


def test_operators_are_counted_by_type_and_axis(found):
    model = tailor.backbones.create(MINI, "random", None)
    kinds = [(nn.Linear, ("linear out", "linear in")), (nn.Conv2d, ("conv2d out", "conv2d in"))]
    kinds += [(nn.LayerNorm, ("layer_norm",))]
    for group in found["groups"]:
        expected = Counter()
        for tensor, dim in {(m["tensor"], m["dim"]) for m in group["members"] if m["tensor"].endswith(".weight")}:
            module = model.get_submodule(tensor.removesuffix(".weight"))
            expected[next(names for kind, names in kinds if isinstance(module, kind))[dim]] += 1
        layers = {name: count for name, count in group["operators"].items() if "[" not in name}
        assert layers == expected, group["id"]
    lines = group_lines(found)
    (hidden,) = [line.split(maxsplit=3) for line in lines if line.startswith("hidden ")]
    assert hidden[1:] == ["12", f"{12 * 256:,}", "1 linear in, 1 linear out"]


def test_folding_keeps_the_numbers_that_all_share():
    assert fold(["layers.2.blocks.0.mlp", "layers.2.blocks.5.mlp"]) == "layers.2.blocks.*.mlp"
    assert fold(["conv1.weight[0]"]) == "conv1.weight[0]"


def test_groups_of_different_sizes_are_not_folded():
    groups = [
        {
            "id": f"stages.{i}.hidden",
            "label": "hidden",
            "size": size,
            "kind": "1 linear.weight[0]",
            "operators": {"linear out": 1},
            "members": [{"tensor": f"stages.{i}.w", "dim": 0}],
        }
        for i, size in enumerate((8, 8, 16))
    ]
    rest = {"pinned": [], "ties": [["stages.0.hidden", "stages.1.hidden"]], "unknown": ["lstm"], "params": 1}
    recorded = [{"module": "a", "class": "Odd"}]
    found = {"name": "net", "input_size": [3, 8, 8], "groups": groups, "recorded": recorded, "pinned_percent": 0.0}
    shown = group_lines({**found, **rest})
    text = "\n".join(shown)
    assert ["stages.*.hidden", "2", "hidden", "8"] in [line.split()[:4] for line in shown]
    assert ["stages.2.hidden", "1", "hidden", "16"] in [line.split()[:4] for line in shown]
    assert "stages.0.hidden = stages.1.hidden" in text and "Odd" in text and "lstm" in text


def test_json_is_complete(capsys):
    with pytest.raises(SystemExit) as done:
        main(["inspect", MINI, "--groups", "--json"])
    printed = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert not done.value.code and printed["kind"] == "groups"
    assert sum(len(group["members"]) for group in printed["groups"]) > 150
    assert {"ties", "pinned", "recorded", "unknown", "pinned_percent"} <= printed.keys()


def test_a_bundle_needs_no_backbone_and_has_the_groups_of_its_merged_model(tmp_path, monkeypatch):
    spec, model = spec_and_model("lora-4")
    assert all(merges(plan) for plan in spec.tuning)
    bundle.write(tmp_path / "b", spec, bundle.state(model, False), complete=False, metrics={}, provenance={})
    monkeypatch.setattr(WIDTHS.bundle, "restore", None)
    shown = tailor.inspect(str(tmp_path / "b"), groups=True)
    plain = tailor.inspect("tailor_mini_s", groups=True)
    assert [(g["id"], g["size"]) for g in shown["groups"]] == [(g["id"], g["size"]) for g in plain["groups"]]


class Reads(nn.Module):
    """A forward that looks at values."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.default_cfg = self.pretrained_cfg = {"input_size": (3, 8, 8)}

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if x.detach().sum().item() > 0 else x


def test_a_model_that_does_not_trace_is_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(WIDTHS.backbones, "create", lambda *a: Reads())
    monkeypatch.setattr(WIDTHS.backbones, "config_of", lambda m: type("C", (), {"inputs": Inputs.images(3, 8, 8)}))
    with pytest.raises(ModelError, match="cannot be exported to a graph"):
        tailor.inspect("resnet18", groups=True)
    with pytest.raises(SystemExit) as done:
        main(["inspect", "resnet18", "--groups"])
    assert done.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert error[0].startswith("tracing") and len(error) == 3


def test_data_have_no_groups(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(UsageError, match="holds no model"):
        tailor.inspect(str(tmp_path / "photos"), groups=True)
