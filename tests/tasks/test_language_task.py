"""The task of answering: its loss and figures against slow versions, and what padding must not change."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

pytest.importorskip("transformers")
from tailor.backbones.prompts import IGNORED
from tailor.errors import ModelError, TrainingError
from tailor.tasks import TASKS, task_for, task_of
from tailor.tasks.language import Language, LanguageHead
from tailor.training import evaluate
from tailor.training.features import FeatureBatch
from tiny_language import llama

TASK, HEAD = Language(), LanguageHead()


def samples(count=4, words=61):
    generator = torch.Generator().manual_seed(0)
    made = []
    for n in range(count):
        ids = torch.randint(3, words, (4 + 2 * n,), generator=generator)
        labels = torch.where(torch.arange(len(ids)) < 2, torch.full_like(ids, IGNORED), ids)
        made.append(torch.stack([ids, labels]))
    return made


def by_hand(logits, rows):
    """The loss of a sample, token by token."""
    return sum(F.cross_entropy(logits[i - 1], rows[1, i]) for i in range(len(rows[1])) if rows[1, i] != IGNORED)


def test_it_is_a_row_for_texts():
    assert isinstance(task_for("texts"), TASKS["language"])
    assert isinstance(task_of(HEAD), Language)


@torch.no_grad()
def test_a_sample_has_the_loss_that_it_has_alone_however_it_is_filled_up():
    model = llama(0).double()
    rows = samples()
    ids, labels = TASK.collate(rows, rows)
    assert ids.shape == labels.shape == (4, 10)
    found = TASK.loss(model(ids), labels)
    alone = torch.stack([by_hand(model(one[:1])[0], one) for one in rows])
    assert_close(found, alone, rtol=0, atol=1e-5)
    assert TASK.weight(labels) == sum(int((one[1] != IGNORED).sum()) for one in rows)
    assert_close(TASK.loss(model(ids), torch.full_like(labels, IGNORED)), torch.zeros(4).double())


@torch.no_grad()
def test_logits_of_what_is_learnt_alone_are_those_among_all():
    model, teacher = llama(0).double(), llama(1).double()
    ids, labels = TASK.collate(samples(), samples())
    few, taught = (one(ids, **TASK.named(labels)) for one in (model, teacher))
    assert few.shape == (TASK.weight(labels), 61)
    assert_close(TASK.loss(few, labels), TASK.loss(model(ids), labels), rtol=0, atol=1e-10)
    learnt = TASK.learn(few, taught, labels, False, 2.0)
    assert_close(learnt, TASK.learn(model(ids), teacher(ids), labels, False, 2.0), rtol=0, atol=1e-10)


@torch.no_grad()
def test_a_teacher_is_learnt_where_answers_are():
    model, teacher = llama(0), llama(1)
    rows = samples(2)
    ids, labels = TASK.collate(rows, rows)
    ours, theirs = model(ids), teacher(ids)
    hard = TASK.learn(ours, theirs, labels, True, 1.0)
    soft = TASK.learn(ours, theirs, labels, False, 2.0)
    for i, one in enumerate(rows):
        places = [n - 1 for n in range(one.shape[1]) if one[1, n] != IGNORED]
        p, q = (x[i, places] for x in (ours, theirs))
        assert_close(hard[i], F.cross_entropy(p, q.argmax(-1), reduction="sum"))
        log = (q / 2).log_softmax(-1)
        assert_close(soft[i], 4 * (log.exp() * (log - (p / 2).log_softmax(-1))).sum())
    with pytest.raises(TrainingError, match="the teacher knows 60 tokens, the model 61"):
        TASK.learn(ours, theirs[..., :60], labels, True, 1.0)


@torch.no_grad()
def test_figures_are_those_of_a_loop_and_an_exact_match_is_what_greedy_decoding_says():
    model = llama(0)
    rows = samples(4)
    for one in rows[:2]:  # two answers that the model would give by itself
        said = model.generate(one[:1, :2], max_new_tokens=one.shape[1] - 2, do_sample=False, eos_token_id=None)[0]
        one[0], one[1, 2:] = said, said[2:]
    batches = []
    for part in (rows[:3], rows[3:]):
        ids, labels = TASK.collate(part, part)
        batches.append(FeatureBatch(ids, labels, torch.arange(len(part)), ("",) * len(part)))
    found = evaluate(model, batches, TASK, HEAD)
    losses, right, exact = [], [], []
    for one in rows:
        logits = model(one[:1])[0]
        losses.append(by_hand(logits, one))
        hits = [bool(logits[i - 1].argmax() == one[1, i]) for i in range(2, one.shape[1])]
        said = model.generate(one[:1, :2], max_new_tokens=one.shape[1] - 2, do_sample=False, eos_token_id=None)[0]
        right += hits
        exact.append(torch.equal(said, one[0]))
        assert all(hits) == exact[-1]
    assert next(iter(found)) == TASK.metric == "perplexity" and not TASK.larger
    assert found["perplexity"] == pytest.approx(float((torch.stack(losses).sum() / len(right)).exp()), rel=1e-4)
    assert found["token_accuracy"] == pytest.approx(sum(right) / len(right))
    assert found["exact_match"] == pytest.approx(sum(exact) / 4) and 0.5 <= found["exact_match"] < 1
    assert found["n"] == 4


def test_a_model_of_images_is_refused():
    with pytest.raises(ModelError, match="`Linear` is no language model"):
        TASK.attach_(torch.nn.Linear(2, 2), HEAD)


def test_texts_that_share_rows_are_learnt_as_apart_but_for_what_they_read():
    rows = samples(4)  # of 4, 6, 8 and 10 tokens
    ids, labels = TASK.pack(rows, rows, 12)
    assert ids.shape == (3, 10) and TASK.weight(labels) == TASK.weight(TASK.collate(rows, rows)[1])
    assert torch.equal(ids[0], torch.cat([rows[0][0], rows[1][0]]))
    assert TASK.collate(rows, rows)[0].shape[0] == 4
