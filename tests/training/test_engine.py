import json
import math
import os
import signal
import threading
from dataclasses import replace

import pytest
import timm
import torch
import toys
from torch import nn

from tailor.errors import TrainingError
from tailor.surgery import trainable
from tailor.tasks.classification import Classification
from tailor.tasks.regression import Regression
from tailor.training import Interrupted, Recipe, Teacher, fit

RECIPE = Recipe(epochs=4, batch_size=16, lr=0.02, select="last")


def run(folder, model=None, recipe=RECIPE, data=None, **more):
    model, data = model or toys.model(), data or toys.Data()
    settings = {"batches": data, "steps_per_epoch": data.steps, "run": folder, **more}
    return model, fit(model, recipe, toys.TASK, **settings)


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_training_learns_and_says_so(tmp_path):
    data, seen = toys.Data(), []
    _, result = run(
        tmp_path, data=data, validate=toys.validator(data), report=seen.append, recipe=replace(RECIPE, epochs=25)
    )
    losses = [row["loss"] for row in result.epochs]
    assert losses[-1] < 0.8 * losses[0] and result.metrics["accuracy"] > 0.6
    assert (result.chosen, result.images, result.stopped) == (25, 25 * data.count, "finished")
    assert rows(tmp_path) == list(result.epochs)
    assert [p.update for p in seen] == list(range(1, 25 * data.steps + 1)) and seen[-1].updates == seen[-1].update
    assert [p.epoch for p in seen] == sorted(p.epoch for p in seen) and seen[-1].seconds_left == 0
    assert all(p.images_per_second > 0 and p.seconds_left >= 0 for p in seen)
    assert max(p.lr for p in seen) == pytest.approx(0.02)


def by_hand(model, recipe, data):
    """An independent, plain loop: AdamW without decay on 1-D tensors, the loss averaged over the whole batch."""
    matrices = [p for p in trainable(model).values() if p.ndim > 1]
    others = [p for p in trainable(model).values() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr)
    model.train()
    for epoch in range(recipe.epochs):
        for batch in data(epoch):
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch.images), batch.targets).backward()
            optimizer.step()
            for module in model.modules():
                if isinstance(module, toys.Delta):
                    module.write_through_()
    return model


def test_the_loop_is_a_plain_loop(tmp_path):
    recipe = replace(RECIPE, schedule="constant", warmup_epochs=0.0, weight_decay=0.1)
    model, _ = run(tmp_path, toys.model(dropout=0.0, norm=False), recipe)
    expected = by_hand(toys.model(dropout=0.0, norm=False), recipe, toys.Data())
    assert toys.furthest(toys.everything(model), toys.everything(expected)) < 1e-6


def test_only_what_trains_changes_and_the_deltas_are_in_the_weights(tmp_path):
    model = toys.model()
    before, training = toys.everything(model), [m.training for m in model.modules()]
    run(tmp_path, model)
    after = toys.everything(model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    statistics = {f"1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert moved == {*trainable(model), *statistics, "5.weight"}  # not those of batch norm 3, which is frozen
    delta = model[5]
    assert torch.equal(delta.weight.flatten()[delta.where], delta.start + delta.delta)
    assert [m.training for m in model.modules()] == training


@pytest.mark.parametrize("mode", [True, False])
def test_modules_keep_the_mode_they_had(tmp_path, mode):
    model = toys.model().train(mode)
    run(tmp_path, model, validate=lambda m: {"in training": float(m.training)})
    assert all(m.training is mode for m in model.modules())
    assert {row["in training"] for row in rows(tmp_path)} == {0.0}


def test_the_same_seed_gives_the_same_run_and_leaves_the_callers_generator(tmp_path):
    ends = []
    for number, seed in enumerate((5, 5, 6)):
        torch.manual_seed(number)
        before = torch.get_rng_state()
        model, _ = run(tmp_path / str(number), recipe=replace(RECIPE, mixup=0.2), seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        ends.append(toys.everything(model))
    assert toys.equal(ends[0], ends[1]) and not toys.equal(ends[0], ends[2])


@pytest.mark.parametrize("accumulate", [2, 3, 5, 16])
def test_accumulation_does_not_change_the_gradient(tmp_path, accumulate):
    recipe = replace(RECIPE, clip_norm=0.5, mixup=0.3, label_smoothing=0.1, optimizer="sgd", lr=0.05)
    ends = []
    for parts in (1, accumulate):
        model = toys.model(dropout=0.0, norm=False).double()
        run(tmp_path / str(parts), model, replace(recipe, accumulate=parts))
        ends.append(toys.everything(model))
    assert toys.furthest(*ends) < 1e-12


def test_clipping_bounds_the_gradient(tmp_path):
    recipe = replace(RECIPE, optimizer="momentum", momentum=0.0, lr=1.0, schedule="constant", weight_decay=0.0)
    recipe = replace(recipe, epochs=1, warmup_epochs=0.0, clip_norm=1e-3)
    model = toys.model(dropout=0.0, norm=False)
    before = {name: p.detach().clone() for name, p in trainable(model).items()}
    run(tmp_path, model, recipe, toys.Data(batch_size=50))
    moved = math.sqrt(sum(float(((p.detach() - before[name]) ** 2).sum()) for name, p in trainable(model).items()))
    assert moved == pytest.approx(1e-3, rel=1e-3)


def test_bf16_learns_and_keeps_its_weights_in_fp32(tmp_path):
    model, result = run(tmp_path, recipe=replace(RECIPE, precision="bf16", epochs=25))
    assert result.epochs[-1]["loss"] < 0.8 * result.epochs[0]["loss"]
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_fp16_without_a_gpu_is_refused(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(TrainingError, match="`precision: fp16` needs a GPU"):
        run(tmp_path, recipe=replace(RECIPE, precision="fp16"))
    assert not list(tmp_path.iterdir())


def test_the_average_is_validated_and_handed_over(tmp_path):
    data, states = toys.Data(), []

    def validate(model):
        states.append(toys.everything(model))
        return {"accuracy": 0.0}

    model, _ = run(tmp_path / "a", recipe=replace(RECIPE, ema=0.9), data=data, validate=validate)
    plain, _ = run(tmp_path / "b", recipe=RECIPE, data=data)
    assert toys.equal(states[-1], toys.everything(model))
    assert not torch.equal(model[7].weight, plain[7].weight)
    # The average does not steer: undone, the run is the plain one. The frozen weight holds the averaged delta.
    assert torch.equal(model[1].running_mean, plain[1].running_mean)
    assert torch.equal(model[5].weight.flatten()[model[5].where], model[5].start + model[5].delta)


@pytest.mark.parametrize("select", ["best", "last"])
def test_selection_takes_the_best_epoch_or_the_last(tmp_path, select):
    states, scores = [], iter([0.3, 0.7, 0.7, 0.1])

    def validate(model):
        states.append(toys.everything(model))
        return {"score": next(scores), "loss": 100.0}  # the first is what counts

    model, result = run(tmp_path, recipe=replace(RECIPE, select=select), validate=validate)
    assert result.chosen == {"best": 2, "last": 4}[select]
    assert toys.equal(toys.everything(model), states[result.chosen - 1])


def test_validation_comes_when_due_and_at_the_end(tmp_path):
    run(tmp_path, recipe=replace(RECIPE, epochs=5, evaluate_every=2), validate=lambda _: {"accuracy": 1.0})
    assert [row["epoch"] for row in rows(tmp_path) if "accuracy" in row] == [2, 4, 5]


def test_a_method_brings_its_own_step_groups_and_callback(tmp_path):
    model, updates, sizes = toys.model(), [], []

    def step(given, share):
        sizes.append(len(share))
        return share.loss(toys.TASK, given(share.images))

    slow = {"params": [model[7].weight], "lr_scale": 0.0, "weight_decay": 0.0}
    fast = {"params": [model[7].bias]}
    before = toys.everything(model)
    run(tmp_path, model, replace(RECIPE, epochs=1), step=step, groups=[slow, fast], before=updates.append)
    assert updates == [0, 1, 2, 3] and sizes == [16, 16, 16, 2]
    after = toys.everything(model)
    assert torch.equal(before["7.weight"], after["7.weight"]) and not torch.equal(before["7.bias"], after["7.bias"])


def test_a_loss_that_is_not_finite_names_the_images_and_changes_nothing(tmp_path):
    data, model = toys.Data(), toys.model(norm=False)
    data.images[7] = math.nan
    bad = next(k for k, batch in enumerate(data(0)) if 7 in batch.indices)
    before = toys.everything(model)
    with pytest.raises(TrainingError, match=f"the loss is nan at update {bad + 1} .*epoch 1.*png") as caught:
        run(tmp_path, model, data=data)
    assert "007.png" in caught.value.message or "more" in caught.value.message
    if bad == 0:
        assert toys.equal(before, toys.everything(model))
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert rows(tmp_path) == [] and not list((tmp_path / "checkpoints").iterdir())


def test_a_gradient_that_is_not_finite_stops_too(tmp_path):
    def step(model, share):
        return (model(share.images) * 0).abs().sqrt().sum()  # 0, with an infinite slope

    with pytest.raises(TrainingError, match="the gradient is nan at update 1"):
        run(tmp_path, step=step)


def test_a_model_in_which_nothing_trains_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="no tensor of the model trains"):
        run(tmp_path, toys.model().requires_grad_(False))
    assert not list(tmp_path.iterdir())


def test_a_factory_that_gives_too_few_batches_is_named(tmp_path):
    with pytest.raises(TrainingError, match="gave 4 batches in epoch 1, 6 were expected"):
        run(tmp_path, steps_per_epoch=6)


def test_a_batch_without_images_is_passed_over(tmp_path):
    data = toys.Data()

    def holes(epoch, start=0, process=0, processes=1):
        for number, batch in enumerate(data(epoch, start), start):
            yield data.take(torch.arange(0)) if number == 1 else batch

    _, result = run(tmp_path, data=data, batches=holes)
    assert result.images == RECIPE.epochs * (data.count - 16)


def test_a_teacher_teaches(tmp_path):
    teacher = toys.model(dropout=0.0, seed=9)
    before = toys.everything(teacher)
    wanted = [teacher.eval()(batch.images).argmax(dim=1) for batch in toys.Data().everything()]
    teacher.train()
    recipe = replace(RECIPE, epochs=20, distil=replace(RECIPE.distil, weight=1.0))
    model, _ = run(tmp_path, toys.model(dropout=0.0), recipe, teacher=Teacher(teacher))
    found = [model.eval()(batch.images).argmax(dim=1) for batch in toys.Data().everything()]
    assert (torch.cat(wanted) == torch.cat(found)).float().mean() > 0.85
    assert toys.equal(before, toys.everything(teacher)) and teacher.training


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_update_and_the_run_goes_on_later(tmp_path, number):
    data, model = toys.Data(), toys.model()

    def report(progress):
        if progress.update == 6:
            os.kill(os.getpid(), number)

    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted, match="after update 7 of 16") as caught:  # told after 6, and 7 is whole
        run(tmp_path / "a", model, data=data, report=report, validate=toys.validator(data))
    assert "--resume" in caught.value.hint
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    resumed, result = run(tmp_path / "a", data=data, validate=toys.validator(data), resume=True)
    whole, expected = run(tmp_path / "b", data=data, validate=toys.validator(data))
    assert toys.equal(toys.everything(resumed), toys.everything(whole))
    assert result.epochs == expected.epochs and result.images == expected.images
    assert (tmp_path / "a" / "metrics.jsonl").read_bytes() == (tmp_path / "b" / "metrics.jsonl").read_bytes()


def test_a_second_ctrl_c_does_not_wait(tmp_path):
    def validate(_):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("went on")

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, validate=validate)


def test_a_run_works_outside_the_main_thread(tmp_path):
    ends = []
    thread = threading.Thread(target=lambda: ends.append(run(tmp_path)[1].stopped))
    thread.start()
    thread.join()
    assert ends == ["finished"]


def test_a_timm_transformer_trains(tmp_path):
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=toys.SIZE, patch_size=2, depth=2, embed_dim=24, num_heads=2, num_classes=3
    )
    _, result = run(tmp_path, model, replace(RECIPE, epochs=12, lr=3e-3))
    assert result.epochs[-1]["loss"] < 0.9 * result.epochs[0]["loss"]


def test_of_a_task_whose_metric_is_an_error_the_smallest_is_the_best(tmp_path):
    states, scores = [], iter([0.7, 0.1, 0.1, 0.3])

    def validate(model):
        states.append(toys.everything(model))
        return {"rmse": next(scores)}

    data = toys.Data()
    data.labels = data.images.mean(dim=(1, 2, 3))
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * toys.SIZE**2, 1))
    recipe = replace(RECIPE, select="best")
    result = fit(model, recipe, Regression(), batches=data, steps_per_epoch=data.steps, run=tmp_path, validate=validate)
    assert result.chosen == 2 and result.metrics["rmse"] == 0.1
    assert toys.equal(toys.everything(model), states[1])
    assert result.epochs[-1]["loss"] < result.epochs[0]["loss"]


class Counted(Classification):
    """Classification that counts only images of the first two classes."""

    def loss(self, output, targets):
        return super().loss(output, targets) * (targets < 2)

    def weight(self, targets):
        return int((targets < 2).sum())


@pytest.mark.parametrize("accumulate", [2, 5, 16])
def test_a_share_counts_for_what_its_task_weighs(tmp_path, accumulate):
    ends, rows_found = [], []
    for parts in (1, accumulate):
        model, data = toys.model(dropout=0.0, norm=False).double(), toys.Data()
        recipe = replace(RECIPE, accumulate=parts, optimizer="sgd", lr=0.05)
        result = fit(model, recipe, Counted(), batches=data, steps_per_epoch=data.steps, run=tmp_path / str(parts))
        ends.append(toys.everything(model))
        rows_found.append(result.epochs[-1]["loss"])
    assert toys.furthest(*ends) < 1e-12
    assert rows_found[0] == pytest.approx(rows_found[1], rel=1e-9)
