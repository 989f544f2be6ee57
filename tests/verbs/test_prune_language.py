"""A language model made smaller: widths and layers, exact, with a cache that is right and a class that anyone reads."""

import json

import pytest
import torch
from torch.testing import assert_close

transformers = pytest.importorskip("transformers")
import tailor  # noqa: E402
from tailor import backbones  # noqa: E402
from tailor.plans import PLANS, Circumstances  # noqa: E402
from tailor.pruning.layers import LayerPlan  # noqa: E402
from tailor.tracing import awakened, cut, plan_widths, settle, trace, verify  # noqa: E402
from tailor.tracing.trial.settle import uneven  # noqa: E402
from tiny_language import ids, llama, saved  # noqa: E402

HOW = {"epochs": 2, "lr": 1e-2, "batch_size": 8, "progress": None}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny model by name, and letters to be repeated."""
    root = tmp_path_factory.mktemp("less")
    rows = [{"instruction": "say", "input": one, "output": one} for one in "abcd" * 12]
    (root / "tasks.json").write_text(json.dumps(rows))
    return root / "tasks.json", saved(root / "small", 0, 4, 32)


@torch.no_grad()
def speaks(model, given):
    """With a cache as without."""
    how = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    said = model.generate(given, **how)
    assert torch.equal(said, model.generate(given, use_cache=False, **how))
    again = model(given[:, 4:], past_key_values=model(given[:, :4], use_cache=True).past_key_values, use_cache=True)
    assert_close(again.logits, model(given)[:, 4:], rtol=0, atol=1e-4)
    return said


@torch.no_grad()
@pytest.mark.parametrize("tied", [False, True])
def test_heads_shared_keys_gates_and_the_stream_are_cut_exactly(tied):
    model, example = llama(0, layers=2, tied=tied), (ids(),)
    traced = settle(model, trace(model, example), example, record_modules=False)
    labels = {group.label for group in traced.groups.groups}
    assert labels == {"embedding", "heads", "hidden"}
    for seed in range(3):
        plan, awake = plan_widths(traced.groups, uneven(traced.groups, seed)), awakened(model)
        assert verify(awake, cut(awake, plan), traced, plan, example).exact
    small = PLANS["width"].apply_(cut(model, plan_widths(traced.groups, {})), plan, Circumstances(()))
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    speaks(small, ids())


@torch.no_grad()
def test_layers_move_up_in_the_cache_when_others_go(tmp_path):
    model = llama(0, layers=5)
    hidden = model.model.embed_tokens(ids())
    places = torch.arange(ids().shape[1])[None]
    for number in (0, 2, 4):
        hidden = model.model.layers[number](hidden, position_embeddings=model.model.rotary_emb(hidden, places))
    expected = model.lm_head(model.model.norm(hidden))
    plan = LayerPlan(kept=(0, 2, 4), dropped=("model.layers.1", "model.layers.3"))
    PLANS["layers"].apply_(model, plan, Circumstances(()))
    assert_close(model(ids()), expected, rtol=0, atol=1e-5)
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1, 2]
    said = speaks(model, ids())
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert_close(again(ids()).logits, expected, rtol=0, atol=1e-5)
    assert torch.equal(
        said, again.generate(ids(), max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=None)
    )


def test_a_model_by_name_is_cut_without_data_and_read_by_transformers(made, tmp_path):
    _, name = made
    told = tailor.prune(name, method="uniform", criterion="l2", ratio="50%", out=tmp_path / "a", progress=None)
    assert told.params_after < 0.6 * told.params_before and told.macs_after < told.macs_before
    model = tailor.load(tmp_path / "a")
    given = torch.tensor([[3, 4, 7, 8, 9, 3, 5, 7]])
    speaks(model, given)
    model.save_pretrained(tmp_path / "plain")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    with torch.no_grad():
        assert_close(again(given).logits, model(given), rtol=0, atol=1e-5)
    assert backbones.describe(model).width == model.config.hidden_size


def test_widths_and_layers_of_an_adapted_model_go_and_come_back_by_training(made, tmp_path):
    data, name = made
    tailor.adapt(data, model=name, method="lora", out=tmp_path / "a", **HOW)
    deep = tailor.prune(
        tmp_path / "a", method="blocks-2", data=data, retrain="1clr", out=tmp_path / "b", teacher=tmp_path / "a", **HOW
    )
    assert (deep.blocks, deep.kept_blocks, deep.metric) == (4, 2, "perplexity")
    thin = tailor.prune(tmp_path / "b", method="isomorphic", macs="70%", data=data, out=tmp_path / "c", progress=None)
    assert thin.macs_after <= 0.7 * thin.macs_before
    assert thin.score_before == pytest.approx(deep.score_after, rel=1e-3)
    model = tailor.load(tmp_path / "c")
    assert len(model.model.layers) == model.config.num_hidden_layers == 2
    speaks(model, torch.tensor([[3, 4, 7, 8, 9, 3, 5, 7]]))
    assert tailor.evaluate(tmp_path / "c", data, progress=None).n == 48
    assert len(tailor.predict(tmp_path / "c", "say a", progress=None)) == 1
    assert tailor.inspect(name)["blocks"] == 4
