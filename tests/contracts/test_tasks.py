"""What every task promises, over the table: heads that a spec stores, a loss a sample, its metric first, words."""

import json
from dataclasses import dataclass, is_dataclass

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn
from torchvision import tv_tensors

import tiny
from tailor.data.sources import KINDS
from tailor.errors import UsageError
from tailor.preprocessing import Preprocessing
from tailor.spec import SPEC, BackboneRef, Spec
from tailor.tasks import TASKS, task_for, task_of, task_of_kind

EACH = pytest.mark.parametrize("name", sorted(set(TASKS) - {"language"}))  # texts: tests/tasks/test_language_task.py
COUNT, SIZE = 4, 32


def _maps():
    drawn = torch.randint(0, 3, (COUNT, SIZE, SIZE), generator=torch.Generator().manual_seed(0))
    drawn[:, 0] = 255  # a row that counts for nothing
    return [tv_tensors.Mask(one) for one in drawn]


def _objects():
    boxes = torch.tensor([[2.0, 3.0, 12.0, 20.0], [10.0, 8.0, 30.0, 28.0]])
    masks = torch.zeros(2, SIZE, SIZE, dtype=torch.uint8)
    masks[0, 3:20, 2:12], masks[1, 8:28, 10:30] = 1, 1
    return [
        {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(SIZE, SIZE)),
            "labels": torch.tensor([0, 2]),
            "masks": tv_tensors.Mask(masks),
        }
        for _ in range(COUNT)
    ]


TARGETS = {
    "classes": lambda: [0, 2, 1, 0],
    "numbers": lambda: [0.5, -1.25, 2.0, 0.0],
    "masks": _maps,
    "boxes": _objects,
    "instances": _objects,
}
"""Four targets of each kind of data."""


@dataclass(frozen=True)
class Data:
    """What a task asks of data."""

    kind: str
    classes: tuple[str, ...] = ("ash", "birch", "cedar")
    shape: tuple[int, int] = (SIZE, SIZE)


def made(name):
    """The task, its head, the model with it, and a batch."""
    task = TASKS[name]()
    head = task.head(Data(task.targets), 3)
    model = tiny.vit().eval().requires_grad_(False)
    model = task.attach_(model, head)
    pictures = torch.randn(COUNT, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    images, targets = task.collate(list(pictures), TARGETS[task.targets]())
    return task, head, model.eval(), images, targets


@EACH
def test_a_row_is_a_task_by_its_name(name):
    task = TASKS[name]()
    assert is_dataclass(task) and task.kind == name and task.targets in KINDS
    assert isinstance(task.groups, bool) and isinstance(task.larger, bool) and task.metric.isidentifier()
    adapter = TypeAdapter(type(task))
    assert adapter.validate_json(adapter.dump_json(task)) == task
    assert hash(task) == hash(TASKS[name]())
    assert type(task_for("", name)) is type(task_for(task.targets, name)) is TASKS[name]


def test_data_say_which_task_they_are_for_and_a_wrong_word_names_the_nearest():
    for name, task in TASKS.items():
        first = next(other for other in TASKS if TASKS[other].targets == task.targets)
        assert task_for(task.targets).kind == first
        with pytest.raises(UsageError, match=f"`--task` knows no `{name}q`") as caught:
            task_for("", f"{name}q")
        assert f"`{name}`" in caught.value.hint


def test_heads_tell_tasks_apart():
    heads = [task().head(Data(task.targets), 0) for task in TASKS.values()]
    assert len({head.kind for head in heads}) == len({type(head) for head in heads}) == len(TASKS)


@EACH
def test_a_head_survives_json_in_a_spec_and_names_its_task(name):
    task = TASKS[name]()
    head = task.head(Data(task.targets), 3)
    spec = Spec(BackboneRef("tailor_mini_ti", "random"), head, Preprocessing((SIZE, SIZE)))
    again = SPEC.validate_json(SPEC.dump_json(spec))
    assert again == spec and type(again.head) is type(head) is task.head_type
    assert task_of(again.head).kind == task_of_kind(head.kind).kind == name
    assert head.seed == 3 and isinstance(head.classes, tuple)


@EACH
def test_the_input_is_of_whole_pixels_and_follows_what_was_asked(name):
    task = TASKS[name]()
    head = task.head(Data(task.targets, shape=(40, 60)), 3)
    for asked in (None, 48):
        size = task.size(head, (64, 64) if asked is None else (asked, asked), asked)
        assert len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)
        assert asked is None or min(size) >= asked  # a decoder may need a multiple


@EACH
def test_the_same_seed_gives_the_same_head(name):
    _, _, first, *_ = made(name)
    _, _, second, *_ = made(name)
    a, b = first.state_dict(), second.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert any(p.requires_grad for p in first.parameters()), "a fresh head trains"


@EACH
def test_the_loss_is_one_a_sample_and_does_not_see_its_neighbours(name):
    task, _, model, images, targets = made(name)
    whole = task.loss(model(images), targets)
    assert whole.shape == (COUNT,) and torch.isfinite(whole).all() and (whole >= 0).all()
    parts = [task.loss(model(images[at : at + 2]), targets[at : at + 2]) for at in (0, 2)]
    again = task.loss(model(images), targets)  # it may be measured at points that are drawn
    torch.testing.assert_close(
        torch.cat(parts), whole, rtol=1e-4, atol=1e-5 + 5 * float((again - whole).detach().abs().max())
    )
    whole.sum().backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in model.parameters())


@EACH
def test_a_share_weighs_what_its_parts_weigh(name):
    task, _, _, _, targets = made(name)
    whole = task.weight(targets)
    assert isinstance(whole, int) and whole > 0
    assert task.weight(targets[:1]) + task.weight(targets[1:]) == whole
    assert task.weight(targets[:0]) == 0


@EACH
@torch.no_grad()
def test_figures_lead_with_the_metric_and_do_not_depend_on_batches(name):
    task, head, model, images, targets = made(name)
    found = []
    for size in (COUNT, 1, 3):
        metrics = task.metrics(head)
        for at in range(0, COUNT, size):
            task.update_(metrics, model(images[at : at + size]), targets[at : at + size])
        found.append(task.figures(metrics.compute(), head))
    assert next(iter(found[0])) == task.metric and isinstance(found[0][task.metric], float)
    assert json.loads(json.dumps(found[0]))[task.metric] == found[0][task.metric]
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        assert other[task.metric] == pytest.approx(found[0][task.metric], rel=1e-4, abs=1e-6)


@EACH
@torch.no_grad()
def test_an_answer_a_sample_in_plain_values(name):
    task, head, model, images, _ = made(name)
    found = task.decode(model(images), head, 2)
    assert len(found) == COUNT
    for one, image in zip(found, images, strict=True):
        assert one and all(isinstance(key, str) for key in one)
        assert json.loads(json.dumps(one)).keys() == one.keys() == found[0].keys()
        alone = task.decode(model(image[None]), head, 2)[0]
        assert alone.keys() == one.keys()


@EACH
def test_nothing_but_the_head_is_touched(name):
    plain = tiny.vit().eval()
    before = {key: value.clone() for key, value in plain.state_dict().items() if not key.startswith("head")}
    _, _, model, *_ = made(name)
    now = model.state_dict()
    kept = [key for key in before if key in now]
    assert len(kept) > 30 and all(torch.equal(now[key], before[key]) for key in kept)
    assert isinstance(model, nn.Module)
