"""A bundle in peft's layout, loaded as its page says, predicts the same in peft itself."""

import re

import pytest
import torch
from made import sparse_plan, spec_and_model
from safetensors.torch import load_file

import tailor
from tailor import backbones, bundle
from tailor.bundle import peft as layout
from tailor.errors import PlanError
from tailor.tuning.methods.lora import Lora
from tailor.tuning.plan import Entries, Tune, TunePlan

EVERYTHING = TunePlan(
    "spt-lora",
    full=("cls_token", "norm.weight", "blocks.2.attn.qkv.bias[0:96]", "blocks.3.mlp.fc2.bias"),
    tunes=(
        Tune("blocks.1.attn.qkv[q]", Lora(rank=2), rows=(0, 96)),
        Tune("blocks.1.attn.qkv[v]", Lora(rank=2), rows=(192, 288)),
        Tune("blocks.4.mlp.fc1", Lora(rank=3, alpha=6.0)),
        Tune("blocks.5.mlp.fc1", Lora(rank=2)),
    ),
    entries=(
        Entries("blocks.1.attn.qkv.weight", tuple(range(9300, 18000, 7))),  # in the rows of k, below the low ranks
        Entries("blocks.2.mlp.fc2.weight", (3, 500, 501)),
        Entries("blocks.6.norm1.bias", (0, 5)),
    ),
)
PLANS = {"lora-4": None, "lora on parts, weights, vectors": EVERYTHING, "weights": sparse_plan()}


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("name", PLANS)
def test_peft_loads_the_folder_and_predicts_the_same(tmp_path, monkeypatch, name):
    pytest.importorskip("peft")
    spec, model = spec_and_model(name, plan=PLANS[name]) if PLANS[name] else spec_and_model(name)
    size = layout.write(tmp_path / "x.peft", model, spec)
    assert size == sum(f.stat().st_size for f in (tmp_path / "x.peft").rglob("*") if f.is_file())
    base = backbones.create("tailor_mini_s")
    backbones.attach_head_(base, 3)
    code = re.search(r"```python\n(.*?)```", (tmp_path / "x.peft/README.md").read_text(), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path / "x.peft")
    known = {"model": base}
    exec(code[1], known)  # the lines that the folder's own page gives
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(known["model"](x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["adapter-4", "bias"])
def test_other_plans_are_refused(tmp_path, method):
    spec, model = spec_and_model(method)
    with pytest.raises(PlanError, match="LoRA, single weights, or both"):
        layout.write(tmp_path / "x.peft", model, spec)
    assert not (tmp_path / "x.peft").exists()


def test_a_small_layer_beside_a_full_one_does_not_fit_shira(tmp_path):
    full = Entries("blocks.0.mlp.fc1.weight", tuple(range(36_000)))
    plan = TunePlan("by-hand", entries=(full, Entries("blocks.0.attn.proj.weight", (1,))), cost=36_001)
    spec, model = spec_and_model(plan=plan)
    with pytest.raises(PlanError, match="equally many weights"):
        layout.write(tmp_path / "x.peft", model, spec)


def test_the_verb_writes_the_same_folder(tmp_path):
    spec, model = spec_and_model(plan=EVERYTHING)
    bundle.write(tmp_path / "a", spec, bundle.state(model, False), complete=False, metrics={}, provenance={})
    made = tailor.export(tmp_path / "a", out=tmp_path / "a.peft", progress=None)
    size = layout.write(tmp_path / "b.peft", model, spec)
    assert made.bytes == size and (tmp_path / "a.peft/entries/adapter_model.safetensors").is_file()
    for name in ("adapter_model.safetensors", "entries/adapter_model.safetensors", "rest.safetensors"):
        ours, theirs = (load_file(tmp_path / folder / name) for folder in ("a.peft", "b.peft"))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
