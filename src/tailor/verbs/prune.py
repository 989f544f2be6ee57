"""`tailor prune BUNDLE|NAME`: decide what the task does not need, remove it, retrain if asked, write a bundle."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tailor import bundle
from tailor.bundle.plan_file import PLAN, read_plan, write_plan
from tailor.data.images import ImageData
from tailor.errors import UsageError
from tailor.measure import count
from tailor.measure.speed import no_gain, throughput
from tailor.pruning.layers import LayerPlan
from tailor.spec import Spec
from tailor.tracing import WidthPlan
from tailor.training import processes_here, retraining
from tailor.verbs import stepwise
from tailor.verbs.beside import Adapters
from tailor.verbs.dense import Dense, counted, deployed, from_bundle, from_name, merged, smaller, thawed
from tailor.verbs.events import Event, Report, silent
from tailor.verbs.images import Corrupt, divided, open_checked, reported, score
from tailor.verbs.narrow import Goal, narrower
from tailor.verbs.order import Order, Pruned, Retrain, Trains, finished, trains
from tailor.verbs.shorten import shorter
from tailor.verbs.subject import is_bundle
from tailor.verbs.teach import guide
from tailor.verbs.train import Planned, bundle_bytes, provenance, ready, recipe_of, train_

_CUT: TypeAdapter[WidthPlan] = TypeAdapter(WidthPlan)
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
    classifier: str | None = None,
    report: Report = silent,
) -> Pruned:
    """Make an adapted bundle (or a backbone by name) smaller, and write an ordinary bundle.

    `sls` drops the blocks after which the classes of `data` separate no better than `alpha` times as well as at the
    end. `isomorphic`, `depgraph`, `uniform` and `random` cut widths, those whose units score lowest by `criterion`: to
    a target that may remain (`macs`, `params`, `latency`), or by shares that go (one `ratio`, or `emb`, `heads`, `dim`,
    `mlp`), with the settings `widths`; `adapters` says whether the tunes are merged first, kept, or pruned too.
    Both decide on `samples` images, without training. `retrain` trains the tunes or everything (`train`): `1clr` the
    full schedule again, `ft` at a constant 1e-5, `tfs` from fresh ones; from a `teacher` too: the logits of a bundle of
    the same classes or of any backbone with as many, and by the recipe's `distil` the features of what the model was
    cut from. With `steps` widths go a part at a time, with `recover` epochs of training between. A backbone by name
    gets a fresh classifier, or keeps its `own`. UsageError for what would be ignored.
    """
    order = Order(
        name=name,
        folder=Path(out),
        method=method,
        data=data,
        alpha=alpha,
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
    )
    between = stepwise.check(order, steps, recover)
    if train and retrain == "none" and (steps == 1 or not between):
        raise UsageError(f"nothing is trained, and `--train {train}` says what", hint="add `--retrain 1clr`")
    if resume and (order.folder / bundle.MANIFEST).is_file():
        report(Event("done", text=f"`{order.folder}` is finished already"))
        return finished(order.folder)
    if steps == 1:
        return _once(order)
    return stepwise.in_steps(order, steps, between, _ready_to_cut(_open(order)[1], order), _once)


def _once(order: Order, against: Dense | None = None) -> Pruned:
    """One pruning: decide, cut, compare with what it was (or with `against`), retrain, write."""
    started = time.monotonic()
    folder, report = order.folder, order.report
    if order.resume and (folder / bundle.MANIFEST).is_file():
        return finished(folder)
    images, opened = _open(order)
    learnt = guide(order.teacher, opened.spec.head.classes) if order.retrain != "none" else None
    dense = _ready_to_cut(opened, order)
    ready(folder, order.overwrite, order.resume)
    if order.resume and (folder / PLAN).is_file():
        spec, cut, found = _decided(folder)
    else:
        spec, cut, why = _decide(dense, images, order)
        said: dict[str, Any] = {"method": order.method, "retrain": order.retrain, "reason": why}
        said |= {"adapters": order.adapters if order.narrows else "", "train": order.train}
        found = replace(_compare(dense, spec, cut, images, folder, report, against), **said)
        found = replace(found, seconds=round(time.monotonic() - started, 2))
        if processes_here().is_main_process:
            _note(folder, spec, cut, order, found)
    planned = smaller(dense, spec, cut, fresh=order.retrain == "tfs")
    spec = counted(spec, planned)
    facts = {k: v for k, v in asdict(found).items() if k not in ("bundle", "bundle_bytes") and v != ""}
    if order.retrain == "none" or images is None:
        _write(order, spec, planned, {**facts, "accuracy": found.accuracy_after})
    else:
        trained = train_(
            planned,
            spec,
            images,
            retraining(order.recipe, order.retrain),
            folder,
            resume=order.resume,
            report=report,
            teacher=learnt,
            source=str(order.data),
            workers=order.workers,
            known=facts,
        )
        found = replace(found, accuracy_after=trained.accuracy)
    return replace(found, bundle_bytes=bundle_bytes(folder), seconds=round(time.monotonic() - started, 2))


def _ready_to_cut(dense: Dense, order: Order) -> Dense:
    """The model with what is to train afterwards, its tunes folded in where they are not to stay."""
    if order.narrows and order.adapters == "merge":
        return merged(dense, order.train)
    return thawed(dense) if order.train == "full" else dense


def _decide(dense: Dense, images: ImageData | None, order: Order) -> tuple[Spec, WidthPlan | None, str]:
    """The spec of the smaller model, the cut of widths in the dense model's names, and why it is that."""
    seed, report = order.recipe.seed, order.report
    if order.narrows:
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
        )
    assert images is not None
    spec = shorter(dense, images, order.sls, order.samples, order.folder, report, seed)
    return spec, None, str(spec.pruning[-1].facts["reason"])  # type: ignore[union-attr]  # it is a layer plan


def _note(folder: Path, spec: Spec, cut: WidthPlan | None, order: Order, found: Pruned) -> None:
    """Write down what was decided, so that a resumed run need not decide again."""
    said: dict[str, Any] = {"data": order.data, "method": order.method, "retrain": order.retrain}
    if cut is not None and spec.plans[-1] != cut:
        said["cut"] = _CUT.dump_python(cut, mode="json")
    write_plan(folder, spec, {**said, "found": asdict(found)})


def _decided(folder: Path) -> tuple[Spec, WidthPlan | None, Pruned]:
    """What an interrupted run had decided."""
    file = read_plan(folder)
    last = file.spec.plans[-1]
    cut = last if isinstance(last, WidthPlan) else None
    if "cut" in file.settings:
        cut = _CUT.validate_json(json.dumps(file.settings["cut"]))  # by JSON's rules: lists stand for tuples
    return file.spec, cut, Pruned(**{**file.settings["found"], "bundle": str(folder)})


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
    start: Dense,
    spec: Spec,
    gone: WidthPlan | None,
    images: ImageData | None,
    folder: Path,
    report: Report,
    against: Dense | None,
) -> Pruned:
    """Dense and cut model side by side, before any retraining: counts, accuracy, and speed in turns."""
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
    blocks = len(dense.anatomy.blocks)
    plan = spec.plans[-1]
    macs = {name: count.macs(model, size) for name, model in models.items()}
    return Pruned(
        bundle=str(folder),
        method="",
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
        retrain="none",
        throughput_ratio=round(timed.ratios["pruned"].median, 3),
        throughput_seconds=round(timed.seconds, 1),
        seconds=0.0,
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
