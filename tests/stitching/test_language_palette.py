"""Palettes of tiny language models: the rule of routes, the start, what trains, a step on responses, a pick."""

import json
import struct

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

import tiny
from tailor.backbones import causal
from tailor.backbones.prompts import IGNORED, Instruction, answers, encode, exact_match, packed
from tailor.errors import ModelError, PlanError
from tailor.stitching.adapt import Adapt
from tailor.stitching.language.palette import (
    adapted_,
    joined,
    parameters,
    products,
    started_,
)
from tailor.stitching.picked import picked
from tailor.stitching.sampler import Sampler, Sampling
from tailor.stitching.step import RouteTraining
from tailor.surgery import trainable
from tailor.tasks.language import Language
from tailor.training.objective import Share
from tiny_language import LETTERS, ids, llama


class Letters:
    """A tokeniser of letters: `a` is 3, and so on; the end is 2."""

    eos_token_id, pad_token_id = 2, 0

    def __call__(self, text, add_special_tokens=True):
        own = [3 + ord(letter) % (LETTERS - 3) for letter in text]
        return {"input_ids": ([1] if add_special_tokens else []) + own}

    def decode(self, ids, skip_special_tokens=True):
        return " ".join(str(int(i)) for i in ids if int(i) > 2)


def anchors():
    return [llama(0, layers=3), llama(1, layers=5, width=48, heads=6, kv=3)]


def made(trained=True):
    model = joined(anchors())
    tune, biases = adapted_(model, Adapt(ranks=(2, 2)))
    if trained:
        tiny.trained_(model, 5)
    return model.eval(), tune, biases


def rows(count=6):
    generator = torch.Generator().manual_seed(0)
    made = [torch.randint(3, LETTERS, (n,), generator=generator).tolist() for n in range(5, 5 + count)]
    return [(row, [IGNORED] * 3 + row[3:]) for row in made]


def batch(rows_):
    return Language().collate([torch.tensor(one) for one in rows_], rows_)


def test_routes_are_those_of_the_rule_and_cost_what_they_hold():
    model = joined(anchors())
    assert [r.name for r in model.plan.routes] == ["0", "1", "0.0-1.1", "0.1-1.2", "0.1-1.3", "0.2-1.4"]
    costs = parameters(model)
    for number in range(6):
        assert costs[number] == sum(p.numel() for p in picked(*_plain(model), number).parameters())


def test_intervals_go_by_what_a_token_is_multiplied_with():
    model = joined([llama(0, layers=3, tied=True), llama(1, layers=5, tied=True)])
    block = sum(p.numel() for p in model.anchors[0].model.layers[0].parameters())
    head, joint = LETTERS * 32, 32 * 32 + 32
    names = [route.name for route in model.plan.routes]
    found = dict(zip(names, products(model), strict=True))
    assert found["0"] == 3 * block + head + 32
    assert found["1"] == 5 * block + head + 32
    assert found["0.1-1.2"] == 5 * block + head + 32 + joint


def _plain(model):
    from tailor.tuning.plan import TunePlan

    return model, TunePlan("none")


@torch.no_grad()
def test_joints_start_on_the_tokens_that_are_there():
    model = joined([anchor.double() for anchor in anchors()]).double()
    fits = started_(model, [batch(rows(8)[n : n + 3]) for n in (0, 3, 6)])
    a, b = model.anchors
    tokens, targets = [], []
    for row, _ in rows(8):
        x = torch.tensor([row])
        tokens.append(a.model(x, output_hidden_states=True).hidden_states[1][0])
        targets.append(b.model(x, output_hidden_states=True).hidden_states[1][0])
    one = torch.cat([torch.cat(tokens), torch.ones(sum(map(len, tokens)), 1).double()], 1)
    solution = torch.linalg.lstsq(one, torch.cat(targets)).solution
    number = model.plan.routes[model.plan.find("0.0-1.1")].layers[0]
    assert_close(model.layers[number].weight, solution[:-1].t(), rtol=0, atol=1e-6)
    assert 0 < fits[number].explained < 1


def test_low_rank_updates_and_biases_are_counted_by_the_widths_of_q_k_v_and_o():
    model, _, biases = made()
    lora = sum(p.numel() for n, p in trainable(model).items() if n.endswith((".up", ".down")) and "layers.0." in n)
    assert lora
    one = sum(
        getattr(model.anchors[0].model.layers[0].self_attn, n).base.weight.shape[0]
        for n in ("q_proj", "k_proj", "v_proj", "o_proj")
    )
    two = sum(
        getattr(model.anchors[1].model.layers[0].self_attn, n).base.weight.shape[0]
        for n in ("q_proj", "k_proj", "v_proj", "o_proj")
    )
    front = sum(route.legs[0].stop for route in model.plan.routes[2:])
    tail = sum(5 - route.legs[1].start for route in model.plan.routes[2:])
    assert biases.cost == front * one + tail * two == sum(p.numel() for p in model.biases.values())
    assert not any(n.startswith(("anchors.0.lm_head", "anchors.1.lm_head")) for n in trainable(model))


@torch.no_grad()
def test_a_picked_route_speaks_as_the_route_does():
    model, tune, _ = made()
    for number in range(2, 6):
        plain = picked(model, tune, number)
        assert_close(plain(ids()), model.set_route_(number)(ids()), rtol=0, atol=1e-4)
        assert plain.model.layers[0].self_attn.q_proj.bias is not None
        with_cache = plain.generate(ids(), max_new_tokens=5, do_sample=False, pad_token_id=0)
        without = plain.generate(ids(), max_new_tokens=5, do_sample=False, pad_token_id=0, use_cache=False)
        assert torch.equal(with_cache, without)


def test_a_step_learns_on_responses_only():
    model, _, _ = made()
    task, (ids_, targets) = Language(), batch(rows(4))
    share = Share(ids_, targets, torch.arange(4), ("",) * 4, targets)
    sampler = Sampler(parameters(model), 2, 100, Sampling(intervals=3))
    course = RouteTraining(
        model,
        sampler,
        lambda output, share: share.loss(task, output),
        learn=lambda output, taught, share: (
            task.learn(output, taught, share.targets, True, 1.0).sum() / task.weight(share.targets)
        ),
        weigh=lambda share: task.weight(share.targets),
        call=lambda m, share: m(share.images, **task.named(share.targets)),
    )
    route = model.plan.find("0.1-1.2")
    sampler.draw = lambda step: route
    course.before(0)
    value = course.step(model, share)
    taught, said = model.set_route_(1)(ids_), model.set_route_(route)(ids_)
    places = [(i, n) for i in range(4) for n in range(3, len(rows(4)[i][0]))]
    real = [targets[i, n] for i, n in places]
    expected = sum(F.cross_entropy(taught[i, n - 1], t) for (i, n), t in zip(places, real, strict=True))
    for (i, n), t in zip(places, real, strict=True):
        own = said[i, n - 1]
        expected = expected + 0.5 * F.cross_entropy(own, t) + 0.5 * F.cross_entropy(own, taught[i, n - 1].argmax())
    assert_close(value, (expected / len(places)).detach(), rtol=1e-5, atol=1e-5)
    assert task.weight(targets) == len(places)
    value.backward()
    course.after(0)
    assert float(sampler.scores[route]) > 0


def test_examples_are_masked_cut_and_packed():
    first, second = Instruction("Add", "1 2", "3"), Instruction("Say a", output="a")
    assert "### Input:\n1 2" in first.prompt
    assert "### Input" not in second.prompt
    ids_, labels = encode(second, Letters(), 500)
    assert ids_[-1] == 2
    assert labels[-2:] == ids_[-2:]
    assert set(labels[:-2]) == {IGNORED}
    short, left = encode(second, Letters(), 10)
    assert short == ids_[-10:] and left == labels[-10:]  # an answer has to be learnt: the prompt's beginning goes
    few = encode(Instruction("Say", output="abcdef"), Letters(), 4)
    assert few[1] == [IGNORED, *Letters()("abc", add_special_tokens=False)["input_ids"]]
    joined_rows = packed([encode(first, Letters(), 500), encode(second, Letters(), 500)], 500)
    assert len(joined_rows) == 1
    assert len(joined_rows[0][0]) == sum(len(encode(e, Letters(), 500)[0]) for e in (first, second))


def test_answers_are_those_of_one_by_one():
    model, tune, _ = made()
    plain = picked(model, tune, 3)
    prompts = ["abc", "a longer one"]
    both = answers(plain, Letters(), prompts, new=4)
    assert both == [answers(plain, Letters(), [p], new=4)[0] for p in prompts]
    assert exact_match(["a ", "b"], ["a", "c"]) == 0.5


def test_names_that_are_no_language_model_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ModelError, match="no language model at"):
        causal.create(f"causal:{tmp_path}")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be made"):
        causal.create(f"causal:{tmp_path}")
    monkeypatch.setitem(causal.PACKAGED, "other", ("no_such_package", "x.gguf"))
    with pytest.raises(ModelError, match="package that is not installed"):
        causal.create("other")
    with pytest.raises(PlanError, match="two anchors or more"):
        joined([llama(0)])


HEADER = b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1 << 60)


@pytest.mark.parametrize("held", [b"", b"nonsense" * 9, b"GGUF" + b"\xff" * 99, HEADER, HEADER + b"\0" * 99])
def test_a_file_of_garbage_is_refused(tmp_path, held):
    (tmp_path / "a.gguf").write_bytes(held)
    for asked in (causal.create, causal.tokeniser):
        with pytest.raises(ModelError, match="cannot be made"):
            asked(f"causal:{tmp_path / 'a.gguf'}")


def test_a_configuration_of_billions_beside_few_bytes_is_refused_before_it_is_built(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 1000000}')
    with pytest.raises(ModelError, match=r"describes .* parameters and has [0-9]+ bytes"):
        causal.create(f"causal:{tmp_path}")


def test_code_beside_a_model_is_neither_run_nor_asked_about(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks whether to run the code"))
    (tmp_path / "theirs.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    theirs = {"AutoConfig": "theirs.A", "AutoModelForCausalLM": "theirs.B", "AutoTokenizer": ["theirs.C", None]}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "theirs", "auto_map": theirs}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "C", "auto_map": theirs}))
    for asked in (causal.create, causal.tokeniser):
        with pytest.raises(ModelError, match="cannot be made"):
            asked(f"causal:{tmp_path}")
    assert not (tmp_path / "ran").exists()


def test_a_saved_model_is_loaded_by_its_folder(tmp_path):
    llama(0).save_pretrained(tmp_path)
    model = causal.create(f"causal:{tmp_path}")
    assert_close(model(ids()), llama(0)(ids()))
    assert_close(model(ids(), use_cache=False).logits, llama(0)(ids()))
    assert [b.path for b in causal.describe(model).blocks] == [f"model.layers.{i}" for i in range(4)]
    assert causal.is_causal("causal:x")
