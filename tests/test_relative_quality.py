"""Answers judged beside those of the smallest model: questions in Vicuna's layout, three kinds of judges."""

import json
import math
import sys

import pytest
import torch

pytest.importorskip("transformers")
from benchmarks import relative_quality as quality

from tailor.backbones import causal
from tailor.errors import DataError, TrainingError, UsageError
from tiny_language import saved

ASKED = quality.Question("1", "letters", "say a", "a")


def test_questions_are_read_by_line(tmp_path):
    file = tmp_path / "q.jsonl"
    file.write_text(
        json.dumps({"question_id": 7, "category": "generic", "text": "say a", "reference": "a"}) + '\n\n{"text": "b"}\n'
    )
    one, two = quality.read(file)
    assert (one.number, one.category, one.reference) == ("7", "generic", "a") and two.text == "b"
    file.write_text('{"text": "a"}\n{"question": "b"}')
    with pytest.raises(DataError, match="line 2 of"):
        quality.read(file)


def test_quality_is_a_share_of_the_first_model_s():
    assert quality.relative([[2.0, 3.0], [5.0, 5.0], [0.0, 1.0]]) == [100.0, 200.0, 20.0]
    assert math.isnan(quality.relative([[0.0], [1.0]])[1])


def test_judges(tmp_path):
    judge = quality.judge_of("exact")
    assert (judge(ASKED, " a "), judge(ASKED, "b")) == (1.0, 0.0)
    program = tmp_path / "judge.py"
    program.write_text("import json, sys\nprint('note')\nprint(len(json.load(sys.stdin)['answer']))")
    assert quality.judge_of(f"command:{sys.executable} {program}")(ASKED, "four") == 4.0
    program.write_text("print('none')")
    with pytest.raises(TrainingError, match="gave no number"):
        quality.judge_of(f"command:{sys.executable} {program}")(ASKED, "four")
    with pytest.raises(UsageError, match="no judge `best`"):
        quality.judge_of("best")


@torch.no_grad()
def test_likelihood_is_that_of_the_answer_s_tokens(tmp_path):
    name = saved(tmp_path, 0, 2, 32)
    found = quality.judge_of(f"likelihood:{name}")(ASKED, "a b")
    tokeniser, model = causal.tokeniser(name), causal.create(name)
    prompt = tokeniser(quality.Instruction("say a").prompt)["input_ids"]
    ids = [*prompt, *tokeniser("a b")["input_ids"], tokeniser.eos_token_id]
    logs = model(torch.tensor([ids]))[0].log_softmax(-1)
    own = [float(logs[i - 1, ids[i]]) for i in range(len(prompt), len(ids))]
    assert found == pytest.approx(math.exp(sum(own) / len(own)), rel=1e-4)
