import json
import os
import resource
import shutil
import sys
from dataclasses import replace

import pytest
import torch
import toys
from torch import nn

from tailor.errors import TrainingError
from tailor.training import Recipe, checkpoint, fit, update
from tailor.training.checkpoint import load_optimizer_, optimizer_tensors
from tailor.training.optimizer import make_optimizer

RECIPE = Recipe(epochs=4, batch_size=16, lr=0.02)


def run(folder, recipe=RECIPE, model=None, **more):
    data, model = toys.Data(), model or toys.model()
    settings = {"batches": data, "steps_per_epoch": data.steps, "run": folder, **more}
    settings.setdefault("validate", toys.validator(data))
    return model, fit(model, recipe, toys.TASK, **settings)


class Fail(Exception):
    """Ends a run from within."""


def stopped(folder, at, recipe=RECIPE):
    """A run that ends abruptly after update `at`."""

    def report(progress):
        if progress.update == at:
            raise Fail

    with pytest.raises(Fail):
        run(folder, recipe, report=report)
    return folder


def test_the_newest_two_are_kept_and_the_best_they_name(tmp_path):
    scores = iter([0.5, 0.9, 0.1, 0.2])
    run(tmp_path, validate=lambda _: {"accuracy": next(scores)})
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    steps = {f"step-{update:08d}.{end}" for update in (12, 16) for end in ("json", "safetensors")}
    assert names == steps | {"best-00000008.safetensors"}


def test_a_run_without_resume_starts_afresh(tmp_path):
    run(tmp_path)
    _, result = run(tmp_path, replace(RECIPE, epochs=1))
    assert result.stopped == "finished" and len(result.epochs) == 1
    assert {p.name[:13] for p in (tmp_path / "checkpoints").iterdir()} == {"step-00000004", "best-00000004"}


def test_resuming_nothing_starts_and_resuming_a_finished_run_returns_it(tmp_path):
    for recipe in (RECIPE, replace(RECIPE, ema=0.9, select="last")):
        folder = tmp_path / recipe.select
        model, first = run(folder, recipe, resume=True)
        log = (folder / "metrics.jsonl").read_bytes()
        again, second = run(folder, recipe, resume=True, batches=None)
        assert (first.stopped, second.stopped) == ("finished", "already finished")
        assert toys.equal(toys.everything(model), toys.everything(again))
        assert replace(second, stopped="finished", seconds=0) == replace(first, seconds=0)
        assert (folder / "metrics.jsonl").read_bytes() == log


@pytest.mark.parametrize("damage", ["state cut", "state empty", "tensors flipped", "tensors gone", "best flipped"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, damage):
    expected, _ = run(tmp_path / "whole")
    folder = stopped(tmp_path / "a", at=11) / "checkpoints"
    newest, best = sorted(folder.glob("step-*.json"))[-1], sorted(folder.glob("best-*"))[-1]
    tensors = newest.with_suffix(".safetensors")
    if damage.startswith("state"):
        newest.write_text(newest.read_text()[: 40 if "cut" in damage else 0])
    elif damage == "tensors gone":
        tensors.unlink()
    else:
        path = best if "best" in damage else tensors
        content = bytearray(path.read_bytes())
        content[-3] ^= 4
        path.write_bytes(content)
    model, result = run(tmp_path / "a", resume=True)
    assert toys.equal(toys.everything(model), toys.everything(expected)) and len(result.epochs) == 4
    assert (tmp_path / "a/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()


def test_when_none_is_whole_nothing_is_overwritten(tmp_path):
    folder = stopped(tmp_path, at=11) / "checkpoints"
    for path in folder.glob("step-*.json"):
        path.write_text("{}")
    with pytest.raises(TrainingError, match=r"no checkpoint in .* is whole: 2 found") as caught:
        run(tmp_path, resume=True)
    assert "--overwrite" in caught.value.hint
    assert len(list(folder.glob("step-*.json"))) == 2


@pytest.mark.parametrize(
    ("named", "change"),
    [
        ("lr", {"recipe": replace(RECIPE, lr=0.01)}),
        ("epochs", {"recipe": replace(RECIPE, epochs=9)}),
        ("seed", {"seed": 3}),
        ("7.weight", {"model": nn.Sequential(*toys.model()[:7], nn.Linear(12, toys.CLASSES + 1))}),
        ("7.bias", {"model": nn.Sequential(*toys.model()[:7], nn.Linear(12, toys.CLASSES, bias=False))}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_checkpoint_of_another_run_is_refused_by_name(tmp_path, named, change):
    run(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    with pytest.raises(TrainingError, match=f"another run: its `{named}` is"):
        run(tmp_path, resume=True, **change)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_how_often_to_checkpoint_may_change(tmp_path):
    folder = stopped(tmp_path, at=7)
    _, result = run(folder, replace(RECIPE, checkpoint_every=2, checkpoint_steps=1), resume=True)
    assert len(result.epochs) == 4


def test_a_state_cannot_point_out_of_its_folder(tmp_path):
    folder = stopped(tmp_path, at=7) / "checkpoints"
    path = next(folder.glob("step-*.json"))
    state = json.loads(path.read_text())
    elsewhere = shutil.move(folder / state["files"][0]["file"], tmp_path / "elsewhere.safetensors")
    state["files"][0]["file"] = f"../{elsewhere.name}"
    path.write_text(json.dumps(state))
    with pytest.raises(TrainingError, match="is whole"):
        checkpoint.read(folder)


def test_no_room_is_found_before_training(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(TrainingError, match="0 MB left, the checkpoints of this run need"):
        run(tmp_path, batches=None)
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other limits")
def test_a_quota_is_found_before_training(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(TrainingError, match=r"cannot be written .*File too large"):
            run(tmp_path, batches=None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_place_that_is_no_folder_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"cannot be written to .*file.*: Not a directory") as caught:
        run(tmp_path / "file" / "run", batches=None)
    assert "-o" in caught.value.hint


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_disk_that_fills_later_is_a_sentence_and_leaves_the_last_checkpoint(tmp_path, monkeypatch, call):
    expected, _ = run(tmp_path / "whole")
    real = getattr(os, call)

    def report(progress):
        if progress.update == 10:
            monkeypatch.setattr(os, call, full)

    def full(*_):
        raise OSError(28, "No space left on device")

    with pytest.raises(TrainingError, match="No space left on device"):
        run(tmp_path / "a", report=report)
    assert not list((tmp_path / "a").rglob("*.tmp"))
    monkeypatch.setattr(os, call, real)
    model, _ = run(tmp_path / "a", resume=True)
    assert toys.equal(toys.everything(model), toys.everything(expected))


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion", "lamb", "adan", "nadamw", "radam", "adafactor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_optimiser_goes_on_bit_for_bit(tmp_path, name, dtype):
    def begin():
        generator = torch.Generator().manual_seed(0)
        parameters = [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in ((4, 3), (5,))]
        return parameters, make_optimizer(Recipe(optimizer=name, lr=0.01), [{"params": parameters}])

    def step(parameters, optimizer, number):
        for parameter in parameters:
            parameter.grad = torch.sin(parameter.detach() * 3 + number)
        optimizer.step()

    parameters, optimizer = begin()
    for number in range(3):
        step(parameters, optimizer, number)
    tensors, plain = optimizer_tensors(optimizer)
    tensors = {key: tensor.clone() for key, tensor in tensors.items()}
    checkpoint.write(tmp_path, 3, {"none": torch.zeros(0), **tensors}, json.loads(json.dumps({"plain": plain})), None)
    found = checkpoint.read(tmp_path)
    others, another = begin()
    for mine, other in zip(parameters, others, strict=True):
        other.data.copy_(mine)
    read = {key.removeprefix("optimizer/"): t for key, t in found.tensors.items() if key.startswith("optimizer/")}
    load_optimizer_(another, read, found.state["plain"])
    for number in range(3, 8):
        step(parameters, optimizer, number)
        step(others, another, number)
    assert all(torch.equal(mine, other) for mine, other in zip(parameters, others, strict=True))


class Lists(torch.optim.SGD):
    """An optimiser that keeps what no tensor file holds."""

    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["history"] = [parameter.grad]
        return super().step(closure)


def test_an_optimiser_with_other_state_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(update, "make_optimizer", lambda _, groups: Lists(groups, lr=0.1))
    told = []
    with pytest.raises(TrainingError, match="Lists keeps `history` as list, which a checkpoint cannot hold"):
        run(tmp_path, report=told.append)
    assert not told
