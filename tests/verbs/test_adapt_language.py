"""From instructions to a language model that answers: adapted, evaluated, asked, merged, adapted again, resumed."""

import json

import pytest
import torch
from torch.testing import assert_close

pytest.importorskip("transformers")
import tailor
from tailor.cli import main
from tailor.errors import ModelError, TailorError
from tiny_language import saved

HOW = {"epochs": 4, "lr": 1e-2, "batch_size": 8, "progress": None}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two tiny models, a file of letters to be repeated, and what full tuning made of the first."""
    root = tmp_path_factory.mktemp("talk")
    rows = [{"instruction": "say", "input": one, "output": one} for one in "abcd" * 12]
    data = root / "tasks.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    name = saved(root / "small", 0, 3, 32)
    found = tailor.adapt(data, model=name, method="full", out=root / "full", **HOW)
    return root, data, name, found


def test_it_is_trained_scored_and_asked(made, capsys):
    root, data, _name, found = made
    assert found.metric == "perplexity" and found.score < 4 and found.perplexity == found.score
    told = tailor.evaluate(root / "full", data, progress=None)
    assert told.n == 48 and 0 <= told.exact_match <= 1
    assert told.worst[0]["source"].startswith(f"{data}#")
    answers = tailor.predict(root / "full", data, progress=None)
    assert [one.path for one in answers] == [f"{data}#{n}" for n in range(1, 49)]
    right = sum(one.answer == letter for one, letter in zip(answers, "abcd" * 12, strict=True)) / 48
    assert right == pytest.approx(told.exact_match)
    predictor = tailor.Predictor(root / "full")
    assert predictor({"instruction": "say", "input": "b"}).answer == answers[1].answer
    with pytest.raises(SystemExit):
        main(["predict", str(root / "full"), "say a", "--json"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["path"] == "say a"
    assert "PROMPT" in (root / "full" / "README.md").read_text()


def test_low_rank_updates_are_stored_alone_merge_and_are_gone_on_from(made, tmp_path):
    root, data, name, _ = made
    made_ = tailor.adapt(data, model=name, method="eva", out=tmp_path / "a", teacher=str(root / "full"), **HOW)
    assert made_.bundle_bytes < 40_000
    model = tailor.load(tmp_path / "a")
    ids = torch.tensor([[3, 4, 7, 8, 9, 3, 5, 7]])
    tailor.merge(tmp_path / "a", out=tmp_path / "m", progress=None)
    plain = tailor.load(tmp_path / "m")
    with torch.no_grad():
        assert_close(plain(ids), model(ids), rtol=0, atol=1e-4)
    assert not any("lora" in type(m).__name__.lower() for m in plain.modules())
    again = tailor.adapt(data, model=tmp_path / "m", method="lora", out=tmp_path / "b", **{**HOW, "epochs": 1})
    assert again.bundle_bytes < 40_000
    on = tailor.adapt(data, init=tmp_path / "a", out=tmp_path / "c", **{**HOW, "epochs": 1})
    assert on.method == made_.method
    spt = tailor.adapt(data, model=name, method="spt-lora", budget="5%", out=tmp_path / "s", **{**HOW, "epochs": 1})
    assert 0 < spt.trainable_params <= 0.05 * sum(p.numel() for p in plain.parameters())


def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(made, tmp_path):
    _, data, name, _ = made
    how = {**HOW, "model": name, "method": "lora", "recipe": {"checkpoint_steps": 1, "longest": 16}}

    def stop(event):
        if event.stage == "training" and event.done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tailor.adapt(data, out=tmp_path / "a", **{**how, "progress": stop})
    tailor.adapt(data, out=tmp_path / "a", resume=True, **how)
    tailor.adapt(data, out=tmp_path / "b", **how)
    one, two = (tailor.load(tmp_path / folder).state_dict() for folder in "ab")
    assert all(torch.equal(one[key], two[key]) for key in two)
    assert json.loads((tmp_path / "a" / "bundle.json").read_text())["spec"]["preprocessing"]["longest"] == 16


def test_what_does_not_go_together_is_said(made, tmp_path):
    root, data, name, _ = made
    with pytest.raises(ModelError, match="is no language model"):
        tailor.adapt(data, model="tailor_mini_ti", out=tmp_path / "a", **HOW)
    with pytest.raises(ModelError, match="reads text, not images of 64 pixels"):
        tailor.adapt(data, model=name, image_size=64, out=tmp_path / "b", **HOW)
    with pytest.raises(TailorError, match="has no classifier to replace"):
        tailor.adapt("builtin/digits", model=name, out=tmp_path / "c", **HOW)
    with pytest.raises(TailorError, match="no augmentation `flip`"):
        tailor.adapt(data, model=name, method="lora", out=tmp_path / "d", recipe={"augment": "flip"}, **HOW)
    with pytest.raises(TailorError, match=r"there is no file `none\.json`"):
        tailor.predict(root / "full", "none.json", progress=None)
    with pytest.raises(TailorError, match="nothing was asked"):
        tailor.predict(root / "full", " ", progress=None)
