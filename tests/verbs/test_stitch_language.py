"""From instructions to a palette of two tiny language models on disk, and back in memory."""

import json

import pytest
import torch
from torch.testing import assert_close

import tailor
from tailor.bundle.live import live
from tailor.bundle.palette import read_palette
from tailor.errors import BundleError, DataError, PlanError, TailorError

pytest.importorskip("transformers")
from tiny_language import WORDS, saved


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A palette of two models that learnt to repeat a letter."""
    root = tmp_path_factory.mktemp("language")
    data = root / "tasks.json"
    rows = [{"instruction": "say", "input": letter, "output": letter} for letter in "abcd" * 12]
    data.write_text(json.dumps(rows))
    models = ",".join((saved(root / "small", 0, 2, 32), saved(root / "large", 1, 4, 48)))
    settings = {
        "models": models,
        "epochs": 3,
        "batch_size": 8,
        "ranks": "4,4",
        "lr": 1e-2,
        "intervals": 3,
        "samples": 8,
    }
    found = tailor.stitch(data, out=root / "p", evaluate_routes=True, progress=None, **settings)
    return root, data, settings, found


def test_what_was_made_is_told(made):
    root, _, _, found = made
    assert [r.route for r in found.routes] == ["0", "1", "0.0-1.1", "0.1-1.2", "0.1-1.3"]
    assert found.metric == "exact_match"
    assert all(0 <= r.accuracy <= 1 for r in found.routes)
    assert sum(r.visits for r in found.routes) == 3 * -(-(48 - 5) // 8)  # every tenth is held out
    lines = [json.loads(line) for line in (root / "p" / "answers.jsonl").read_text().splitlines()]
    assert {"instruction", "input", "expected", "0", "1"} <= lines[0].keys()
    losses = [json.loads(line)["loss"] for line in (root / "p" / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 3


@torch.no_grad()
def test_a_palette_of_language_models_comes_back(made):
    root, data, settings, found = made
    one, other = live(read_palette(root / "p")), live(read_palette(root / "p"))
    ids = torch.tensor([[3, 4, 7, 8, 9, 3, 5, 7]])
    for number in range(len(found.routes)):
        logits = one.model.set_route_(number)(ids)
        assert_close(other.model.set_route_(number)(ids), logits, rtol=0, atol=0)
        plain = one.plain(number)
        assert_close(plain(ids), logits, rtol=0, atol=1e-4)
        cached = plain.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)
        assert torch.equal(
            cached, plain.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0, use_cache=False)
        )
    assert tailor.stitch(data, out=root / "p", resume=True, progress=None, **settings) == found
    with pytest.raises(BundleError, match="begun with another request"):
        tailor.stitch(data, out=root / "p", resume=True, progress=None, **{**settings, "samples": 9})


@torch.no_grad()
@pytest.mark.parametrize("route", ["0", "0.0-1.1", "0.1-1.3"])
def test_a_picked_route_is_a_bundle_of_its_own_that_answers_as_the_route(made, tmp_path, route):
    root, data, _, found = made
    palette = live(read_palette(root / "p"))
    number = next(n for n, one in enumerate(found.routes) if one.route == route)
    tailor.pick(root / "p", route=route, out=tmp_path / "c", progress=None)
    ids = torch.tensor([[3, 4, 7, 8, 9, 3, 5, 7]])
    model = tailor.load(tmp_path / "c")
    assert_close(model(ids), palette.model.set_route_(number)(ids), rtol=0, atol=1e-4)
    cached = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert torch.equal(cached, model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0, use_cache=False))
    assert model.config.num_hidden_layers == len(model.model.layers)
    said = tailor.predict(tmp_path / "c", data, progress=None)
    assert said == tailor.predict(root / "p", data, route=route, progress=None)
    told = tailor.evaluate(tmp_path / "c", data, progress=None)
    right = sum(one.answer == letter for one, letter in zip(said, "abcd" * 12, strict=True)) / 48
    assert told.exact_match == pytest.approx(right)


def test_of_a_folder_the_test_split_is_held_out(made, tmp_path):
    _, data, settings, _ = made
    (tmp_path / "d").mkdir()
    rows = json.loads(data.read_text())
    (tmp_path / "d" / "train.json").write_text(json.dumps(rows[:16]))
    (tmp_path / "d" / "test.json").write_text(json.dumps([{**row, "output": "b"} for row in rows[:3]]))
    tailor.stitch(tmp_path / "d", out=tmp_path / "p", progress=None, **{**settings, "epochs": 1})
    lines = [json.loads(line) for line in (tmp_path / "p" / "answers.jsonl").read_text().splitlines()]
    assert [line["expected"] for line in lines] == ["b", "b", "b"]


def test_what_makes_no_palette_of_language_models_is_refused(made, tmp_path):
    root, data, settings, _ = made
    one = settings["models"].split(",")[0]
    with pytest.raises(TailorError, match="same model"):
        tailor.stitch(data, out=tmp_path / "p", progress=None, **{**settings, "models": f"{one},{one}"})
    with pytest.raises(TailorError, match="no language model at"):
        tailor.stitch(data, out=tmp_path / "q", progress=None, **{**settings, "models": f"{one},causal:nowhere"})
    other = saved(tmp_path / "other", 3, 3, 32)
    file = tmp_path / "other" / "tokenizer.json"
    file.write_text(file.read_text().replace('"say"', '"tell"'))
    with pytest.raises(PlanError, match="other tokenisers"):
        tailor.stitch(data, out=tmp_path / "o", progress=None, **{**settings, "models": f"{one},{other}"})
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DataError, match="is no JSON"):
        tailor.stitch(tmp_path / "x.json", out=tmp_path / "r", progress=None, **settings)
    config = json.loads((root / "small" / "config.json").read_text())
    assert config["vocab_size"] == len(WORDS)
