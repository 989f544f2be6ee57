"""`tailor prune BUNDLE|NAME`: decide what the task does not need, remove it, retrain if asked, write a bundle."""

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tailor import bundle
from tailor.bundle.plan_file import PLAN
from tailor.data.images import ImageData
from tailor.errors import UsageError
from tailor.events import Event, Report, silent
from tailor.measure import count
from tailor.measure.speed import no_gain, throughput
from tailor.pruning.layers import LayerPlan
from tailor.pruning.target import NothingToGo
from tailor.spec import Spec
from tailor.tracing import WidthPlan
from tailor.training import processes_here, retraining
from tailor.verbs import stepwise
from tailor.verbs.beside import Adapters
from tailor.verbs.decided import Decided, check_asked, note, noted
from tailor.verbs.dense import Dense, counted, deployed, from_bundle, from_name, merged, smaller, thawed
from tailor.verbs.images import Corrupt, divided, open_checked, reported, score
from tailor.verbs.narrow import Goal, narrower
from tailor.verbs.order import Order, Retrain, Step, Trains, trains
from tailor.verbs.pruned import Pruned, finished, told
from tailor.verbs.shorten import shorter
from tailor.verbs.subject import is_bundle
from tailor.verbs.task import Run
from tailor.verbs.teach import guide
from tailor.verbs.train import Planned, bundle_bytes, provenance, ready, recipe_of, train_

SECONDS = 10.0
"""Within which the dense and the pruned model are timed in turns."""


def prune(
    name: str,
    *,
    method: str = "sls",
    data: str | None = None,
    alpha: float | None = None,
    criterion: str | None = None,
    macs: str | None = None,
    params: str | None = None,
    latency: str | None = None,
    ratio: str | None = None,
    emb: str | None = None,
    heads: str | None = None,
    dim: str | None = None,
    mlp: str | None = None,
    samples: int = 1000,
    adapters: Adapters = "merge",
    retrain: Retrain = "none",
    train: Trains | None = None,
    steps: int = 1,
    recover: int | None = None,
    out: str | Path = "runs/pruned",
    weights: str | None = None,
    image_size: int | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    teacher: str | None = None,
    corrupt: Corrupt = "skip",
    workers: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    seed: int = 0,
    recipe: Mapping[str, Any] | None = None,
    widths: Mapping[str, Any] | None = None,
    sls: Mapping[str, Any] | None = None,
    classifier: str | None = None,
    report: Report = silent,
) -> Pruned:
    """Make an adapted bundle (or a backbone by name) smaller, and write an ordinary bundle.

    `sls` drops the blocks after which the classes of `data` separate no better than `alpha` times as well as at the
    end, with the settings `sls`. `isomorphic`, `depgraph`, `uniform` and `random` cut widths, those whose units score
    lowest by `criterion`: to a target that may remain (`macs`, `params`, `latency`), or by shares that go (one `ratio`,
    or `emb`, `heads`, `dim`, `mlp`), with the settings `widths`; `adapters` says whether the tunes are merged first,
    kept, or pruned too. Both decide on `samples` images, without training. `retrain` trains the tunes or everything
    (`train`): `1clr` the full schedule again, `ft` at a constant 1e-5, `tfs` from fresh ones; from a `teacher` too: the
    logits of a bundle of the same classes or of any backbone with as many, and by the recipe's `distil` the features of
    what the model was cut from. With `steps` widths go a part at a time, with `recover` epochs of training between. A
    backbone by name gets a fresh classifier, or keeps its `own`. UsageError for what would be ignored.
    """
    order = Order(
        name=name,
        folder=Path(out),
        method=method,
        data=data,
        alpha=alpha,
        sls=sls,
        criterion=criterion,
        goal=Goal(ratio, emb, heads, dim, mlp, macs, params, latency),
        widths=widths,
        classifier=classifier or "fresh",
        samples=samples,
        adapters=adapters,
        retrain=retrain,
        train=trains(train, method, adapters),
        recipe=recipe_of(recipe, seed, epochs=epochs, lr=lr, batch_size=batch_size),
        weights=weights,
        image_size=image_size,
        teacher=teacher,
        corrupt=corrupt,
        workers=workers,
        resume=resume,
        overwrite=overwrite,
        report=report,
        recover=1 if recover is None else recover,
        step=Step(of=steps),
    )
    if recover is not None and steps == 1:
        raise UsageError(f"`--recover {recover}` trains between steps, and there is one", hint="add `--steps 3`")
    stepwise.check(order)
    if retrain == "none" and (steps == 1 or not order.recover):
        if train:
            raise UsageError(f"nothing is trained, and `--train {train}` says what", hint="add `--retrain 1clr`")
        flags = {"epochs": epochs, "lr": lr, "batch-size": batch_size, "teacher": teacher}
        idle = [f"`--{flag} {value}`" for flag, value in flags.items() if value is not None]
        if idle:  # no error: a configuration holds them too, and `--retrain none` takes its cut alone
            report(Event("warning", text=f"nothing is trained without `--retrain`: {', '.join(idle)} not used"))
    asked = order.asked
    if resume:
        check_asked(order.folder, asked)
    if resume and (order.folder / bundle.MANIFEST).is_file():
        report(Event("done", text=f"`{order.folder}` is finished already"))
        return finished(order.folder)
    if steps == 1:
        return _once(order, None, asked)
    return stepwise.in_steps(order, _ready_to_cut(_open(order)[1], order), partial(_once, asked=asked))


def _once(order: Order, against: Dense | None, asked: Mapping[str, Any]) -> Pruned:
    """One pruning: decide, cut, compare with what it was (or with `against`), retrain, write."""
    started = time.monotonic()
    folder, report = order.folder, order.report
    if order.resume and (folder / bundle.MANIFEST).is_file():
        return finished(folder)
    images, opened = _open(order)
    learnt = guide(order.teacher, opened.spec.head.classes) if order.retrain != "none" else None
    dense = _ready_to_cut(opened, order)
    decided = _decided(dense, images, order, against, asked, started)
    planned = smaller(dense, decided.spec, decided.cut, fresh=order.retrain == "tfs")
    spec, found = counted(decided.spec, planned), decided.found
    facts = {name: value for name, value in told(found).items() if name not in ("bundle", "bundle_bytes")}
    passed_over = order.narrows and decided.cut is None and order.step.number < order.step.of
    if order.retrain == "none" or images is None or passed_over:
        _write(order, spec, planned, {**facts, "accuracy": found.accuracy_after})
    else:
        recipe = retraining(order.recipe, order.retrain)
        run = Run(images, str(order.data), recipe, folder, report, learnt, order.workers, order.resume)
        trained = train_(planned, spec, run, facts)
        found = replace(found, accuracy_after=trained.accuracy)
    return replace(found, bundle_bytes=bundle_bytes(folder), seconds=round(time.monotonic() - started, 2))


def _decided(
    dense: Dense, images: ImageData | None, order: Order, against: Dense | None, asked: Mapping[str, Any], began: float
) -> Decided:
    """What is cut, decided now or by the run that is resumed, and what came of it before any retraining.

    Every process takes what the main one wrote: a device may add up scores in another order and choose otherwise.
    """
    folder, state = order.folder, processes_here()
    begun = order.resume and (folder / PLAN).is_file()  # looked up before any process may write it
    ready(folder, order.overwrite, order.resume)
    if not begun:
        spec, cut, why = _choose(dense, images, order)
        found = replace(
            _compare(dense, spec, cut, images, order, against),
            reason=why,
            adapters=order.adapters if order.narrows else "",
            train=order.train,
            steps=order.step.number,
        )
        if state.is_main_process:
            note(folder, Decided(spec, cut, replace(found, seconds=round(time.monotonic() - began, 2))), asked)
        state.wait_for_everyone()
    return noted(folder)


def _ready_to_cut(dense: Dense, order: Order) -> Dense:
    """The model with what is to train afterwards, its tunes folded in where they are not to stay."""
    if order.narrows and order.adapters == "merge":
        return merged(dense, order.train)
    return thawed(dense) if order.train == "full" else dense


def _choose(dense: Dense, images: ImageData | None, order: Order) -> tuple[Spec, WidthPlan | None, str]:
    """The spec of the smaller model, the cut of widths in the dense model's names, and why it is that."""
    seed, report = order.recipe.seed, order.report
    if not order.narrows:
        assert images is not None
        spec = shorter(dense, images, order.walk, order.samples, order.folder, report, seed)
        return spec, None, str(spec.pruning[-1].facts["reason"])  # type: ignore[union-attr]  # it is a layer plan
    try:
        return narrower(
            dense,
            images,
            order.method,
            order.criterion,
            order.goal,
            order.widths,
            order.samples,
            seed,
            report,
            order.adapters,
            order.step.whole,
        )
    except NothingToGo as nothing:
        if not order.step.may_be_empty:
            raise
        report(Event("widths", text=nothing.message))
        return dense.spec, None, nothing.message


def _open(order: Order) -> tuple[ImageData | None, Dense]:
    """The images, divided, with the bundle's classes, and the model."""
    name, data, seed, report = order.name, order.data, order.recipe.seed, order.report
    if is_bundle(name) or Path(name).is_dir():
        dense = from_bundle(name, order.weights)
        if not data:
            return None, dense
        classes = dense.spec.head.classes
        images = open_checked(data, seed=seed, corrupt=order.corrupt, report=report, classes=classes)
        return divided(images, seed, report), dense
    if not data:
        raise UsageError(f"`{name}` has no classes yet", hint="add `--data DATA`, or adapt it first")
    images = divided(open_checked(data, seed=seed, corrupt=order.corrupt, report=report), seed, report)
    own = order.classifier == "own"
    return images, from_name(name, order.weights or "pretrained", order.image_size, images, order.recipe, own)


def _compare(
    start: Dense, spec: Spec, gone: WidthPlan | None, images: ImageData | None, order: Order, against: Dense | None
) -> Pruned:
    """Dense and cut model side by side, before any retraining: counts, accuracy, and speed in turns."""
    report = order.report
    cut = smaller(start, spec, gone)
    dense = against or start
    pre = dense.spec.preprocessing
    split, before, after = "", float("nan"), float("nan")
    if images is not None:
        split, chosen = reported(images)
        before = score(dense.model, chosen, pre, report, f"scoring the dense model on {split}").accuracy
        after = score(cut.model, chosen, pre, report, f"scoring the pruned model on {split}").accuracy
    size = (3, *pre.size)
    models = {"dense": deployed(dense.model, dense.spec), "pruned": deployed(cut.model, spec)}
    report(Event("measuring", text=f"dense and pruned in turns, within {SECONDS:g} s"))
    timed = throughput(models, size, protocol="quick", seconds=SECONDS)
    waited = (
        {name: one.median for name, one in throughput(models, size, batch=1, seconds=SECONDS).timings.items()}
        if order.goal.latency
        else dict.fromkeys(models, math.nan)
    )
    blocks = len(dense.anatomy.blocks)
    plan = spec.plans[-1]
    macs = {name: count.macs(model, size) for name, model in models.items()}
    return Pruned(
        bundle=str(order.folder),
        method=order.method,
        kept_blocks=len(plan.kept) if isinstance(plan, LayerPlan) else blocks,
        blocks=blocks,
        macs_before=macs["dense"],
        macs_after=macs["pruned"],
        params_before=count.parameters(models["dense"]),
        params_after=count.parameters(models["pruned"]),
        accuracy_before=before,
        accuracy_cut=after,
        accuracy_after=after,
        split=split,
        retrain=order.retrain,
        throughput_ratio=round(timed.ratios["pruned"].median, 3),
        throughput_seconds=round(timed.seconds, 1),
        seconds=0.0,
        latency_ms_before=waited["dense"],
        latency_ms_after=waited["pruned"],
        warning=no_gain(macs["dense"], macs["pruned"], timed.ratios["pruned"].median),
    )


def _write(order: Order, spec: Spec, planned: Planned, metrics: Mapping[str, Any]) -> None:
    """Write the bundle of a model that was not retrained."""
    trained_with = ("epochs", "lr", "batch_size", "selected_on")  # nothing was trained
    facts = {k: v for k, v in provenance(order.data or "", order.recipe).items() if k not in trained_with}
    if processes_here().is_main_process:
        tensors = bundle.state(planned.model, planned.complete)
        bundle.write(order.folder, spec, tensors, complete=planned.complete, metrics=metrics, provenance=facts)
    processes_here().wait_for_everyone()
